"""What the table and its journal tell of a collection: how many pages are in which state, speeds, the slowest
and the failed pages. Changes nothing, and can be asked while a run writes to both.
"""

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from mlx_chandra.errors import UsageError
from mlx_chandra.outputs.journal_file import journal_path, journal_trouble, open_to_read
from mlx_chandra.outputs.results_csv import running_on, statuses_in


@dataclass(frozen=True)
class Failed:
    """A page with an error: its path as the table shows it, and its status."""

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
    """What runs have done.

    Attributes:
        runs: How many they are.
        began: When the first of them began, in UTC.
        ended: When the last one ended; None where it was killed or is still going on.
        seconds: All of them together.
        pages: With a row by them, among them `failed` and `copies`, which weren't read.
        prompt_tokens, generated_tokens: Of the pages that were read.
        models: With which models.
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
    """What is known of a table.

    Attributes:
        path: The table's.
        states: Number of pages by state: `ok`, `error:truncated`, `error:locked`, ...
        failed: Pages with an error, in the table's order.
        running: The number of the process that writes to it now; None for none.
        has_journal: Whether the rest is known.
        slowest: Those that took longest, the slowest first.
        last, all: The last run, and all that the journal knows of; None where there is none.
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


def statistics(path: str, slowest: int) -> Statistics:
    """What is known of the table at `path`, with so many of its slowest pages.

    Raises:
        UsageError: There is no such file.
        OutputError: It is no table, or damaged; or its journal is, or of a newer version.
    """
    path = os.path.realpath(path)
    if not os.path.isfile(path):
        raise UsageError(f"There is no results file {path}.", "Check the path.")
    statuses = statuses_in(path)
    states: dict[str, int] = {}
    for status in statuses.values():
        state = ":".join(status.split(":")[:2])
        states[state] = states.get(state, 0) + 1
    failed = tuple(Failed(page, status) for page, status in statuses.items() if status != "ok")
    found = Statistics(path, states, failed, running_on(path), False)
    journal = journal_path(path)
    with journal_trouble(journal):
        database = open_to_read(journal)
        if database is None:
            return found
        with closing(database):
            return Statistics(
                path,
                states,
                failed,
                found.running,
                True,
                tuple(_slowest(database, statuses, slowest)),
                _work(database, "where id = (select max(id) from runs)"),
                _work(database, ""),
            )


def _slowest(database: sqlite3.Connection, statuses: dict[str, str], count: int) -> list[Slow]:
    found: list[Slow] = []
    rows = database.execute(
        "select path, seconds, generated_tokens, attempts from pages "
        "where copy_of is null and seconds > 0 order by seconds desc"
    )
    for path, seconds, tokens, attempts in rows:
        if len(found) == count:
            break
        if path in statuses:
            found.append(Slow(path, seconds, tokens, attempts, statuses[path]))
    return found


def _work(database: sqlite3.Connection, where: str) -> Work | None:
    names = ("seconds", "pages", "failed", "copies", "prompt_tokens", "generated_tokens")
    sums = ", ".join(f"sum({name})" for name in names)
    row = database.execute(f"select count(*), min(began), {sums} from runs {where}").fetchone()
    if not row[0]:
        return None
    (ended,) = database.execute(f"select ended from runs {where} order by id desc").fetchone()
    models: Sequence[tuple[str]] = database.execute(
        f"select distinct model from readings where id in (select reading from runs {where}) order by id"
    ).fetchall()
    words = tuple(model for (model,) in models)
    return Work(
        runs=row[0], began=row[1], ended=ended, models=words, **dict(zip(names, row[2:], strict=True))
    )
