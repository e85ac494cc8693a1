"""The open CSV of a run: appends rows that are whole after any failure, and notices others' changes.

Rows are appended and synced, so only the last one can ever be torn. Where more than appending is needed, the
whole file is written beside and renamed.
"""

import contextlib
import os
from collections.abc import Iterable

from mlx_chandra.errors import OutputError
from mlx_chandra.files.disk import disk_errors, sync_file, sync_folder, whole_file
from mlx_chandra.store.rows import HEADER, Row

_OPEN = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC


class CsvFile:
    """The CSV at `path`. For one thread at a time.

    All of it raises OutputError when the file can't be used (DiskFullError: for want of room).
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file: int | None = None
        self._left: tuple[int, int] | None = None  # size and time of change, as this run left it

    @property
    def is_open(self) -> bool:
        """Whether rows can be appended."""
        return self._file is not None

    @property
    def is_as_left(self) -> bool:
        """Whether nobody wrote to it since this run opened it or wrote to it last."""
        return self._is_there() and stamp(self.path) == self._left

    def open(self, end: int | None = None) -> None:
        """Open the file, cut off at the byte `end` where that is given."""
        self.close()
        with disk_errors(self.path):
            self._file = os.open(self.path, _OPEN)
            if end is not None and end < os.fstat(self._file).st_size:
                os.ftruncate(self._file, end)
                sync_file(self._file)
            self._note(self._file)

    def append(self, rows: Iterable[Row]) -> bool:
        """Add rows and return once they are on the disk. Where others changed the file, close it: False.

        After a failed write it ends at its last whole row.
        """
        if self._file is not None and self._left is not None and self._is_there():
            with disk_errors(self.path):
                if self._append(self._file, self._left[0], rows):
                    self._note(self._file)
                    return True
        self.close()
        return False

    def rewrite(self, rows: Iterable[Row]) -> None:
        """Put a file of these rows in its place; where that fails, everything stays as it was."""
        with whole_file(self.path, "csv") as file:
            file.write(HEADER)
            for row in rows:
                file.write(row.encoded)
        with disk_errors(self.path):
            sync_folder(os.path.dirname(self.path))
        self.open()

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _append(self, file: int, end: int, rows: Iterable[Row]) -> bool:
        if os.fstat(file).st_size != end:
            return False
        written = 0
        try:
            for row in rows:
                written += _write(file, row.encoded)
            sync_file(file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file, end)
            raise
        return os.fstat(file).st_size == end + written

    def _is_there(self) -> bool:
        """Whether its name still leads to the open file."""
        with contextlib.suppress(OSError):
            return self._file is not None and os.path.samestat(os.fstat(self._file), os.stat(self.path))
        return False

    def _note(self, file: int) -> None:
        found = os.fstat(file)
        self._left = found.st_size, found.st_mtime_ns


def stamp(path: str) -> tuple[int, int] | None:
    """Return size in bytes and time of change of a file; None where there is none."""
    with disk_errors(path):
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
    return found.st_size, found.st_mtime_ns


def check_place(path: str) -> None:
    """Make the folder of a CSV. Raises OutputError where no file can be written at `path`."""
    with disk_errors(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.isdir(path):
        raise OutputError(f"{path} is a folder.", "--output wants the name of a file, such as results.csv.")
    if os.path.exists(path) and not os.path.isfile(path):
        raise OutputError(f"{path} is not an ordinary file.", "Results can only be kept in one.")


def _write(file: int, content: bytes) -> int:
    """Write all of it, of which the system may take less at once."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]
    return len(content)
