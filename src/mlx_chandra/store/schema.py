"""The store's file: where it lies, its tables and their migrations, and what SQLite's errors mean.

People open it with sqlite3, DuckDB or pandas: docs/command-line.md explains its tables.

SQLite's rollback journal is used rather than its write-ahead log: that one needs memory shared between
processes, which network and some external disks don't have. Where the disk has no locks, none are used: the
run's own lock (`lock.py`) keeps the writers apart.
"""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from urllib.parse import quote

from mlx_chandra.errors import DiskFullError, OutputError
from mlx_chandra.files.disk import disk_errors
from mlx_chandra.files.paths import shown_path
from mlx_chandra.store import version1

_PATIENCE = 60.0  # seconds to wait for somebody who looks into the store with another program
APPLICATION = 0x4F43526A  # "OCRj": what `file` and SQLite's header call such a database

# How a page's row in the CSV compares with the store: `pages.csv`.
SAME, NEW, CHANGED, DELETED = 0, 1, 2, 3

# What the CSV is: `csv.clean`.
UNCLEAN, CLEAN, REPLACE = 0, 1, 2  # a run wrote to it; as noted; to be replaced whatever it holds

SCHEMA = """
create table settings (
    id integer primary key, model text not null, checkpoint text, settings text not null,
    program text not null
);
create table runs (
    id integer primary key, began text not null, updated text not null, ended text,
    settings integer not null references settings, seconds real not null default 0,
    pages integer not null default 0, failed integer not null default 0, copies integer not null default 0,
    prompt_tokens integer not null default 0, generated_tokens integer not null default 0
);
create table files (
    path text primary key, size integer not null, mtime_ns integer not null, content text not null
);
create table pages (
    id integer primary key, path text not null unique, document text not null, number integer not null,
    status text not null, digest text not null, content text, settings integer references settings,
    run integer references runs, finish_reason text, prompt_tokens integer not null default 0,
    output_tokens integer not null default 0, generated_tokens integer not null default 0,
    attempts integer not null default 0, seconds real not null default 0, width integer, height integer,
    box_scale integer, copy_of text, finished text, position integer, csv integer not null
);
create table texts (
    id integer primary key references pages, text text not null
);
create table csv (
    size integer, mtime_ns integer, clean integer not null
);
insert into csv values (null, null, 0);
create index pages_by_content on pages (content, number);
create index pages_by_document on pages (document, number);
create index pages_by_settings on pages (settings, status);
create index pages_by_position on pages (position, csv);
create index pages_to_write on pages (csv) where csv <> 0;
"""

_VIEWS = """
create temp table if not exists plan (n integer primary key, path text not null unique);
drop view if exists temp.live;
create temp view live as select *, coalesce(
    (select text from texts where id = pages.id), (select text from main.texts where id = pages.id)
) as text from pages where {}
"""

# In one question, for a run may make the tables at this moment.
_VERSION = (
    "select application_id, user_version, (select count(*) from sqlite_master) "
    "from pragma_application_id, pragma_user_version"
)


def _from_version1(database: sqlite3.Connection) -> None:
    version1.rename_tables(database)
    run_script(database, SCHEMA)
    run_script(database, version1.COPY_FACTS)


MIGRATIONS: list[Callable[[sqlite3.Connection], None]] = [_from_version1]
"""What makes version n + 2 of n + 1."""

VERSION = 1 + len(MIGRATIONS)


class Damaged(OutputError):
    """The file is damaged, or something else."""


def run_script(database: sqlite3.Connection, script: str) -> None:
    """Execute statements within the caller's transaction, which `executescript` would commit."""
    for statement in script.split(";\n"):
        database.execute(statement)


def make_views(database: sqlite3.Connection, hidden: bool) -> None:
    """Make `live`, the pages that count with their texts (none if `hidden`), and `plan`, the input's paths.

    Both are this connection's own. In a preview, temporary tables hide the file's pages and some texts.
    """
    run_script(database, _VIEWS.format("false" if hidden else f"csv <> {DELETED}"))


def store_path(csv_path: str) -> str:
    """Return where the store of a CSV lies."""
    return f"{csv_path}.journal.sqlite"


