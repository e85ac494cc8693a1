"""Writing so that it stays written: syncing files and folders, and what the system's refusals mean."""

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator
from typing import IO

from mlx_chandra.errors import DiskFullError, OutputError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_IN_UTF8_OR_CSV = re.compile("[\0\ud800-\udfff]")


def cleaned(text: str) -> str:
    """The text without what no UTF-8 file and no CSV reader takes: NULs and lone surrogates become U+FFFD."""
    return _NOT_IN_UTF8_OR_CSV.sub("\ufffd", text)


def sync_file(file: IO[bytes]) -> None:
    """Returns once the file's bytes are on the disk, also on macOS, where fsync alone stops at its cache."""
    full_sync: int | None = getattr(fcntl, "F_FULLFSYNC", None)
    if full_sync is not None:
        with contextlib.suppress(OSError):
            fcntl.fcntl(file.fileno(), full_sync)
            return
    os.fsync(file.fileno())


def sync_folder(folder: str) -> None:
    """Returns once the folder's names are on the disk, where the file system can promise that at all."""
    number = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(number)


@contextlib.contextmanager
def disk_trouble(path: str) -> Iterator[None]:
    """Raises DiskFullError or OutputError, naming `path`, for an OSError in its block."""
    try:
        yield
    except OSError as error:
        shown = cleaned(path)
        if error.errno in _FULL:
            raise DiskFullError(
                f"The disk that takes {shown} is full ({error.strerror}).",
                "What was written before is safe. Make room and run again with --resume.",
            ) from error
        remedy = "Check the folder and its rights."
        raise OutputError(f"{shown} can't be written: {error.strerror}.", remedy) from error
