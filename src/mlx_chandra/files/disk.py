"""Writes files that are there whole or not at all, and that stay after a power cut."""

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
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
PART_START, PART_END = ".ocr-", ".part"
"""What the names of unfinished files start and end with."""


def cleaned(text: str) -> str:
    """Return the text with U+FFFD for what no UTF-8 file and no CSV reader takes: NULs, lone surrogates."""
    return _NOT_IN_UTF8_OR_CSV.sub("\ufffd", text)


def sync_file(file: int) -> None:
    """Return once the file's bytes are on the disk, also on macOS, where fsync stops at the disk's cache."""
    full_sync: int | None = getattr(fcntl, "F_FULLFSYNC", None)
    if full_sync is not None:
        with contextlib.suppress(OSError):
            fcntl.fcntl(file, full_sync)
            return
    os.fsync(file)


def sync_folder(folder: str) -> None:
    """Return once the folder's names are on the disk, where the file system can promise that at all."""
    number = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(number)


@contextlib.contextmanager
def disk_errors(path: str) -> Iterator[None]:
    """Raise DiskFullError or OutputError, naming `path`, for an OSError in the block."""
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


@contextlib.contextmanager
def whole_file(path: str, tag: str = "") -> Iterator[IO[bytes]]:
    """Open a file to be written, which appears under its name when the block ends, and is gone if that fails.

    Its bytes go to a hidden file beside it, which is synced and renamed. `tag` and the file's name give that
    its name, so that a killed run leaves at most what the next one writes again. It never follows a link that
    lies there. The caller syncs the folder.

    Raises:
        OutputError: The file can't be written (DiskFullError: for want of room).
    """
    folder, name = os.path.split(path)
    digest = hashlib.sha256(os.fsencode(tag) + b"\0" + os.fsencode(name)).hexdigest()[:16]
    part = os.path.join(folder, f"{PART_START}{digest}{PART_END}")
    with disk_errors(path):
        os.makedirs(folder, exist_ok=True)
        try:
            with _new_file(part) as file:
                yield file
                file.flush()
                sync_file(file.fileno())
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise


def write_whole(path: str, content: bytes, tag: str = "") -> None:
    """Write a file with `whole_file`. Raises OutputError (DiskFullError: for want of room)."""
    with whole_file(path, tag) as file:
        file.write(content)


def _new_file(path: str) -> IO[bytes]:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return os.fdopen(os.open(path, _NEW, 0o666), "wb")
