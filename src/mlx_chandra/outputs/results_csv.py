"""The table of results: one row a page, safe against being killed at any moment.

`rows.py` says what its rows look like. They are appended and synced to the disk, so that only the last one
can ever be torn; opening the file again drops it.

Rows that are done again never leave the table: the new rows go to a file beside it, the redo file
`.results.csv.retry`, in the same format. When the run ends, the table is rewritten with them to a file of its
own and renamed into place, and the redo file goes. If the run was killed before that, the next one that opens
the table does it first. So at every moment each page has exactly one row, its old one or its new one, and a
merge that was broken off is simply done again. A document that could not be opened has one row under its own
path; when its pages are read after all, a row in the redo file says, before theirs are written, that it goes.

A table that is taken away or replaced while a run writes to it, by somebody who clears up or whose editor
saves it, would take all further rows with it into nowhere. So after each group of rows it is seen whether
the name still leads to the open file; where it doesn't, all rows are written anew, and the run ends.

One run at a time: `.results.csv.lock` is held, see `lock.py`.
"""

import contextlib
import os
import re
import shutil
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import BinaryIO

from mlx_chandra.errors import OutputError, PageState, UsageError, state_of
from mlx_chandra.outputs.disk import disk_trouble, leads_to, sync_file, sync_folder, write_all
from mlx_chandra.outputs.lock import Lock, holder
from mlx_chandra.outputs.rows import (
    GONE,
    HEADER,
    StoredRow,
    encoded_row,
    header_end,
    real_path,
    shown_path,
    stored_rows,
)

_PAGE = re.compile(r"(.+)#page=\d+", re.DOTALL)


@dataclass(frozen=True)
class Row:
    """One page's result. `image_path` is as the system knows it; the table shows `shown_path` of it."""

    image_path: str
    status: str
    text: str


class Start(Enum):
    """What to do with a table that is there already."""

    FRESH = "fresh"  # refuse if it holds rows
    RESUME = "resume"  # keep its rows and skip their pages
    RETRY = "retry"  # as RESUME, but pages with an error are done again
    OVERWRITE = "overwrite"  # throw its rows away


Again = Callable[[str, str], bool]
"""Whether a row is to be done again, by its path as shown and its status."""


def stored(path: str | os.PathLike[str]) -> Iterator[Row]:
    """The newest row of each page of a table, for who only looks: nothing is locked or written.

    Empty where there is no table. Raises OutputError as `ResultsFile`.
    """
    path = os.path.realpath(path)
    redo = _beside(path, "retry")
    newer: dict[str, StoredRow] = {}
    if os.path.exists(redo) and not _is_unfinished_start(redo):
        newer = {row.image_path: row for row in stored_rows(redo)}
    if not os.path.exists(path) or _is_unfinished_start(path):
        return
    for old in stored_rows(path):
        row = newer.get(old.image_path, old)
        if row.status != GONE:
            yield Row(real_path(row.image_path), row.status, row.text)


