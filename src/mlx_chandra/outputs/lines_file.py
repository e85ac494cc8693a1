"""A file of lines that is safe against being killed at any moment, and against being taken away.

Lines are appended, so that only the last one can ever be torn. What the whole file shall hold instead is
written beside it and renamed. Lines are read from the open file, whatever its name leads to by then.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from mlx_chandra.outputs.disk import disk_trouble, leads_to, sync_file, sync_folder, write_all


class LinesFile:
    """A file that grows at its `end`; made where there is none. For one thread at a time.

    Raises (all of it): OutputError when the file can't be used (DiskFullError: for want of room).
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with disk_trouble(path):
            self._file: BinaryIO = open(path, "a+b", buffering=0)  # noqa: SIM115 (kept open)
            self.end = os.fstat(self._file.fileno()).st_size
            sync_folder(os.path.dirname(path))

    def close(self) -> None:
        self._file.close()

    @property
    def is_there(self) -> bool:
        """Whether its name still leads to it."""
        return leads_to(self.path, self._file.fileno())

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Where each line begins, and the line; the last one may lack its end. Nothing else meanwhile."""
        place = 0
        with disk_trouble(self.path), self._opened() as file:
            for line in file:
                yield place, line
                place += len(line)

    def line(self, place: int) -> bytes:
        """The line that begins there."""
        with disk_trouble(self.path), self._opened() as file:
            file.seek(place)
            return file.readline()

    def append(self, line: bytes) -> None:
        """Adds a line, whole or not at all."""
        with disk_trouble(self.path):
            try:
                write_all(self._file, line)
            except OSError:
                self._file.truncate(self.end)
                raise
        self.end += len(line)

    def sync(self) -> None:
        """Returns once all lines are on the disk."""
        with disk_trouble(self.path):
            sync_file(self._file)

    def cut(self, end: int) -> None:
        """Takes off what is behind the byte `end`."""
        with disk_trouble(self.path):
            self._file.truncate(end)
        self.end = end

    def write_anew(self, lines: Iterable[bytes]) -> None:
        """Puts a file of these lines in its place, and in its folder, which is made anew where it is gone.

        Where that fails, everything stays as it was.
        """
        part, folder = f"{self.path}.part", os.path.dirname(self.path)
        with disk_trouble(self.path):
            os.makedirs(folder, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)  # of a run that was killed
            file = open(part, "a+b", buffering=0)  # noqa: SIM115 (kept open)
            try:
                for line in lines:
                    write_all(file, line)
                sync_file(file)
                os.replace(part, self.path)
            except BaseException:
                file.close()
                with contextlib.suppress(OSError):
                    os.unlink(part)
                raise
            self._file.close()
            self._file, self.end = file, os.fstat(file.fileno()).st_size
            sync_folder(folder)

    def _opened(self) -> BinaryIO:
        """The same file, buffered, at its beginning."""
        file = open(os.dup(self._file.fileno()), "rb")  # noqa: SIM115 (closed by who asks for it)
        file.seek(0)
        return file
