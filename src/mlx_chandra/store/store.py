"""The store of a results file: all that runs know of pages, in one SQLite file beside the CSV.

`results.csv.journal.sqlite` beside `results.csv` holds texts, facts, files, settings and runs. The CSV is
made from it. What somebody changes in the CSV between runs counts: `reconcile.py`.
"""

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from mlx_chandra.documents.page import Page, PageResult, ReadSettings
from mlx_chandra.errors import OutputError, UsageError
from mlx_chandra.files.paths import real_path, shown_path
from mlx_chandra.store import order, queries
from mlx_chandra.store.csv_file import check_place
from mlx_chandra.store.csv_sync import CsvSync, Start
from mlx_chandra.store.database import Database
from mlx_chandra.store.lock import Lock, lock_path
from mlx_chandra.store.queries import OtherSettings, StoredFacts
from mlx_chandra.store.reconcile import delete_pages
from mlx_chandra.store.rows import is_there
from mlx_chandra.store.schema import Damaged, open_store, set_aside, store_path

__all__ = ["Again", "OtherSettings", "Start", "Store", "StoredFacts"]

Again = Callable[[str, str], bool]
"""Whether a row is to be read again, by its path as shown and its status."""

_MOST_UNSAVED = 5000  # files whose hashes wait for the next group of pages
_UNSETTLED = 3_000_000_000  # nanoseconds; a file may change twice within a tick of a coarse clock


