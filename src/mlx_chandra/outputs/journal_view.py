"""The journal for somebody who changes nothing and wants to know how pages were read: `--dry-run`."""

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any

from mlx_chandra.outputs.journal import KNOWN, Known, same_readings
from mlx_chandra.outputs.journal_file import journal_path, journal_trouble, open_to_read
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

    def _one(self, asked: str, *values: str | int) -> tuple[Any, ...] | None:
        with journal_trouble(self._path):
            found: tuple[Any, ...] | None = self._database.execute(asked, values).fetchone()
        return found


@contextlib.contextmanager
def journal_view(table_path: str, making: Making, any_settings: bool) -> Iterator[JournalView | None]:
    """The view, None where there is no journal.

    Raises OutputError when it can't be read, is damaged, or a newer version wrote it.
    """
    path = journal_path(table_path)
    database = open_to_read(path)
    if database is None:
        yield None
        return
    with contextlib.closing(database):
        yield JournalView(path, database, making, any_settings)
