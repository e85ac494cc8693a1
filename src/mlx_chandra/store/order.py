"""The order of the CSV's rows: as they stood, and new ones where the input has them.

`pages.position` is a row's place in the CSV. It is null for rows of runs that haven't come to their end:
these stand behind all others, in the order in which they were added.
"""

import sqlite3
from collections.abc import Iterable, Iterator

from mlx_chandra.store.rows import Row
from mlx_chandra.store.schema import DELETED, NEW

# A new page stands behind the last page before it in the input that has a position; without one, before the
# first page behind it that has one. What shares nothing with the input stays behind all others.
_PLACED = f"""
with planned as (
    select id, n, position, count(position) over (order by n) as before
    from plan join pages using (path) where csv <> {DELETED}
), anchored as (
    select id, n, coalesce(
        max(position) over (partition by before),
        (select position - 0.5 from planned where position is not null order by n limit 1), 9e15
    ) as anchor from planned
)
select pages.id from pages left join anchored using (id) where csv <> {DELETED}
order by coalesce(position, anchor, 9e15), iif(position is null, coalesce(n, 9e15), -1), pages.id
"""


def plan(database: sqlite3.Connection, paths: Iterable[str]) -> None:
    """Note the next pages of the input, by their paths as shown."""
    database.executemany("insert or ignore into plan (path) values (?)", ((path,) for path in paths))


def stored_order(database: sqlite3.Connection, which: str = f"csv <> {DELETED}") -> list[int]:
    """Return the ids of all pages in the order of the CSV."""
    return _ids(database, f"select id from pages where {which} order by position is null, position, id")


def input_order(database: sqlite3.Connection) -> list[int]:
    """Return the ids of all pages as the CSV should have them at the end of a run."""
    return _ids(database, _PLACED)


def set_positions(database: sqlite3.Connection, order: list[int]) -> None:
    """Give pages their positions, within the caller's transaction."""
    database.executemany(
        "update pages set position = ?1 where id = ?2 and position is not ?1", enumerate(order)
    )


def rows_of(database: sqlite3.Connection, ids: Iterable[int]) -> Iterator[Row]:
    """Yield the rows of pages one by one, from the disk."""
    asked = "select path, status, text from pages join texts using (id) where id = ?"
    for page in ids:
        yield Row(*database.execute(asked, (page,)).fetchone())


def new_rows(database: sqlite3.Connection) -> Iterator[Row]:
    """Yield the rows that are to be appended to the CSV."""
    return rows_of(database, stored_order(database, f"csv <> 0 and csv = {NEW}"))


def _ids(database: sqlite3.Connection, asked: str) -> list[int]:
    return [page for (page,) in database.execute(asked)]
