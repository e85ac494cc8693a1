"""The options that say what becomes of results that are there already."""

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_chandra.documents.page import ReadSettings
from mlx_chandra.errors import UsageError

if TYPE_CHECKING:
    from mlx_chandra.store.store import OtherSettings, Start, Store

KINDS = (
    "broken-link", "engine", "internal", "locked", "missing", "no-pages", "out-of-memory", "overflow",
    "refused", "shape", "too-large", "too-long", "unreadable",
)  # fmt: skip
"""The kinds of errors, as a status has them behind `error:`."""

_STATES = ("ok", "empty", "truncated", "repetition", "error")


@dataclass(frozen=True)
class Rerun:
    """Which stored pages are read again.

    Attributes:
        statuses: Beginnings of statuses: `ok`, `error:truncated`, `error:locked`; `error` is any error.
        patterns: For paths as shown, as the shell writes them; `*` also stands for folders in folders.
    """

    statuses: frozenset[str]
    patterns: tuple[str, ...]

    def __call__(self, path: str, status: str) -> bool:
        """Whether the page is meant, by its path as shown and its status."""
        from fnmatch import fnmatchcase

        kind = ":".join(status.split(":")[:2])
        if kind in self.statuses or ("error" in self.statuses and status.startswith("error")):
            return True
        return any(fnmatchcase(path, p) or fnmatchcase(path, f"*/{p}") for p in self.patterns)


def add_to(group: "argparse._ArgumentGroup") -> None:
    """Add the options to a command's group."""
    begin = group.add_mutually_exclusive_group()
    begin.add_argument(
        "--resume",
        action="store_true",
        help="skip pages that the CSV has, failed ones too, unless the file, the model or a setting changed",
    )
    begin.add_argument(
        "--overwrite",
        action="store_true",
        help="throw away what the CSV holds, once the first new page is read",
    )
    group.add_argument("--retry-errors", action="store_true", help="as --resume, but read failed pages again")
    group.add_argument(
        "--rerun",
        action="append",
        default=[],
        metavar="WHICH",
        help="as --resume, but read some pages again: status=truncated,repetition or path=PATTERN",
    )


def start_of(arguments: argparse.Namespace) -> "tuple[Start, Rerun | None]":
    """What to do with results that are there, and which of their pages are read again. Raises UsageError."""
    from mlx_chandra.store.store import Start

    statuses, patterns = {"error"} if arguments.retry_errors else set(), []
    for which in arguments.rerun:
        name, equals, value = which.partition("=")
        if name == "path" and value:
            patterns.append(value)
        elif name == "status" and equals:
            statuses |= {_status(word.strip()) for word in value.split(",")}
        else:
            remedy = "Write status=truncated,repetition or path='*/1998/*'."
            raise UsageError(f"--rerun {which!r} names no pages.", remedy)
    again = Rerun(frozenset(statuses), tuple(patterns)) if statuses or patterns else None
    if not arguments.overwrite:
        return Start.RESUME if arguments.resume or again else Start.FRESH, again
    if again is None:
        return Start.OVERWRITE, None
    option = "--retry-errors" if arguments.retry_errors else "--rerun"
    raise UsageError(f"--overwrite leaves nothing for {option}.", "Leave out one of the two.")


def _status(word: str) -> str:
    """A state or kind of error, with or without its `error:`, as statuses begin."""
    short = word.lower().removeprefix("error:")
    if short in ("ok", "error"):
        return short
    if short in _STATES or short in KINDS:
        return f"error:{short}"
    raise UsageError(
        f"{word!r} is no status.", f"--rerun status= takes {', '.join(_STATES)}, or {', '.join(KINDS)}."
    )


def say_differences(store: "Store", settings: ReadSettings) -> None:
    """Say which stored pages were read with another model or other settings, and will be read again."""
    for other in store.other_settings():
        were = "1 page was" if other.count == 1 else f"{other.count:,} pages were"
        print(
            f"{were} read with another model or other settings ({_difference(other, settings)}), and will be "
            "read again where the input has them. To read only some again, name them: --rerun.",
            file=sys.stderr,
        )


def _difference(other: "OtherSettings", now: ReadSettings) -> str:
    """As in `max_tokens 400, now 2000`."""
    before, after = {"model": other.model, **other.settings}, {"model": now.model, **now.settings}
    changed = [
        f"{name} {_word(before.get(name))}, now {_word(after.get(name))}"
        for name in dict.fromkeys(("model", *sorted({*before, *after})))
        if before.get(name) != after.get(name)
    ]
    return "; ".join(changed) or "the model's weights"


def _word(value: object) -> str:
    return "unset" if value is None else f"{value}"
