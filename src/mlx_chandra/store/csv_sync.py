"""Keeps the CSV the image of the store: on opening, after each group of pages, and at a run's end.

A change is in the store first, durably, with `pages.csv` saying what the CSV lacks; then the CSV is written;
then that is noted, in the next transaction or on closing. So the next opening completes what a kill left.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from enum import Enum

from mlx_chandra.errors import OutputError
from mlx_chandra.store import order as row_order
from mlx_chandra.store.csv_file import CsvFile, stamp
from mlx_chandra.store.reconcile import delete_pages, is_behind, is_noted, join
from mlx_chandra.store.rows import is_there, read_header
from mlx_chandra.store.schema import CLEAN, DELETED, NEW, REPLACE, SAME, UNCLEAN, store_path
from mlx_chandra.store.version1 import remove_redo_file

Change = Callable[[], AbstractContextManager[sqlite3.Connection]]


class Start(Enum):
    """What to do with results that are there already."""

    FRESH = "fresh"  # refuse
    RESUME = "resume"  # keep them and skip their pages
    OVERWRITE = "overwrite"  # throw them away when the first new one comes


class CsvSync:
    """Writes the CSV of one run, which holds the store's lock; `change` begins a transaction of the store.

    `warnings` gets sentences for the user. `replaces`: the first new page is to replace all that is there.
    All of it raises OutputError where the CSV can't be written, or isn't one.
    """

    def __init__(self, path: str, change: Change, warnings: list[str]) -> None:
        self.path, self.replaces = path, False
        self._change, self._warnings = change, warnings
        self._file = CsvFile(path)
        self._appended = False  # all rows that are NEW in the store are in the CSV
        self._rewrites = False  # what the CSV holds is to be thrown away

    def open(self, start: Start) -> None:
        """Join the store with the CSV that is there. With OVERWRITE nothing is touched yet."""
        there = is_there(self.path)
        if start is Start.OVERWRITE:
            self.replaces = True
            if there:
                read_header(self.path)
            return
        with self._change() as database:
            (pages,) = database.execute("select count(*) from pages").fetchone()
            found = None if is_noted(database, self.path) else join(database, self.path)
        if pages and not there:
            self._warnings.append(f"{self.path} was missing. It was written again from its store.")
        if found is None:
            self._file.open()
        else:
            self._write(*found)
        remove_redo_file(self.path)

    @contextlib.contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """Change pages; notes in the same transaction what was appended before, and that more will come."""
        rewrites = self._rewrites or self.replaces
        with self._change() as database:
            if self._appended:
                database.execute("update pages set csv = ? where csv <> 0 and csv = ?", (SAME, NEW))
            if self.replaces:
                delete_pages(database)
                database.execute("delete from runs")
            database.execute("update csv set clean = ?", (REPLACE if rewrites else UNCLEAN,))
            yield database
        self._appended = self.replaces = False
        self._rewrites = rewrites

    def append(self, database: sqlite3.Connection) -> None:
        """Write the rows of new pages, which are in the store; where others changed the CSV, later."""
        if self._rewrites:
            self._file.rewrite(row_order.new_rows(database))
            remove_redo_file(self.path)
            self._rewrites = False
        elif not self._file.is_open:
            return
        elif not self._file.append(row_order.new_rows(database)):
            self._warnings.append(
                f"{self.path} was changed, replaced or taken away during the run. The run goes on; at its "
                "end, the results are joined with what is there then."
            )
            return
        self._appended = True

    def finish(self, complete: bool) -> None:
        """Write what the CSV lacks; with `complete`, its rows in the order of the input."""
        if self.replaces:
            return  # no page came
        with self._change() as database:
            (clean,) = database.execute("select clean from csv").fetchone()
            unplaced = database.execute("select 1 from pages where position is null limit 1").fetchone()
        if clean == CLEAN and not (complete and unplaced):
            return
        with self.changing() as database:
            pass
        if self._file.is_as_left and not self._rewrites:
            self._write(is_behind(database), None, complete)
        else:
            self._write(*self._join_again(), complete)

    def close(self) -> None:
        """Let go of the CSV."""
        self._file.close()

    def _join_again(self) -> tuple[bool, int | None]:
        """Join with a CSV that others changed during the run."""
        self._file.close()
        try:
            with self._change() as database:
                return join(database, self.path)
        except OutputError as error:
            raise OutputError(
                f"{error.message} The results of the run are safe in {store_path(self.path)}.",
                f"Move {self.path} away and run again with --resume: it is written anew from there.",
            ) from error

    def _write(self, rewrite: bool, end: int | None, complete: bool = False) -> None:
        """Write what the CSV lacks, and note that it holds what the store does."""
        with self._change() as database:
            stored = row_order.stored_order(database)
            order = row_order.input_order(database) if complete else stored
        if rewrite or order != stored:
            self._file.rewrite(row_order.rows_of(database, order))
        else:
            self._append_rest(database, end)
        with self._change() as database:
            if complete:
                row_order.set_positions(database, order)
            delete_pages(database, f"csv = {DELETED}")
            database.execute("update pages set csv = ? where csv <> 0", (SAME,))
            noted = *(stamp(self.path) or (None, None)), CLEAN
            database.execute("update csv set size = ?, mtime_ns = ?, clean = ?", noted)
        self._appended = self._rewrites = False

    def _append_rest(self, database: sqlite3.Connection, end: int | None) -> None:
        if not self._file.is_open:
            self._file.open(end)
        if not self._file.append(row_order.new_rows(database)):
            raise OutputError(
                f"{self.path} was changed while its last rows were written.",
                f"The results are safe in {store_path(self.path)}. Run again with --resume.",
            )
