"""The journal's file: where it lies, its tables, how it is opened, and what SQLite's errors mean.

People open it with sqlite3, DuckDB or pandas: docs/command-line.md explains its tables.

SQLite's rollback journal is used rather than its write-ahead log: that one needs memory shared between
processes, which network and some external disks don't have. Where the disk knows no locks, there are none;
the run's own lock (`lock.py`) keeps the writers apart.
"""

import contextlib
import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from urllib.parse import quote

from mlx_chandra.errors import DiskFullError, OutputError
from mlx_chandra.outputs.disk import disk_trouble
from mlx_chandra.outputs.rows import shown_path

_PATIENCE = 20.0  # seconds to wait for somebody who reads the journal

APPLICATION = 0x4F43526A  # "OCRj": what `file` and SQLite's header call such a database
VERSION = 1  # is raised when the tables change

SCHEMA = (
    f"pragma application_id = {APPLICATION}",
    f"pragma user_version = {VERSION}",
    """
    create table readings (
        id integer primary key,
        model text not null,
        checkpoint text,
        settings text not null,
        program text not null
    )
    """,
    """
    create table runs (
        id integer primary key,
        began text not null,
        updated text not null,
        ended text,
        reading integer not null references readings,
        seconds real not null default 0,
        pages integer not null default 0,
        failed integer not null default 0,
        copies integer not null default 0,
        prompt_tokens integer not null default 0,
        generated_tokens integer not null default 0
    )
    """,
    """
    create table files (
        path text primary key,
        size integer not null,
        mtime_ns integer not null,
        content text not null
    )
    """,
    """
    create table pages (
        path text primary key,
        content text,
        number integer not null,
        reading integer not null references readings,
        run integer not null references runs,
        status text not null,
        finish_reason text,
        prompt_tokens integer not null,
        answer_tokens integer not null,
        generated_tokens integer not null,
        attempts integer not null,
        seconds real not null,
        width integer,
        height integer,
        box_scale integer,
        copy_of text,
        finished text not null
    )
    """,
    "create index pages_by_content on pages (content, number)",
)


class NotAJournal(Exception):
    """The file is damaged, or something else."""


def journal_path(table_path: str) -> str:
    """Where the journal of a table lies."""
    return f"{table_path}.journal.sqlite"


def open_journal(path: str, fresh: bool) -> tuple[sqlite3.Connection, str | None]:
    """Opens the journal to write to it, and makes it where there is none, or with `fresh`.

    Returns the database, and where a damaged journal was moved to, so that nothing is lost; None if none was.

    Raises:
        OutputError: It can't be written, or a newer version wrote it.
    """
    if fresh:
        _remove(path)
    try:
        return _opened(path), None
    except NotAJournal:
        moved = _set_aside(path)
        return _opened(path), moved


def open_to_read(path: str) -> sqlite3.Connection | None:
    """The journal for somebody who changes nothing, also while a run writes to it; None where there is none.

    Raises:
        OutputError: It can't be read, is damaged, or a newer version wrote it.
    """
    if not os.path.exists(path):
        return None
    with journal_trouble(path):
        # Not mode=ro: what a killed run left half done is taken back by whoever opens it next.
        mode = "rw" if os.access(path, os.W_OK) and os.access(os.path.dirname(path), os.W_OK) else "ro"
        database = _connected(path, f"?mode={mode}")
        try:
            database.execute("pragma query_only = 1")
            is_ours = _is_ours(database, path)
        except BaseException:
            database.close()
            raise
        if is_ours:
            return database
        database.close()
        raise OutputError(
            f"{path} is no journal of mlx-chandra's.", "Move it away; the table doesn't need it."
        )


def empty_journal() -> sqlite3.Connection:
    """One that is nowhere on the disk."""
    database = sqlite3.connect(":memory:", isolation_level=None)
    for statement in SCHEMA:
        database.execute(statement)
    return database


def _opened(path: str) -> sqlite3.Connection:
    """The database, with its tables. Raises NotAJournal, and OutputError for one of a newer version."""
    with journal_trouble(path):
        database = _connected(path, "" if _knows_locks(path) else "?nolock=1")
        try:
            database.execute("begin immediate")
            if not _is_ours(database, path):
                if database.execute("select 1 from sqlite_master").fetchone():
                    raise NotAJournal
                for statement in SCHEMA:
                    database.execute(statement)
            database.execute("commit")
        except sqlite3.DatabaseError as error:
            database.close()
            if isinstance(error, sqlite3.OperationalError):
                raise
            raise NotAJournal from error  # not a database, or a damaged one
        except BaseException:
            database.close()
            raise
    return database


def _connected(path: str, options: str) -> sqlite3.Connection:
    uri = f"file:{quote(os.fsencode(path))}{options}"
    return sqlite3.connect(uri, _PATIENCE, isolation_level=None, check_same_thread=False, uri=True)


def _is_ours(database: sqlite3.Connection, path: str) -> bool:
    """Whether it is a journal of this version. Raises OutputError for one of a newer version."""
    (application,) = database.execute("pragma application_id").fetchone()
    (version,) = database.execute("pragma user_version").fetchone()
    if application == APPLICATION and version > VERSION:
        raise OutputError(
            f"{shown_path(path)} is of a newer mlx-chandra (form {version}; this one knows {VERSION}).",
            "Use that one. Or move the journal away: then every page in the table counts as done.",
        )
    return bool((application, version) == (APPLICATION, VERSION))


def _knows_locks(path: str) -> bool:
    """Whether the disk can lock the file, which is made where there is none."""
    with open(path, "ab") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
    return True


def _remove(path: str) -> None:
    for file in (path, f"{path}-journal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file)


def _set_aside(path: str) -> str:
    """Renames a file that is no journal, so that nothing is lost. Returns its new name."""
    number = 1
    while os.path.lexists(f"{path}.damaged-{number}"):
        number += 1
    with contextlib.suppress(FileNotFoundError):
        os.replace(f"{path}-journal", f"{path}.damaged-{number}-journal")
    os.replace(path, f"{path}.damaged-{number}")
    return f"{path}.damaged-{number}"


@contextlib.contextmanager
def journal_trouble(path: str) -> Iterator[None]:
    """Raises DiskFullError or OutputError, naming the journal, for an error of SQLite's or the system's."""
    try:
        with disk_trouble(path):
            yield
    except sqlite3.Error as error:
        raise journal_error(path, error) from error


def journal_error(path: str, error: sqlite3.Error) -> OutputError:
    """What an error of SQLite's means for the journal at `path`."""
    if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":
        return DiskFullError(
            f"The disk that takes {shown_path(path)} is full.",
            "What was written before is safe. Make room and run again with --resume.",
        )
    return OutputError(
        f"The journal {shown_path(path)} can't be used: {error}.",
        "The results are safe. Check the disk and the folder's rights; if the journal is damaged, move it "
        "away and run again with --resume.",
    )
