"""Opens a store for who only looks: its file where the CSV is as noted, else a temporary copy."""

import contextlib
import os
import sqlite3

from mlx_chandra.store.csv_file import CsvFile
from mlx_chandra.store.csv_sync import Start, is_there
from mlx_chandra.store.reconcile import reconcile, write_all_again
from mlx_chandra.store.rows import check_header
from mlx_chandra.store.schema import (
    CLEAN,
    REPLACE,
    VERSION,
    connect,
    migrate,
    open_to_read,
    store_errors,
    store_path,
)
from mlx_chandra.store.version1 import take_redo_file

_TABLES = ("settings", "runs", "files", "pages", "csv", "texts")


def open_preview(path: str, start: Start, texts: bool) -> sqlite3.Connection:
    """Return a database as a run would have it after opening the CSV at `path`.

    The copy lies in a temporary file of SQLite's, not in memory.

    Raises:
        OutputError: The store can't be read, is damaged or of a newer version; or the CSV is no CSV of ours.
    """
    store, there = store_path(path), is_there(path)
    if start is Start.OVERWRITE and there:
        check_header(path)
    source = open_to_read(store) if os.path.exists(store) else None
    with contextlib.ExitStack() as stack, store_errors(store):
        if source is not None and _is_in_step(source, path, start):
            return source
        if source is not None:
            stack.callback(source.close)
        database = connect("")
        try:
            _copy(source, database, store, texts)
            if start is not Start.OVERWRITE:
                _join(database, path, texts, there)
        except BaseException:
            database.close()
            raise
    return database


def _is_in_step(source: sqlite3.Connection, path: str, start: Start) -> bool:
    (version,) = source.execute("pragma user_version").fetchone()
    if version != VERSION:
        return False
    *noted, clean = source.execute("select size, mtime_ns, clean from csv").fetchone()
    as_noted = clean == CLEAN and tuple(noted) == CsvFile(path).stamp
    return bool(as_noted or start is Start.OVERWRITE)


def _copy(source: sqlite3.Connection | None, database: sqlite3.Connection, store: str, texts: bool) -> None:
    """Fill the copy, in this version's form."""
    if source is not None and (texts or source.execute("pragma user_version").fetchone()[0] < VERSION):
        source.backup(database)
        migrate(database, store)
        return
    migrate(database, store)
    if source is not None:
        _copy_tables(source, database)


def _copy_tables(source: sqlite3.Connection, database: sqlite3.Connection) -> None:
    """Copy all tables but the texts, as they are at one moment."""
    database.execute("begin")
    source.execute("begin")
    database.execute("delete from csv")
    for table in _TABLES[:-1]:
        rows = source.execute(f"select * from {table}")
        marks = ", ".join("?" * len(rows.description))
        database.executemany(f"insert into {table} values ({marks})", rows)
    source.execute("rollback")
    database.execute("commit")


def _join(database: sqlite3.Connection, path: str, texts: bool, there: bool) -> None:
    """Reconcile the copy with the CSV."""
    (clean,) = database.execute("select clean from csv").fetchone()
    database.execute("begin")
    if there and clean != REPLACE:
        take_redo_file(database, path)
        reconcile(database, path, unfinished=clean != CLEAN, texts=texts)
    else:
        write_all_again(database)
    database.execute("commit")
