"""The open store: answers one question or makes one change at a time, for any thread."""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any

from mlx_chandra.errors import OutputError
from mlx_chandra.store import order
from mlx_chandra.store.schema import Damaged, connect, make_views, store_errors


class Database:
    """The store at `path`, through an open connection.

    `taken_away` is called before the file is written anew where somebody took it away; None for a store that
    is only asked. All of it raises OutputError for an error of SQLite's, and once it is closed.
    """

    def __init__(
        self,
        path: str,
        mutex: "threading.RLock",
        connection: sqlite3.Connection,
        taken_away: Callable[[], None] | None,
    ) -> None:
        self.path, self.is_damaged = path, False
        self._mutex, self._connection, self._taken_away = mutex, connection, taken_away
        self._inode = os.stat(path) if taken_away else None
        self._hidden = False

    def show(self, hidden: bool) -> None:
        """Let `live` show the pages that count: none of them, while all are to be overwritten."""
        self._hidden = hidden
        make_views(self._connection, hidden)

    @contextlib.contextmanager
    def asking(self) -> Iterator[sqlite3.Connection]:
        """Give the connection to the block alone. SQLite doesn't survive being closed under a question."""
        with self._mutex:
            try:
                with store_errors(self.path):
                    yield self._connection
            except Damaged:
                self.is_damaged = True
                raise

    def all(self, asked: str, *values: object) -> list[Any]:
        """Return all lines of an answer."""
        with self.asking() as connection:
            return connection.execute(asked, values).fetchall()

    def one(self, asked: str, *values: object) -> Any:
        """Return the first line of an answer; None for none."""
        return next(iter(self.all(asked, *values)), None)

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
        """Let go of the file."""
        with self._mutex:
            self._connection.close()

    def _be_there(self) -> None:
        """Write the file anew where it was taken away. Raises OutputError where another one lies there."""
        try:
            if self._inode and os.path.samestat(self._inode, os.stat(self.path)):
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
        if self._taken_away:
            self._taken_away()
        connection = connect(self.path)
        self._connection.backup(connection)
        planned = self.all("select path from plan order by n")
        self._connection.close()
        self._connection, self._inode = connection, os.stat(self.path)
        self.show(self._hidden)
        order.plan(connection, (path for (path,) in planned))