class ResultsFile:
    """The table of one run, locked for it. Use as a context manager; can be used by several threads.

    With `again`, the rows that it says are done again, where `start` keeps rows at all.

    Raises (on opening): UsageError when rows are there and `start` is FRESH; OutputBusyError when another run
    holds it; OutputError when the place can't be written or the file isn't such a table (it is left alone).
    """

    def __init__(
        self, path: str | os.PathLike[str], start: Start = Start.FRESH, again: Again | None = None
    ) -> None:
        self.path = os.path.realpath(path)
        folder = os.path.dirname(self.path)
        self._redo_path = _beside(self.path, "retry")
        self._part_path = _beside(self.path, "part")
        self._done: dict[str, int | None] = {}  # where the row of a page begins that needs no more work
        self._again: dict[str, int] = {}  # the same for error rows that may be replaced; all by shown path
        self._lost = False  # whether the files were taken away, and written anew
        self._mutex = threading.Lock()
        self._redo: _Table | None = None  # a place in it stands as ~place, which is below 0
        _check_place(folder, self.path)
        self._lock = Lock(_beside(self.path, "lock"), self.path, "--output")
        try:
            self._table = self._open(start, again or (_failed if start is Start.RETRY else _none))
            self._begun = self._table.end
            self.is_new = not (self._done or self._again)  # it held no rows when it was opened
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> "ResultsFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __contains__(self, path: str) -> bool:
        """Whether this page is done: skip it."""
        return self._done.get(shown_path(path)) is not None

    def was_done(self, path: str) -> bool:
        """Whether this page was done when the file was opened."""
        place = self._done.get(shown_path(path))
        return place is not None and 0 <= place < self._begun

    def is_asked_again(self, path: str) -> bool:
        """Whether this page has a row that is to be done again, and wasn't yet."""
        return shown_path(path) in self._again and path not in self

    def do_again(self, path: str) -> None:
        """Lets a page that is done be done again: its row stays until the new one is there."""
        shown = shown_path(path)
        with self._mutex:
            place = self._done.pop(shown, None)
            if place is not None:
                self._again[shown] = place

    def drop(self, paths: Iterable[str]) -> None:
        """Takes out the rows of pages that are no more, given as the table shows them; at the run's end."""
        gone = bytearray()
        with self._mutex:
            for shown in paths:
                if shown in self._done or shown in self._again:
                    gone.extend(encoded_row(shown, GONE, ""))
                    self._done[shown] = None
            self._append_redone(bytes(gone))

    def place(self, path: str) -> int | None:
        """Where the page's newest row is, which stays there for all of the run; None where it has none."""
        shown = shown_path(path)
        return self._done.get(shown, self._again.get(shown))

    def row(self, path: str, place: int | None = None) -> Row | None:
        """The page's row at this place or its newest, from the disk; None for none. For any thread."""
        place = self.place(path) if place is None else place
        if place is None:
            return None
        file, start = (self._redo_path, ~place) if place < 0 else (self.path, place)
        stored = next(stored_rows(file, start), None)
        return None if stored is None else Row(path, stored.status, stored.text)

    def append(self, rows: Iterable[Row]) -> None:
        """Adds rows and returns once they are on the disk. A page that is done already is left as it is.

        Raises DiskFullError or OutputError; what was written before stays readable. OutputError also when the
        table was taken away; these rows too are then in the one that is written anew.
        """
        with self._mutex:
            self._append(rows)

    def _append(self, rows: Iterable[Row]) -> None:
        new, redone = bytearray(), bytearray()
        retried = len(HEADER) if self._redo is None else self._redo.end
        for row in rows:
            shown = shown_path(row.image_path)
            if shown in self._done:
                continue
            redone.extend(self._farewell(shown))
            again = shown in self._again
            self._done[shown] = ~(retried + len(redone)) if again else self._table.end + len(new)
            (redone if again else new).extend(encoded_row(shown, row.status, row.text))
        self._append_redone(bytes(redone))
        if new:
            self._table.append(bytes(new))
        self._check_there()

    def _check_there(self) -> None:
        """Raises OutputError when somebody took the files away; all their rows are written anew before."""
        tables = [self._table] if self._redo is None else [self._table, self._redo]
        if self._lost or all(table.is_there for table in tables):
            return
        self._lost = True
        anew = [table.write_anew() for table in tables if not table.is_there]
        raise OutputError(
            f"{self.path} was taken away or replaced while the run wrote to it.",
            f"All rows were written anew to {' and '.join(anew)}. Go on with --resume, and leave it alone.",
        )

    def _append_redone(self, rows: bytes) -> None:
        if rows:
            if self._redo is None:
                self._redo = _Table.create(self._redo_path)
            self._redo.append(rows)

    def _farewell(self, shown: str) -> bytes:
        """The redo file's row that ends the row of the document that this page is of, where it has one."""
        page = _PAGE.fullmatch(shown)
        if page is None or page[1] not in self._again or page[1] in self._done:
            return b""
        self._done[page[1]] = None
        return encoded_row(page[1], GONE, "")

    def close(self) -> None:
        """Puts rows that were done again in their places, and lets go of the file."""
        try:
            self._check_there()
            self._table.close()
            if self._redo is not None:
                self._redo.close()
                if not self._lost:  # else the next run does it, with the table that it finds
                    self._merge()
        finally:
            self._lock.release()

    def _open(self, start: Start, again: Again) -> "_Table":
        if not os.path.exists(self.path) or _is_unfinished_start(self.path):
            return self._create()
        if start is Start.OVERWRITE:
            header_end(self.path)
            return self._create()
        self._merge()
        end = header_end(self.path)
        for row in stored_rows(self.path):
            kept = self._again if again(row.image_path, row.status) else self._done
            kept[row.image_path], end = end, row.end
        if start is Start.FRESH and (self._done or self._again):
            raise UsageError(
                f"{self.path} already holds the results of {len(self._done) + len(self._again):,} pages.",
                "Add --resume to go on with it, or --overwrite to start anew.",
            )
        return _Table.at(self.path, end)

    def _create(self) -> "_Table":
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._redo_path)
        return _Table.create(self.path, self._part_path)

    def _merge(self) -> None:
        """Rewrites the table with the redo file's rows in the places of the old ones, if there is one."""
        if not os.path.exists(self._redo_path):
            return
        if _is_unfinished_start(self._redo_path):
            os.unlink(self._redo_path)
            return
        redone = {row.image_path: row.raw_unless_gone for row in stored_rows(self._redo_path)}
        table = _Table.create(self._part_path)
        table.append_all(redone.get(row.image_path, row.raw) for row in stored_rows(self.path))
        table.close()
        with disk_trouble(self.path):
            os.replace(self._part_path, self.path)
            sync_folder(os.path.dirname(self.path))
            os.unlink(self._redo_path)


