"""Joins the store with a CSV that may have been edited, torn, or left behind by a run that was killed.

What somebody edited wins, with its status and text. Rows of unknown paths are imported. Of a row that a run
has changed or deleted in the store, the store wins. Pages whose rows somebody took out leave it. What the CSV
lacks because a run was killed is completed. Texts are never all in memory.
"""

import sqlite3

from mlx_chandra.store.csv_file import stamp
from mlx_chandra.store.rows import Row, Rows, is_there, page_of
from mlx_chandra.store.schema import CHANGED, CLEAN, DELETED, NEW, REPLACE, SAME
from mlx_chandra.store.version1 import take_redo_file

# The text of a row is kept only where the store may not have it. Of a doubled row the last one counts.
_SEEN = """
create temp table if not exists seen (
    path text primary key, document text, number integer, status text, digest text, place integer, text text
)
"""
_SEE = """
insert or replace into seen select ?1, ?2, ?3, ?4, ?5, ?6,
    iif(exists (select 1 from pages where path = ?1 and digest = ?5), null, ?7)
"""
# Settings are unknown from now on: nothing read the text that somebody wrote. An empty digest is a page of
# version 1, whose text is taken from the CSV for the first time.
_EDIT = f"""
update pages set status = seen.status, digest = seen.digest, settings = iif(pages.digest = '', settings, null)
from seen where seen.path = pages.path and csv = {SAME} and pages.digest <> seen.digest
"""
_IMPORT = f"""
insert into pages (path, document, number, status, digest, csv, position)
select path, document, number, status, digest, {SAME}, place from seen
where path not in (select path from pages) order by place
"""
_KEEP_TEXTS = """
insert or replace into texts select id, text from seen join pages using (path)
where pages.digest = seen.digest and text is not null
"""
_NOTE = f"""
update pages set csv = iif(pages.digest = seen.digest, {SAME}, {CHANGED})
from seen where seen.path = pages.path and csv in ({NEW}, {CHANGED})
"""
_LAST = "(select coalesce(max(position), -1) from pages where path in (select path from seen))"
_COMPLETE = f"""
update pages set csv = {NEW}, position = iif(position > {_LAST}, position, null)
where path not in (select path from seen) and digest <> '' and (
    csv = {CHANGED}
    or csv = {SAME} and :torn and (position is null or position > {_LAST})
    or csv = {SAME} and :unfinished and run = (select max(id) from runs)
)
"""
_GONE = f"csv in ({SAME}, {DELETED}) and path not in (select path from seen)"
_MOVED = """
select 1 from (
    select row_number() over (order by place) as now,
        row_number() over (order by position is null, position, id) as before
    from seen join pages using (path)
) where now <> before limit 1
"""


def is_noted(database: sqlite3.Connection, path: str) -> bool:
    """Whether the CSV at `path` is as the last run left it."""
    *noted, clean = database.execute("select size, mtime_ns, clean from csv").fetchone()
    return clean == CLEAN and tuple(noted) == stamp(path) and is_there(path)


def join(database: sqlite3.Connection, path: str) -> tuple[bool, int | None]:
    """Join the store with the CSV at `path`, if there is one, within the caller's transaction.

    Returns whether the CSV has to be rewritten (else appending what is NEW will do), and the offset behind
    its last whole row. Raises OutputError where it is no results table, or damaged.
    """
    (clean,) = database.execute("select clean from csv").fetchone()
    if clean == REPLACE or not is_there(path):
        delete_pages(database, f"csv = {DELETED} or digest = ''")
        database.execute("update pages set csv = ?1 where csv <> ?1", (NEW,))
        return True, None
    take_redo_file(database, path)
    rows = Rows(path, lambda shown: _encoded(database, shown))
    doubled = _see(database, rows)
    # A run that is going on, or was killed, wrote rows that whoever saved the CSV may not have seen.
    _reconcile(database, {"torn": rows.torn, "unfinished": clean != CLEAN})
    return doubled or is_behind(database), rows.end


def is_behind(database: sqlite3.Connection) -> bool:
    """Whether the CSV has rows that are to be replaced or removed."""
    asked = "select 1 from pages where csv <> 0 and csv in (?, ?)"
    return database.execute(asked, (CHANGED, DELETED)).fetchone() is not None


def delete_pages(database: sqlite3.Connection, which: str = "true") -> None:
    """Delete the pages that meet a condition, with their texts."""
    database.execute(f"delete from texts where id in (select id from pages where {which})")
    database.execute(f"delete from pages where {which}")


def _see(database: sqlite3.Connection, rows: Rows) -> bool:
    """Note all rows in `seen`; return whether a path has several."""
    database.execute(_SEEN)
    database.execute("delete from seen")
    place = 0
    for place, row in enumerate(rows, 1):
        values = (row.path, *page_of(row.path), row.status, row.digest, place, row.text)
        database.execute(_SEE, values)
    (distinct,) = database.execute("select count(*) from seen").fetchone()
    return bool(distinct < place)


def _reconcile(database: sqlite3.Connection, values: dict[str, bool]) -> None:
    moved = database.execute(_MOVED).fetchone() is not None
    database.execute(_EDIT)
    moved = database.execute(_IMPORT).rowcount > 0 or moved
    for statement in (_KEEP_TEXTS, _NOTE):
        database.execute(statement)
    database.execute(_COMPLETE, values)
    delete_pages(database, _GONE)
    if moved:
        database.execute("update pages set position = null where csv = ?", (NEW,))
        database.execute("update pages set position = place from seen where seen.path = pages.path")


def _encoded(database: sqlite3.Connection, shown: str) -> bytes | None:
    """Return the bytes of a page's row as the store has it."""
    found = database.execute("select path, status, text from live where path = ?", (shown,)).fetchone()
    return None if found is None else Row(*found).encoded
