"""The options that say what becomes of results that are there already, and what they lead to."""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_chandra.errors import UsageError

if TYPE_CHECKING:
    from mlx_chandra.outputs.journal import Journal, Other
    from mlx_chandra.outputs.making import Making
    from mlx_chandra.outputs.results_csv import ResultsFile, Start

KINDS = (
    "broken-link", "internal", "locked", "missing", "no-pages", "out-of-memory", "overflow", "refused",
    "shape", "too-large", "too-long", "unreadable",
)  # fmt: skip
"""Of errors, as a status has them behind `error:`."""

_STATES = ("ok", "empty", "truncated", "repetition", "error")


@dataclass(frozen=True)
class Rerun:
    """Which rows are done again: those with one of the `statuses`, and those whose path fits a pattern.

    Attributes:
        statuses: As the table's begin: `ok`, `error:truncated`, `error:locked`; `error` is any of these.
        patterns: As the shell writes them; `*` also stands for folders in folders.
    """

    statuses: frozenset[str] = frozenset()
    patterns: tuple[str, ...] = ()

    def __call__(self, path: str, status: str) -> bool:
        """Whether the row is meant, by its path as shown and its status."""
        from fnmatch import fnmatchcase

        kind = ":".join(status.split(":")[:2])
        if kind in self.statuses or ("error" in self.statuses and status.startswith("error")):
            return True
        return any(fnmatchcase(path, p) or fnmatchcase(path, f"*/{p}") for p in self.patterns)


def add_to(group: "argparse._ArgumentGroup") -> None:
    """Adds the options to a command's group."""
    begin = group.add_mutually_exclusive_group()
    begin.add_argument(
        "--resume",
        action="store_true",
        help="skip pages that the CSV has, failed ones too, unless the file, the model or a setting changed",
    )
    begin.add_argument("--overwrite", action="store_true", help="throw away what the CSV holds")
    group.add_argument("--retry-errors", action="store_true", help="as --resume, but do failed pages again")
    group.add_argument(
        "--rerun",
        action="append",
        default=[],
        metavar="WHICH",
        help="as --resume, but do some pages again: status=truncated,repetition or path=PATTERN",
    )


def start_of(arguments: argparse.Namespace) -> "tuple[Start, Rerun | None]":
    """What to do with a table that is there, and which of its rows are done again. Raises UsageError."""
    from mlx_chandra.outputs.results_csv import Start

    again = [_parsed(word) for word in arguments.rerun]
    if arguments.retry_errors:
        again.append(Rerun(frozenset({"error"})))
    if arguments.overwrite:
        if again:
            option = "--retry-errors" if arguments.retry_errors else "--rerun"
            raise UsageError(f"--overwrite leaves nothing for {option}.", "Leave out one of the two.")
        return Start.OVERWRITE, None
    if not again:
        return Start.RESUME if arguments.resume else Start.FRESH, None
    statuses = frozenset[str]().union(*(which.statuses for which in again))
    return Start.RESUME, Rerun(statuses, tuple(p for which in again for p in which.patterns))


def _parsed(which: str) -> Rerun:
    name, equals, value = which.partition("=")
    if name == "path" and value:
        return Rerun(patterns=(value,))
    if name != "status" or not equals:
        raise UsageError(
            f"--rerun {which!r} names no pages.", "Write status=truncated,repetition or path='*/1998/*'."
        )
    return Rerun(statuses=frozenset(_status(word.strip()) for word in value.split(",")))


def _status(word: str) -> str:
    """A state or kind of error, with or without its `error:`, as the table's statuses begin."""
    short = word.lower().removeprefix("error:")
    if short in ("ok", "error"):
        return short
    if short in _STATES or short in KINDS:
        return f"error:{short}"
    raise UsageError(
        f"{word!r} is no status.", f"--rerun status= takes {', '.join(_STATES)}, or {', '.join(KINDS)}."
    )


@contextlib.contextmanager
def journal_of(results: "ResultsFile", making: "Making", only_named: bool) -> "Iterator[Journal]":
    """The journal beside the table. With `only_named`, pages that were read with other settings stay.

    Raises OutputError when it can't be written or is of a newer version.
    """
    from mlx_chandra.outputs.journal import Journal

    with Journal(results.path, making, results.is_new, only_named) as journal:
        if journal.set_aside is not None:
            print(
                f"Warning: {journal.path} was damaged. It was moved to {journal.set_aside} and begun anew; "
                "pages in the CSV count as done, whatever model and settings read them.",
                file=sys.stderr,
            )
        for other in [] if only_named else journal.others():
            pages = "1 page was" if other.pages == 1 else f"{other.pages:,} pages were"
            print(
                f"{pages} read with another model or other settings ({_difference(other, making)}), and are "
                "done again where they are met. To do only some again, name them: --rerun.",
                file=sys.stderr,
            )
        yield journal


def _difference(other: "Other", making: "Making") -> str:
    """What was otherwise: `max_tokens 400, now 2000`."""
    changed = {"model": (other.model, making.model)} if other.model != making.model else {}
    for name in sorted({*other.settings, *making.settings}):
        before, now = other.settings.get(name), making.settings.get(name)
        if before != now:
            changed[name] = (_word(before), _word(now))
    said = [f"{name} {before}, now {now}" for name, (before, now) in changed.items()]
    return "; ".join(said) or "the model's weights"


def _word(value: object) -> str:
    return "unset" if value is None else f"{value}"
