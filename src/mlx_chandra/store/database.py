"""The open store: answers one question or makes one change at a time, for any thread."""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any

from mlx_chandra.errors import OutputError
from mlx_chandra.store import order
from mlx_chandra.store.schema import DELETED, connect, is_damage, open_store, set_aside, store_errors


class Database:
    """The store at `path`; `version` is what was found there, 0 for nothing.

    `taken_away` is called before it is written anew where somebody took it away.

    Raises:
        Damaged: It is no database of ours, or a damaged one.
        OutputError: It can't be written, or a newer version wrote it.
    """

    def __init__(self, path: str, mutex: "threading.RLock", taken_away: Callable[[], None]) -> None:
        self.path, self._mutex, self._taken_away = path, mutex, taken_away
        self._connection, self.version = open_store(path)
        self._inode: os.stat_result | None = os.stat(path)
        self._damaged = self._hidden = False

    @classmethod
    def of_preview(cls, path: str, mutex: "threading.RLock", connection: sqlite3.Connection) -> "Database":
        """Return one that is only asked, through a connection that is open."""
        database = cls.__new__(cls)
        database.path, database._mutex, database._connection = path, mutex, connection
        database.version, database._inode = 0, None
        database._damaged = database._hidden = False
        return database

    def show(self, hidden: bool) -> None:
        """Make the view `live` of the pages that count: none of them, while all are to be overwritten."""
        self._hidden = hidden
        self._connection.execute("drop view if exists temp.live")
        condition = "0" if hidden else f"csv <> {DELETED}"
        self._connection.execute(f"create temp view live as select * from pages where {condition}")

    @contextlib.contextmanager
    def asking(self) -> Iterator[sqlite3.Connection]:
        """Give the connection to the block alone. SQLite doesn't survive being closed under a question."""
        with self._mutex, store_errors(self.path):
            try:
                yield self._connection
            except sqlite3.Error as error:
                self._damaged = self._damaged or is_damage(error)
                raise

    def one(self, asked: str, *values: object) -> Any:
        """Return the first line of an answer; None for none."""
        with self.asking() as connection:
            return connection.execute(asked, values).fetchone()

    @contextlib.contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """Make a change that is there whole or not at all, and on the disk when the block is left."""
        with self.asking():
            self._be_there()
            connection = self._connection
            connection.execute("begin immediate")
            try:
                yield connection
                connection.execute("commit")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("rollback")
                raise

    def close(self) -> None:
        """Let go of the file. A damaged one is set aside, so that the next run begins anew from the CSV."""
        with self._mutex:
            self._connection.close()
            if self._damaged and self._inode is not None:
                with contextlib.suppress(OSError):
                    self.set_aside()

    def set_aside(self) -> str:
        """Close the file and rename it; return its new name."""
        self._connection.close()
        self._damaged = False
        return set_aside(self.path)

    @property
    def is_damaged(self) -> bool:
        """Whether it was found damaged."""
        return self._damaged

    def _be_there(self) -> None:
        """Write the file anew where it was taken away. Raises OutputError where another one lies there."""
        try:
            if self._inode is None or os.path.samestat(self._inode, os.stat(self.path)):
                return
        except (FileNotFoundError, NotADirectoryError):
            self._write_anew()
            return
        raise OutputError(
            f"{self.path} was replaced while the run wrote to it.",
            "It was left as it is. The CSV has the results; run again with --resume, and leave it alone.",
        )

    def _write_anew(self) -> None:
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        self._taken_away()
        connection = connect(self.path)
        self._connection.backup(connection)
        order.plan(connection, order.planned(self._connection))
        self._connection.close()
        self._connection, self._inode = connection, os.stat(self.path)
        self.show(self._hidden)
