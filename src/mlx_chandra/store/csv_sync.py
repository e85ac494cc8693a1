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
from mlx_chandra.store.csv_file import CsvFile
from mlx_chandra.store.reconcile import delete_pages, is_behind, reconcile, write_all_again
from mlx_chandra.store.rows import check_header, is_unfinished_start
from mlx_chandra.store.schema import CLEAN, DELETED, NEW, REPLACE, SAME, UNCLEAN, store_path
from mlx_chandra.store.version1 import remove_redo_file, take_redo_file

Change = Callable[[], AbstractContextManager[sqlite3.Connection]]


class Start(Enum):
    """What to do with results that are there already."""

    FRESH = "fresh"  # refuse
    RESUME = "resume"  # keep them and skip their pages
    OVERWRITE = "overwrite"  # throw them away when the first new one comes


class CsvSync:
    """Writes the CSV of one run, which holds the store's lock; `change` begins a transaction of the store.

    `warnings` gets sentences for the user. `touched`: the store was changed since the CSV was clean.
    `replaces`: the first new page is to replace all that is there. All of it raises OutputError where the CSV
    can't be written, or isn't one.
    """

    def __init__(self, path: str, change: Change, warnings: list[str]) -> None:
        self.path, self.touched, self.replaces = path, False, False
        self._change, self._warnings = change, warnings
        self._file = CsvFile(path)
        self._unnoted = self._detached = self._rewrites = False

    def open(self, start: Start) -> None:
        """Join the store with the CSV that is there. With OVERWRITE nothing is touched yet."""
        there = is_there(self.path)
        if start is Start.OVERWRITE:
            self.replaces = True
            if there:
                check_header(self.path)
            return
        with self._change() as database:
            *noted, clean = database.execute("select size, mtime_ns, clean from csv").fetchone()
            if there and clean != REPLACE:
                take_redo_file(database, self.path)
            (pages,) = database.execute("select count(*) from pages").fetchone()
        if there and clean == CLEAN and tuple(noted) == self._file.stamp:
            self._file.open()
        elif there and clean != REPLACE:
            self._join(unfinished=clean == UNCLEAN)
        else:
            if pages and not there:
                self._warnings.append(f"{self.path} was missing. It was written again from its store.")
            self._write_all()
        remove_redo_file(self.path)

    @contextlib.contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """Change pages; notes in the same transaction what was appended before, and that more will come."""
        with self._change() as database:
            if self._unnoted:
                database.execute("update pages set csv = ? where csv <> 0 and csv = ?", (SAME, NEW))
            if self.replaces:
                delete_pages(database, "select id from pages")
                database.execute("delete from runs")
            if not self.touched or self.replaces:
                database.execute("update csv set clean = ?", (REPLACE if self.replaces else UNCLEAN,))
            yield database
        self._unnoted, self.touched = False, True
        self.replaces, self._rewrites = False, self._rewrites or self.replaces

    def append(self, database: sqlite3.Connection) -> None:
        """Write the rows of new pages, which are in the store; where others changed the CSV, later."""
        if self._detached:
            return
        if self._rewrites:
            self._file.rewrite(row_order.new_rows(database))
            remove_redo_file(self.path)
            self._rewrites = self.touched = False  # the next transaction takes REPLACE back
        elif not self._file.append(row_order.new_rows(database)):
            self._detached = True
            self._warnings.append(
                f"{self.path} was changed, replaced or taken away during the run. The run goes on; at its "
                "end, the results are joined with what is there then."
            )
            return
        self._unnoted = True

    def finish(self, complete: bool) -> None:
        """Write what the CSV lacks; with `complete`, its rows in the order of the input."""
        if self.replaces:
            return  # no page came
        with self.changing() if self.touched or self._unnoted else self._change() as database:
            asked = "select 1 from pages where position is null limit 1"
            unplaced = database.execute(asked).fetchone() is not None
        if not (self.touched or (complete and unplaced)):
            return
        rewrite = self._rewrites or (not self._file.is_as_left and self._rejoin())
        stored = row_order.stored_order(database)
        order = row_order.input_order(database) if complete else stored
        if rewrite or order != stored or is_behind(database):
            self._file.rewrite(row_order.rows_of(database, order))
        else:
            self._append_rest(database)
        with self._change() as database:
            if complete:
                row_order.set_positions(database, order)
            self._settle(database)
        self.touched = self._unnoted = self._detached = self._rewrites = False

    def close(self) -> None:
        """Let go of the CSV."""
        self._file.close()

    def _join(self, unfinished: bool) -> None:
        with self._change() as database:
            rewrite, end = reconcile(database, self.path, unfinished)
        if rewrite:
            self._file.rewrite(row_order.rows_of(database, row_order.stored_order(database)))
        else:
            self._file.open(end)
            self._append_rest(database)
        with self._change() as database:
            self._settle(database)

    def _rejoin(self) -> bool:
        """Join with a CSV that others changed during the run; return whether it has to be rewritten."""
        if not is_there(self.path):
            with self._change() as database:
                write_all_again(database)
            return True
        try:
            with self._change() as database:
                rewrite, end = reconcile(database, self.path, unfinished=True)
        except OutputError as error:
            raise OutputError(
                f"{error.message} The results of the run are safe in {store_path(self.path)}.",
                f"Move {self.path} away and run again with --resume: it is written anew from there.",
            ) from error
        self._file.open(end)
        return rewrite

    def _write_all(self) -> None:
        with self._change() as database:
            write_all_again(database)
        self._file.rewrite(row_order.rows_of(database, row_order.stored_order(database)))
        with self._change() as database:
            self._settle(database)

    def _append_rest(self, database: sqlite3.Connection) -> None:
        if not self._file.append(row_order.new_rows(database)):
            raise OutputError(
                f"{self.path} was changed while its last rows were written.",
                f"The results are safe in {store_path(self.path)}. Run again with --resume.",
            )

    def _settle(self, database: sqlite3.Connection) -> None:
        """Note in the caller's transaction that the CSV holds what the store does."""
        delete_pages(database, f"select id from pages where csv = {DELETED}")
        database.execute("update pages set csv = ? where csv <> 0", (SAME,))
        size, mtime_ns = self._file.stamp or (None, None)
        database.execute("update csv set size = ?, mtime_ns = ?, clean = ?", (size, mtime_ns, CLEAN))


def is_there(path: str) -> bool:
    """Whether there is a CSV whose header is whole."""
    try:
        return not is_unfinished_start(path)
    except OutputError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            return False
        raise