class Store:
    """The results of one run. Use as a context manager; can be used by several threads.

    Args:
        csv_path: The CSV, which is made where there is none.
        settings: With what this run reads pages.
        start: What to do with results that are there.
        again: Which of them are to be read again.
        any_settings: Pages read with other settings are as good as those of this run, but no other page gets
            their results.

    `warnings` are sentences for the user, which may come later too.

    Raises (on opening):
        UsageError: Results are there, and `start` is FRESH.
        OutputBusyError: Another run holds it.
        OutputError: It can't be written, a newer version wrote it, or the CSV is no results table or damaged;
            that is left as it is.
    """

    def __init__(
        self,
        csv_path: str | os.PathLike[str],
        settings: ReadSettings,
        start: Start = Start.FRESH,
        again: Again | None = None,
        any_settings: bool = False,
        writes: bool = True,
    ) -> None:
        self.path = os.path.realpath(csv_path)
        self.database = store_path(self.path)
        self.warnings: list[str] = []
        self._settings, self._again, self._any_settings = settings, again, any_settings
        self._mutex = threading.RLock()
        self._db: Database
        self._csv: CsvSync | None = None  # None in a preview
        self._files = contextlib.ExitStack()
        self._lock: Lock | None = None
        self._run: int | None = None
        self._began = 0.0
        self._unsaved: dict[str, tuple[int, int, str]] = {}  # size, time and hash of files, by shown path
        self._same: frozenset[int] = frozenset()
        try:
            self._open(start) if writes else self._look(start)
        except BaseException:
            self._let_go()
            raise

    @classmethod
    def preview(
        cls,
        csv_path: str | os.PathLike[str],
        settings: ReadSettings,
        start: Start = Start.RESUME,
        again: Again | None = None,
        any_settings: bool = False,
    ) -> "Store":
        """Return a store that gives the same answers, locks nothing, and writes nothing beside the CSV.

        Raises UsageError and OutputError as opening does; a damaged store isn't set aside.
        """
        return cls(csv_path, settings, start, again, any_settings, writes=False)

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(*([OutputError] if kind is not None else [])):  # there is trouble already
            self.close()

    def close(self) -> None:
        """Write what the CSV lacks, and let go of everything. Whoever asks afterwards gets OutputError."""
        with self._mutex:
            try:
                if self._csv is not None and not self._db.is_damaged:
                    self._save_files()
                    self._csv.finish(complete=False)
            finally:
                self._let_go()

    # -- questions

    @property
    def count(self) -> int:
        """Pages with a result."""
        return int(self._db.one("select count(*) from live")[0])

    def has(self, path: str) -> bool:
        """Whether this page, by its real path, has a result."""
        return self._db.one("select 1 from live where path = ?", shown_path(path)) is not None

    def known(self, page: Page) -> StoredFacts | None:
        """Return what is stored of a page, without its text; None for nothing."""
        shown = shown_path(page.path)
        found = self._db.one(queries.FACTS, shown)
        if found is None:
            return None
        content, status, settings, run, *file = found
        this_run = run is not None and run == self._run
        hashed = self._unsaved.get(shown_path(page.document.path)) or (tuple(file) if file[2] else None)
        same = self._any_settings or settings is None or content is None or settings in self._same
        again = not this_run and self._again is not None and self._again(shown, status)
        return StoredFacts(status, content, same, again, this_run, hashed)

    def result(self, path: str) -> PageResult | None:
        """Return all that is stored of a page, by its real path, text and settings included."""
        found = self._db.one(queries.RESULT, shown_path(path))
        return queries.result_of(found) if found else None

    def same_content(self, content: str, number: int, this_run: bool) -> Iterator[tuple[str, str]]:
        """Yield real path and status of pages read of the same bytes with the same settings, oldest first.

        Args:
            content: SHA-256 of the file.
            number: Of the page in it; 0 for a file by itself.
            this_run: Only those that this run has read itself.
        """
        last = 0
        while found := self._db.one(queries.COPIES, content, number, last):  # mostly the first one will do
            last, path, status, settings, run, copy_of = found
            is_read_now = run == self._run and run is not None and copy_of is None
            if settings in self._same and (is_read_now or not this_run):
                yield real_path(path), status

    def file_content(self, path: str, size: int, mtime_ns: int) -> str | None:
        """Return the hash of the file's bytes, if it was hashed before and has this size and time still."""
        shown = shown_path(path)
        found = self._unsaved.get(shown) or self._db.one(queries.FILE, shown)
        return str(found[2]) if found and tuple(found[:2]) == (size, mtime_ns) else None

    def pages_of(self, document: str) -> list[str]:
        """Return the real paths of the numbered pages of a document."""
        return self._pages(document, 1)

    def document(self, path: str) -> Iterator[PageResult]:
        """Yield the results of a document's pages by their numbers, or its single one; by its real path."""
        return filter(None, map(self.result, self._pages(path, 0)))

    def documents(self) -> Iterator[str]:
        """Yield every document's real path, in the order of the CSV."""
        return (real_path(document) for (document,) in self._db.all(queries.DOCUMENTS))

    def other_settings(self) -> list[OtherSettings]:
        """Return what pages were read with that weren't read as this run reads, the most first."""
        found = self._db.all(queries.OTHER_SETTINGS)
        return [OtherSettings(n, model, json.loads(how)) for s, n, model, how in found if s not in self._same]

    def asking(self) -> AbstractContextManager[sqlite3.Connection]:
        """Give the database to a block that asks what no method does; `live` is a view of the pages."""
        return self._db.asking()

    # -- changes

    def use(self, settings: ReadSettings) -> None:
        """Say with what pages are read from now on; for when the model's weights are here at last."""
        with self._db.asking() as connection:
            self._settings, self._same = settings, queries.same_settings(connection, settings)

    def plan(self, paths: Sequence[str]) -> None:
        """Note the next pages of the input, in its order, by their real paths."""
        if self._csv is not None:
            with self._db.asking() as connection:
                order.plan(connection, map(shown_path, paths))

    def remember_file(self, path: str, size: int, mtime_ns: int, content: str) -> None:
        """Keep a file's hash, for as long as its size in bytes and its time of change stay.

        One that was changed only just now isn't kept: it may change again without its time showing it.
        """
        if abs(time.time_ns() - mtime_ns) < _UNSETTLED or self._csv is None:
            return
        with self._mutex:
            self._unsaved[shown_path(path)] = (size, mtime_ns, content)
            if len(self._unsaved) >= _MOST_UNSAVED:
                self._save_files()

    def begin_run(self) -> None:
        """Begin to count this run's time. A run without a result leaves no trace."""
        self._began = self._began or time.monotonic()

    def end_run(self, complete: bool) -> None:
        """Note that this run came to its end; with `complete`, order the CSV's rows as the input.

        A run that was stopped leaves the order to the next one. Closing puts rows that were read again in
        their places, either way.
        """
        with self._mutex:
            if self._run is not None:
                with self._db.change() as connection:
                    queries.count(connection, self._run, (), time.monotonic() - self._began, ended=True)
            if complete and self._csv is not None:
                self._csv.finish(complete=True)

    def add(self, results: Sequence[PageResult]) -> None:
        """Store results and return once they are on the disk, in the store and in the CSV.

        Raises DiskFullError or OutputError; what was written before stays readable.
        """
        if self._csv is None:
            raise OutputError(f"{self.path} was opened to be looked at only.")
        with self._mutex:
            self.begin_run()
            before, replaces = (self._run, self._same), self._csv.replaces
            try:
                with self._csv.changing() as connection:
                    self._put(connection, results)
                    queries.remember(connection, self._unsaved)
            except BaseException:
                self._run, self._same = before
                raise
            self._unsaved.clear()
            if replaces:
                self._db.show(hidden=False)
            self._csv.append(connection)

    def drop(self, paths: Sequence[str]) -> None:
        """Delete pages that are no more, by their real paths; from the CSV when it is rewritten."""
        if self._csv is None or self._csv.replaces or not paths:
            return
        with self._mutex, self._csv.changing() as connection:
            for path in paths:
                queries.delete(connection, shown_path(path))

    def fill_in(self, said: Mapping[str, Any], settings: ReadSettings) -> None:
        """Add what a line of a version-1 ledger says of a page, where that isn't known."""
        with self._db.change() as connection:
            queries.fill_in(connection, said, queries.settings_id(connection, settings))

    # -- inside

    def _pages(self, document: str, least: int) -> list[str]:
        found = self._db.all(queries.DOCUMENT_PAGES, shown_path(document), least)
        return [real_path(path) for (path,) in found]

    def _look(self, start: Start) -> None:
        from mlx_chandra.store.preview import open_preview

        self._db = Database(self.database, self._mutex, open_preview(self.path, start), None)
        self._files.callback(self._db.close)
        self._check_start(start)
        self.use(self._settings)

    def _open(self, start: Start) -> None:
        """Open the store; set a damaged one aside and begin anew from the CSV."""
        check_place(self.path)
        self._lock = Lock(lock_path(self.path), self.path, "--output")
        if not self._lock.exists:
            self.warnings.append(f"The disk of {self.path} knows no locks: start no second run with it.")
        try:
            self._join(start, self._lock.exists)
            return
        except Damaged:
            self._files.close()
        moved = set_aside(self.database)
        self.warnings.append(
            f"{self.database} was damaged. It was moved to {moved} and begun anew from the CSV, whose pages "
            "count as read, whatever model and settings read them."
        )
        self._join(start, self._lock.exists)

    def _join(self, start: Start, locks: bool) -> None:
        connection, version = open_store(self.database, locks)
        self._db = Database(self.database, self._mutex, connection, self._taken_away)
        self._files.callback(self._db.close)
        self._db.show(hidden=start is Start.OVERWRITE)
        self._csv = CsvSync(self.path, self._db.change, self.warnings)
        self._files.callback(self._csv.close)
        if version == 1:
            self.warnings.append(f"{self.database} of version 0.1 was taken over into the new store.")
        if not is_there(self.path):
            if version == 1:  # whose texts were in the CSV alone
                with self._db.change():
                    delete_pages(connection)
            self._check_start(start)
        self._csv.open(start)
        self._check_start(start)
        self.use(self._settings)

    def _check_start(self, start: Start) -> None:
        if start is Start.FRESH and self.count:
            raise UsageError(
                f"{self.path} already holds the results of {self.count:,} pages.",
                "Add --resume to go on with it, or --overwrite to start anew.",
            )

    def _taken_away(self) -> None:
        """Take a new lock, where the old one went with the store that was taken away."""
        if self._lock is not None and not self._lock.is_there:
            lock = Lock(lock_path(self.path), self.path, "--output")
            self._lock.release()
            self._lock = lock
        self.warnings.append(f"{self.database} was taken away during the run, and was written anew.")

    def _let_go(self) -> None:
        is_damaged = self._csv is not None and self._db.is_damaged
        self._files.close()
        self._csv = None
        if is_damaged:  # the next run begins anew from the CSV
            with contextlib.suppress(OSError):
                set_aside(self.database)
        if self._lock is not None:
            self._lock.release()

    def _put(self, connection: sqlite3.Connection, results: Sequence[PageResult]) -> None:
        own = queries.settings_id(connection, self._settings)
        self._same |= {own}
        if self._run is None:
            self._run = queries.new_run(connection, own)
        for result in results:
            other = None if result.settings == self._settings else result.settings
            settings = queries.settings_id(connection, other) if other else own
            queries.put(connection, result, settings, self._run)
        queries.count(connection, self._run, results, time.monotonic() - self._began)

    def _save_files(self) -> None:
        if self._unsaved:
            with self._db.change() as connection:
                queries.remember(connection, self._unsaved)
            self._unsaved.clear()
