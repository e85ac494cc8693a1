"""Counts what a results file and its store tell: pages by state, speeds, slow and failed pages.

Changes nothing, and can be asked while a run writes to both.
"""

import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_chandra.documents.page import ReadSettings
from mlx_chandra.errors import UsageError
from mlx_chandra.store.lock import running_on
from mlx_chandra.store.schema import store_path

if TYPE_CHECKING:
    import sqlite3

    from mlx_chandra.store.store import Store

_FAILED = "select path, status from live where status <> 'ok' order by position is null, position, id"
_SLOWEST = (
    "select path, seconds, generated_tokens, attempts, status from live "
    "where copy_of is null and seconds > 0 order by seconds desc limit ?"
)
_WORK = """
select count(*), min(began), (select ended from runs order by id desc limit 1), sum(seconds), sum(pages),
    sum(failed), sum(copies), sum(prompt_tokens), sum(generated_tokens) from runs where id >= ?
"""
_MODELS = (
    "select distinct model from settings where id in (select settings from runs where id >= ?) order by id"
)


@dataclass(frozen=True)
class Failed:
    """A page with an error: its path as shown, and its status."""

    path: str
    status: str


@dataclass(frozen=True)
class Slow:
    """A page that took long: seconds in the engine, and the tokens of all its attempts."""

    path: str
    seconds: float
    generated_tokens: int
    attempts: int
    status: str


@dataclass(frozen=True)
class Work:
    """What runs did: when the first began and the last ended in UTC (None: killed or going on), seconds of
    all together, pages with a result, failed ones and copies among them, and tokens of pages that were read.
    """

    runs: int
    began: str
    ended: str | None
    seconds: float
    pages: int
    failed: int
    copies: int
    prompt_tokens: int
    generated_tokens: int
    models: tuple[str, ...]

    @property
    def pages_per_second(self) -> float:
        """Of pages that were read."""
        return (self.pages - self.copies) / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Generated ones."""
        return self.generated_tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Statistics:
    """What is stored of a CSV's pages.

    Attributes:
        states: Number of pages by state: `ok`, `error:truncated`, `error:locked`, ...
        failed: Pages with an error, in the CSV's order.
        running: The number of the process that writes to it now; None for none.
        has_journal: Whether there is a store; else the rest isn't known.
        slowest: Those that took longest, the slowest first.
        last, all: The last run, and all runs; None where there is none.
    """

    path: str
    states: dict[str, int]
    failed: tuple[Failed, ...]
    running: int | None
    has_journal: bool
    slowest: tuple[Slow, ...] = ()
    last: Work | None = None
    all: Work | None = None

    @property
    def pages(self) -> int:
        return sum(self.states.values())


def statistics(csv_path: str, slowest: int) -> Statistics:
    """Return what is stored of the CSV's pages, with so many of the slowest ones.

    Raises:
        UsageError: There is neither a CSV nor a store.
        OutputError: It is no results table, or damaged; or its store is, or of a newer version.
    """
    from mlx_chandra.store.store import Store

    path = os.path.realpath(csv_path)
    has_store = os.path.exists(store_path(path))
    if not os.path.isfile(path) and not has_store:
        raise UsageError(f"There is no results file {path}.", "Check the path.")
    with Store.preview(path, ReadSettings()) as store, store.asking() as database:
        (last,) = database.execute("select coalesce(max(id), 0) from runs").fetchone()
        return Statistics(
            path,
            _states(database),
            tuple(Failed(*row) for row in database.execute(_FAILED)),
            running_on(path),
            has_store,
            tuple(Slow(*row) for row in database.execute(_SLOWEST, (slowest,))),
            _work(database, last),
            _work(database),
        )


@dataclass(frozen=True)
class Speed:
    """What reading took so far: pages, output tokens of a page, and tokens of prompts and output a second."""

    pages: int
    output_tokens: float
    tokens_per_second: float


def speed(store: "Store") -> Speed | None:
    """Return the speed of all runs of a store; None where none has read a page."""
    with store.asking() as database:
        work = _work(database)
        (read, output) = database.execute(
            "select count(*), avg(generated_tokens) from live where attempts > 0 and copy_of is null"
        ).fetchone()
    if work is None or not read or not work.seconds:
        return None
    return Speed(read, output, (work.prompt_tokens + work.generated_tokens) / work.seconds)


def _states(database: "sqlite3.Connection") -> dict[str, int]:
    states: Counter[str] = Counter()
    for status, pages in database.execute("select status, count(*) from live group by status"):
        states[":".join(status.split(":")[:2])] += pages
    return dict(states)


def _work(database: "sqlite3.Connection", first: int = 0) -> Work | None:
    """Return what the run with the id `first` and later ones did."""
    found = database.execute(_WORK, (first,)).fetchone()
    models = tuple(model for (model,) in database.execute(_MODELS, (first,)))
    values = [*found, models]
    return Work(*values) if found[0] else None
