"""Tells files apart without looking into them: the hash of their bytes, their size and time."""

import hashlib
import os
import stat
from dataclasses import dataclass

from mlx_chandra.documents.image_files import open_regular
from mlx_chandra.errors import PageError


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file's size in bytes, and when it was changed last, in nanoseconds since 1970."""

    size: int
    mtime_ns: int


def stamp_of(path: str) -> Stamp | None:
    """The stamp of a regular file; None where there is none to be seen. The file isn't opened."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError):
        return None
    return Stamp(facts.st_size, facts.st_mtime_ns) if stat.S_ISREG(facts.st_mode) else None


def content_hash(path: str) -> str | None:
    """SHA-256 of the file's bytes, in hexadecimal; None for one that can't be read to its end."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, PageError):
        return None
