"""Opens a store for who only looks: its file, with temporary tables over it where the CSV isn't as noted."""

import contextlib
import os
import sqlite3

from mlx_chandra.store.csv_sync import Start
from mlx_chandra.store.reconcile import is_noted, join
from mlx_chandra.store.rows import is_there, read_header
from mlx_chandra.store.schema import (
    VERSION,
    connect,
    find_version,
    make_views,
    migrate,
    open_to_read,
    store_errors,
    store_path,
)

_TABLES = """
select replace(replace(sql, 'CREATE TABLE ', 'create table temp.'), 'CREATE INDEX ', 'create index temp.')
from main.sqlite_master where tbl_name in ('pages', 'texts') and sql is not null order by type desc
"""


def open_preview(path: str, start: Start) -> sqlite3.Connection:
    """Return a database as a run would have it after opening the CSV at `path`. Nothing beside it is written.

    Raises:
        OutputError: The store can't be read, is damaged or of a newer version; or the CSV is no CSV of ours.
    """
    store = store_path(path)
    if start is Start.OVERWRITE and is_there(path):
        read_header(path)
    with store_errors(store):
        database = _opened(store)
        try:
            make_views(database, hidden=start is Start.OVERWRITE)
            if start is not Start.OVERWRITE and not is_noted(database, path):
                _join(database, path)
        except BaseException:
            database.close()
            raise
    return database


def _opened(store: str) -> sqlite3.Connection:
    """Open the store; where it is missing or of version 1, a temporary copy in this version's form."""
    with contextlib.ExitStack() as stack:
        source = open_to_read(store) if os.path.exists(store) else connect("")
        stack.callback(source.close)
        if find_version(source, store) == VERSION:
            stack.pop_all()
            return source
        copy = connect("")
        source.backup(copy)
        migrate(copy, store)
        return copy


def _join(database: sqlite3.Connection, path: str) -> None:
    """Join with the CSV in temporary tables, which hide those of the file."""
    database.execute("begin")
    for (statement,) in database.execute(_TABLES).fetchall():
        database.execute(statement)
    database.execute("insert into temp.pages select * from main.pages")
    join(database, path)
    database.execute("commit")