def statuses_in(path: str) -> dict[str, str]:
    """The status of each page in the table, by its path as shown, in the table's order.

    Rows that a run has done again, and that it hasn't put in their places yet, count as they are now. So it
    can be asked while a run goes on. Raises OutputError when it is no table, or damaged.
    """
    path = os.path.realpath(path)
    found = {row.image_path: row.status for row in stored_rows(path)}
    redo = _beside(path, "retry")
    try:
        if os.path.exists(redo) and not _is_unfinished_start(redo):
            found.update((row.image_path, row.status) for row in stored_rows(redo))
    except OutputError:
        if os.path.exists(redo):
            raise
        return statuses_in(path)  # the run has put them in their places this moment
    return {page: status for page, status in found.items() if status != GONE}


def running_on(path: str) -> int | None:
    """The number of the process that writes to the table, on this machine; None for none."""
    return holder(_beside(os.path.realpath(path), "lock"))


def _beside(path: str, ending: str) -> str:
    """One of the hidden files beside a table."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{ending}")


class _Table:
    """A file of rows that grows at its `end`; after a failed write it ends at its last whole row."""

    def __init__(self, path: str, file: BinaryIO, end: int) -> None:
        self._path, self._file, self.end = path, file, end

    @classmethod
    def create(cls, path: str, part: str | None = None) -> "_Table":
        """A new table with its header only; made beside as `part` and renamed where that is given."""
        with disk_trouble(path):
            file = open(part or path, "w+b", buffering=0)  # noqa: SIM115 (kept open)
            table = cls(path, file, 0)
            table.append(HEADER)
            if part is not None:
                os.replace(part, path)
            sync_folder(os.path.dirname(path))
        return table

    @classmethod
    def at(cls, path: str, end: int) -> "_Table":
        """A table that exists, cut off at the byte `end`."""
        with disk_trouble(path):
            file = open(path, "r+b", buffering=0)  # noqa: SIM115 (kept open)
            file.truncate(end)
            file.seek(end)
            sync_file(file)
        return cls(path, file, end)

    def append(self, rows: bytes) -> None:
        self.append_all([rows])

    def append_all(self, rows: Iterable[bytes]) -> None:
        with disk_trouble(self._path):
            try:
                for row in rows:
                    write_all(self._file, row)
                sync_file(self._file)
            except OSError:
                with contextlib.suppress(OSError):
                    self._file.truncate(self.end)
                    self._file.seek(self.end)
                raise
        self.end = self._file.tell()

    @property
    def is_there(self) -> bool:
        """Whether its name still leads to it."""
        return leads_to(self._path, self._file.fileno())

    def write_anew(self) -> str:
        """Writes all of it to its name, or beside what is there now under that; returns where."""
        path, number = self._path, 0
        while os.path.lexists(path):
            number += 1
            path = f"{self._path}.rescued-{number}"
        folder, part = os.path.dirname(path), _beside(path, "part")
        with disk_trouble(path):
            os.makedirs(folder, exist_ok=True)
            with open(part, "wb") as copy:
                self._file.seek(0)
                shutil.copyfileobj(self._file, copy)
                copy.flush()
                sync_file(copy)
            os.replace(part, path)
            sync_folder(folder)
        return path

    def close(self) -> None:
        self._file.close()


def _is_unfinished_start(path: str) -> bool:
    """Whether the file ends within its header: a run was killed while it made it."""
    with disk_trouble(path), open(path, "rb") as file:
        return HEADER.startswith(start := file.read(len(HEADER))) and start != HEADER


def _failed(_: str, status: str) -> bool:
    return state_of(status) is not PageState.OK


def _none(_: str, __: str) -> bool:
    return False


def _check_place(folder: str, path: str) -> None:
    with disk_trouble(path):
        os.makedirs(folder, exist_ok=True)
    if os.path.isdir(path):
        raise OutputError(f"{path} is a folder.", "--output wants the name of a file, such as results.csv.")
    if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise OutputError(f"{path} is not an ordinary file.", "Results can only be kept in one.")
