"""Writing so that it stays written: syncing files and folders, and what the system's refusals mean."""

import contextlib
import errno
import fcntl
import hashlib
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


def write_all(file: IO[bytes], content: bytes) -> None:
    """Writes to an unbuffered file, which may take less than it is given at once."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def leads_to(path: str, file: int) -> bool:
    """Whether the name leads to this open file still: nobody took it away, or put another one there."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


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


def write_whole(path: str, content: bytes, tag: str) -> None:
    """Writes a file that is there whole or not at all, and returns once its bytes are on the disk.

    They go to a hidden file beside it that is then renamed; `tag` and the file's name give it its name, so
    that a killed run leaves at most what its continuation writes again. Its folder's names are the caller's
    to sync.

    Raises:
        OutputError: The file can't be written (DiskFullError: for want of room).
    """
    folder, name = os.path.split(path)
    digest = hashlib.sha256(os.fsencode(tag) + b"\0" + os.fsencode(name)).hexdigest()[:16]
    part = os.path.join(folder, f".ocr-{digest}.part")
    with disk_trouble(path):
        os.makedirs(folder, exist_ok=True)
        try:
            with open(part, "wb") as file:
                file.write(content)
                file.flush()
                sync_file(file)
            os.replace(part, path)
        except OSError:
            if os.path.lexists(part):
                os.unlink(part)
            raise


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