def open_store(path: str, locks: bool) -> tuple[sqlite3.Connection, int]:
    """Open the store to write to it; make or migrate it where needed. `locks`: the disk has them.

    Returns the database, and the version that was found; 0 for none.

    Raises:
        Damaged: It is no database of ours, or a damaged one.
        OutputError: It can't be written, or a newer version wrote it.
    """
    with store_errors(path):
        database = connect(path, "" if locks else "?nolock=1")
        try:
            database.execute("begin immediate")
            version = migrate(database, path)
            database.execute("commit")
        except BaseException:
            database.close()
            raise
    return database, version


def migrate(database: sqlite3.Connection, path: str) -> int:
    """Bring the tables to this version within the caller's transaction; return the version before.

    Raises Damaged where it is somebody else's database, and OutputError where a newer version wrote it.
    """
    version = find_version(database, path)
    if not version:
        run_script(database, SCHEMA)
    for step in MIGRATIONS[version - 1 :] if version else []:
        step(database)
    if version < VERSION:
        database.execute(f"pragma application_id = {APPLICATION}")
        database.execute(f"pragma user_version = {VERSION}")
    return version


def open_to_read(path: str) -> sqlite3.Connection:
    """Open the store for somebody who changes nothing, also while a run writes to it."""
    # Not mode=ro alone: what a killed run left half written is taken back by whoever opens it next.
    writable = os.access(path, os.W_OK) and os.access(os.path.dirname(path), os.W_OK)
    return connect(path, "?mode=rw" if writable else "?mode=ro")


def connect(path: str, options: str = "") -> sqlite3.Connection:
    """Connect to a database file; "" is a temporary one."""
    uri = f"file:{quote(os.fsencode(path))}{options}" if path else ""
    return sqlite3.connect(uri, _PATIENCE, isolation_level=None, check_same_thread=False, uri=True)


def find_version(database: sqlite3.Connection, path: str) -> int:
    """Return the version of the tables; 0 for an empty file. Raises Damaged and OutputError as `migrate`."""
    application, version, tables = database.execute(_VERSION).fetchone()
    if application == APPLICATION and version > VERSION:
        raise OutputError(
            f"{shown_path(path)} is of a newer mlx-chandra (form {version}; this one knows {VERSION}).",
            "Use that one. Or move the store away: then every page in the CSV counts as read.",
        )
    if application == APPLICATION and version >= 1:
        return int(version)
    if tables:
        raise Damaged(f"{path} is no store of mlx-chandra's.", "Move it away; the CSV has all texts.")
    return 0


def set_aside(path: str) -> str:
    """Rename a file that is no store, so that nothing is lost. Returns its new name."""
    number = 1
    while os.path.lexists(f"{path}.damaged-{number}"):
        number += 1
    with contextlib.suppress(FileNotFoundError):
        os.replace(f"{path}-journal", f"{path}.damaged-{number}-journal")
    os.replace(path, f"{path}.damaged-{number}")
    return f"{path}.damaged-{number}"


@contextlib.contextmanager
def store_errors(path: str) -> Iterator[None]:
    """Raise an OutputError that names the store for an error of SQLite's or the system's.

    It is Damaged where the file itself is, and DiskFullError for want of room.
    """
    try:
        with disk_errors(path):
            yield
    except sqlite3.Error as error:
        raise _store_error(shown_path(path), error) from error


def _store_error(path: str, error: sqlite3.Error) -> OutputError:
    name = str(getattr(error, "sqlite_errorname", ""))
    # where a limit on files' sizes or a quota is reached, SQLite says only that it can't write
    if name in ("SQLITE_FULL", "SQLITE_IOERR_WRITE"):
        return DiskFullError(
            f"The disk that takes {path} is full.",
            "What was written before is safe. Make room and run again with --resume.",
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return Damaged(
            f"The store {path} is damaged: {error}.",
            "The results in the CSV are safe. Run again with --resume: it begins a new store from the CSV.",
        )
    return OutputError(
        f"The store {path} can't be used: {error}.",
        "The results are safe. Check the disk and the folder's rights, and run again with --resume.",
    )
