"""The journal for somebody who changes nothing and wants to know how pages were read: `--dry-run`."""

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any

from mlx_chandra.outputs.journal import KNOWN, TWINS, Known, numbered_pages, same_readings
from mlx_chandra.outputs.journal_file import empty_journal, journal_path, journal_trouble, open_to_read
from mlx_chandra.outputs.making import Making
from mlx_chandra.outputs.rows import shown_path


class JournalView:
    """What the journal has of pages and files, as `Journal` would say it to a run of this making."""

    def __init__(self, path: str, database: sqlite3.Connection, making: Making, any_settings: bool) -> None:
        self._path, self._database, self._any_settings = path, database, any_settings
        with journal_trouble(path):
            self._same = same_readings(database, making)

    def known(self, page: str, file: str) -> Known | None:
        found = self._one(KNOWN, shown_path(file), shown_path(page))
        if found is None:
            return None
        content, status, reading, *facts = found
        hashed = tuple(facts) if facts[2] is not None else None
        return Known(content, status, self._any_settings or reading in self._same, hashed)

    def content(self, file: str, size: int, mtime_ns: int) -> str | None:
        asked = "select content from files where path = ? and size = ? and mtime_ns = ?"
        found = self._one(asked, shown_path(file), size, mtime_ns)
        return None if found is None else str(found[0])

    def remember(self, file: str, size: int, mtime_ns: int, content: str) -> None:
        """Nothing is written here."""

    def twins(self, content: str, number: int, in_this_run: bool) -> Iterator[tuple[str, str]]:
        """As the journal's; nothing is read here, so there is none of this run."""
        if in_this_run:
            return
        with journal_trouble(self._path):
            for _, path, status, reading, _, _ in self._database.execute(TWINS, (content, number, 0, -1)):
                if reading in self._same:
                    yield path, status

    def pages_of(self, document: str) -> list[str]:
        with journal_trouble(self._path):
            return numbered_pages(self._database, document)

    def _one(self, asked: str, *values: str | int) -> tuple[Any, ...] | None:
        with journal_trouble(self._path):
            found: tuple[Any, ...] | None = self._database.execute(asked, values).fetchone()
        return found


@contextlib.contextmanager
def journal_view(table_path: str, making: Making, fresh: bool, any_settings: bool) -> Iterator[JournalView]:
    """The journal beside a table, as `Journal` would open it; where there is none, an empty one.

    Raises OutputError when it can't be read, is damaged, or a newer version wrote it.
    """
    path = journal_path(table_path)
    database = (None if fresh else open_to_read(path)) or empty_journal()
    with contextlib.closing(database):
        yield JournalView(path, database, making, any_settings)
