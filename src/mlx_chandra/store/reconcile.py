"""Joins the store with a CSV that may have been edited, torn, or left behind by a run that was killed.

Row by row: what somebody edited wins, with its status and text. Rows of unknown paths are imported. Of a row
that a run has changed or deleted in the store, the store wins. Pages whose rows somebody took out leave it.
What the CSV lacks because a run was killed is completed. Texts are never all in memory.
"""

import sqlite3
from dataclasses import dataclass

from mlx_chandra.store.rows import Row, Rows, page_of
from mlx_chandra.store.schema import CHANGED, DELETED, NEW, SAME

_SEEN = "create temp table if not exists seen (id integer primary key, place integer not null)"
_FIND = "select id, digest, csv, position from pages where path = ?"
_IMPORT = (
    "insert into pages (path, document, number, status, digest, csv, position) values (?, ?, ?, ?, ?, 0, ?)"
)
# Settings are unknown from now on: nothing read the text that somebody wrote. An empty digest is a page of
# version 1, whose text is taken from the CSV for the first time.
_EDIT = (
    "update pages set status = ?, digest = ?, settings = case when digest = '' then settings end where id = ?"
)
_COMPLETE = """
update pages set csv = :new, position = case when position > :last then position end
where id not in (select id from seen) and digest <> '' and (
    csv = :changed
    or csv = :same and :torn and (position is null or position > :last)
    or csv = :same and :unfinished and run = (select max(id) from runs)
)
"""
_GONE = "select id from pages where csv in (:same, :deleted) and id not in (select id from seen)"
_STATES = {"same": SAME, "new": NEW, "changed": CHANGED, "deleted": DELETED}


@dataclass
class _Pass:
    """One pass over the CSV's rows. `rewrite`: more than appending is needed to make it the store's."""

    database: sqlite3.Connection
    texts: bool
    rewrite: bool = False
    in_order: bool = True
    _last: tuple[bool, int, int] = (False, -1, -1)

    def take(self, place: int, row: Row) -> None:
        """Join one row with the page of its path."""
        found = self.database.execute(_FIND, (row.path,)).fetchone()
        if found is None:
            self._import(place, row)
            return
        page, digest, csv, position = found
        if digest == row.digest and csv in (NEW, CHANGED):
            self.database.execute("update pages set csv = ? where id = ?", (SAME, page))
        elif digest != row.digest and csv == SAME:
            self._edit(page, row)
        elif csv == NEW:
            self.database.execute("update pages set csv = ? where id = ?", (CHANGED, page))
        self._note(page, place, (position is None, position or 0, page))

    def _import(self, place: int, row: Row) -> None:
        values = (row.path, *page_of(row.path), row.status, row.digest, place)
        page = self.database.execute(_IMPORT, values).lastrowid
        self._keep_text(page, row.text)
        self.database.execute("insert into seen values (?, ?)", (page, place))
        self.in_order = False

    def _edit(self, page: int, row: Row) -> None:
        self.database.execute(_EDIT, (row.status, row.digest, page))
        self._keep_text(page, row.text)

    def _keep_text(self, page: int | None, text: str) -> None:
        if self.texts:
            self.database.execute("insert or replace into texts values (?, ?)", (page, text))

    def _note(self, page: int, place: int, key: tuple[bool, int, int]) -> None:
        self.in_order, self._last = self.in_order and key > self._last, key
        if not self.database.execute("insert or ignore into seen values (?, ?)", (page, place)).rowcount:
            self.rewrite = True  # a doubled row: its last one counts
            self.database.execute("update seen set place = ? where id = ?", (place, page))


def reconcile(
    database: sqlite3.Connection, path: str, unfinished: bool, texts: bool = True
) -> tuple[bool, int]:
    """Join the store with the CSV at `path`, within the caller's transaction.

    Args:
        database: The store, or a copy of it.
        path: The CSV.
        unfinished: The last run is going on, or didn't leave the CSV clean: its rows that the CSV lacks are
            completed, for whoever saved the CSV may not have seen them.
        texts: Whether the store holds texts.

    Returns whether the CSV has to be rewritten (else appending what is NEW will do), and the offset behind
    its last whole row. Raises OutputError where it is no results table, or damaged.
    """
    database.execute(_SEEN)
    database.execute("delete from seen")
    rows, found = Rows(path, lambda shown: _encoded(database, shown)), _Pass(database, texts)
    for place, row in enumerate(rows):
        found.take(place, row)
    _finish(database, found, {"torn": rows.torn, "unfinished": unfinished, **_STATES})
    return found.rewrite or is_behind(database), rows.end


def is_behind(database: sqlite3.Connection) -> bool:
    """Whether the CSV has rows that are to be replaced or removed."""
    asked = "select 1 from pages where csv <> 0 and csv in (?, ?)"
    return database.execute(asked, (CHANGED, DELETED)).fetchone() is not None


def write_all_again(database: sqlite3.Connection) -> None:
    """Note that the CSV has no row yet: all pages are to be written of which there is a text."""
    delete_pages(database, f"select id from pages where csv = {DELETED} or digest = ''")
    database.execute("update pages set csv = ? where csv <> ?", (NEW, NEW))


def delete_pages(database: sqlite3.Connection, which: str, values: dict[str, int] | None = None) -> None:
    """Delete the pages whose ids a query gives, with their texts."""
    database.execute("create temp table if not exists leaving (id integer primary key)")
    database.execute("delete from leaving")
    database.execute(f"insert into leaving {which}", values or {})
    for table in ("texts", "pages"):
        database.execute(f"delete from {table} where id in (select id from leaving)")


def _finish(database: sqlite3.Connection, found: _Pass, values: dict[str, int]) -> None:
    asked = "select coalesce(max(position), -1) from pages where id in (select id from seen)"
    (last,) = database.execute(asked).fetchone()
    database.execute(_COMPLETE, {**values, "last": last})
    delete_pages(database, _GONE, values)
    if not found.in_order:
        database.execute("update pages set position = null where csv = ?", (NEW,))
        database.execute(
            "update pages set position = (select place from seen where seen.id = pages.id) "
            "where id in (select id from seen)"
        )


def _encoded(database: sqlite3.Connection, shown: str) -> bytes | None:
    """The bytes of a page's row as the store has it."""
    asked = "select path, status, text from pages join texts using (id) where path = ?"
    found = database.execute(asked, (shown,)).fetchone()
    return None if found is None else Row(*found).encoded
