"""`ocr --dry-run`: says what a run would do and cost, loads no model and writes nothing."""

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlx_chandra.cli.numbers import counted
from mlx_chandra.cli.progress import duration as said_duration
from mlx_chandra.cli.progress import printable
from mlx_chandra.done import ContentJudge
from mlx_chandra.errors import PageError, UsageError, error_status
from mlx_chandra.forecast import (
    AnswerGuess,
    Foreseen,
    ImaginedTable,
    Trouble,
    Writing,
    disk_bytes,
    duration,
    existing_folder,
    foresee,
)
from mlx_chandra.outputs.journal_view import journal_view
from mlx_chandra.outputs.making import Making
from mlx_chandra.outputs.results_csv import Again, Row, Start, stored

if TYPE_CHECKING:
    from mlx_chandra.cli.guesses import Guesses
    from mlx_chandra.cli.inputs import Source
    from mlx_chandra.cli.reader import ReaderOptions
    from mlx_chandra.pipeline import Settings

_MOST_TROUBLES = 10  # that are listed without --verbose
_SECONDS_BETWEEN_NOTES = 5.0


@dataclass
class _Sum:
    """All documents together."""

    documents: Counter[str] = field(default_factory=Counter)
    pages: int = 0
    done: int = 0
    left: int = 0  # pages that would be read
    copies: int = 0  # that would get another one's row
    to_do: int = 0  # documents with such pages or those
    prompt_tokens: int = 0
    path_bytes: int = 0
    troubles: dict[str, Trouble] = field(default_factory=dict)  # by the page


@dataclass(frozen=True)
class _Cost:
    """What a document takes: the tokens of its prompts, how many pages get rows of others, and all that is
    wrong with its pages."""

    tokens: int
    copies: int
    troubles: Sequence[Trouble]


@dataclass(frozen=True)
class Earlier:
    """What is there of earlier runs, and what becomes of it: the table, with what pages would be read now,
    how the run begins with the table, and which of its rows are done again."""

    results: str
    making: Making
    start: Start
    again: Again | None


def show(
    source: "Source", earlier: Earlier, settings: "Settings", options: "ReaderOptions", verbose: bool
) -> None:
    """Prints what a run with these options would do.

    Raises UsageError where it would refuse to begin; OutputError for an --output that is no such table.
    """
    from mlx_chandra.cli.guesses import Guesses

    rows = _rows(earlier)
    guesses = Guesses(options)
    total = _Sum()
    table, path = ImaginedTable(rows, earlier.again), os.path.realpath(earlier.results)
    with journal_view(path, earlier.making, not rows, earlier.again is not None) as journal:
        judge = ContentJudge(table, journal)
        for document in _noted(foresee(source, table, judge, settings.reading), verbose):
            cost = _add(document, total, guesses)
            if verbose:
                print(_document_line(document, cost))
    for line in _lines(total, rows, guesses, earlier.results, settings, options):
        print(line)
    if not verbose:
        _print_troubles(total)
    print("Nothing was read or written.")


def _rows(earlier: Earlier) -> list[Row]:
    """What the table holds of earlier runs that counts for this one."""
    rows = [] if earlier.start is Start.OVERWRITE else list(stored(earlier.results))
    if rows and earlier.start is Start.FRESH:
        raise UsageError(
            f"{earlier.results} already holds the results of {len(rows):,} pages.",
            "Add --resume to go on with it, or --overwrite to start anew.",
        )
    return rows


def _noted(documents: Iterable[Foreseen], verbose: bool) -> Iterator[Foreseen]:
    """The same; every few seconds it is said how far it is."""
    noted = time.monotonic()
    for number, document in enumerate(documents, start=1):
        yield document
        if not verbose and time.monotonic() - noted > _SECONDS_BETWEEN_NOTES:
            noted = time.monotonic()
            print(f"{number:,} documents looked at", file=sys.stderr, flush=True)


def _add(document: Foreseen, total: _Sum, guesses: "Guesses") -> _Cost:
    """Counts a document."""
    troubles, tokens, left, copies = list(document.troubles), 0, 0, 0
    for sized in document.sized:
        try:
            tokens += guesses.prompt_tokens(sized.shape)
            left += 1
        except PageError as error:  # a shape that the model can't take
            troubles.append(Trouble(sized.page, error_status(error)))
    total.troubles.update((trouble.page, trouble) for trouble in troubles)
    for copied in document.copies:
        if copied.origin in total.troubles:  # what can't be read there can't be here
            troubles.append(Trouble(copied.page.path, total.troubles[copied.origin].status))
            total.troubles[copied.page.path] = troubles[-1]
        else:
            copies += 1
    total.documents[document.kind] += 1
    total.pages += document.pages
    total.done += document.done
    total.left += left
    total.copies += copies
    total.to_do += left + copies > 0
    total.prompt_tokens += tokens
    total.path_bytes += (left + copies) * len(document.path.encode("utf-8", "surrogateescape"))
    return _Cost(tokens, copies, troubles)


def _document_line(document: Foreseen, cost: _Cost) -> str:
    parts = [counted(document.pages, "page")]
    if document.done:
        parts.append(f"{document.done:,} done")
    parts += [f"{cost.copies:,} of the same content as others"] if cost.copies else []
    parts += [f"{cost.tokens:,} prompt tokens"] if cost.tokens else []
    parts += [printable(trouble.status) for trouble in cost.troubles]
    return f"{printable(document.path)}: {document.kind}, {', '.join(parts)}"


def _lines(
    total: _Sum,
    rows: list[Row],
    guesses: "Guesses",
    results_path: str,
    settings: "Settings",
    options: "ReaderOptions",
) -> Iterator[str]:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in total.documents.most_common())
    yield f"Documents: {sum(total.documents.values()):,} ({kinds})"
    parts = [f"{total.done:,} done already"] if total.done else []
    parts += [f"{total.copies:,} of the same content as others"] if total.copies else []
    parts += [f"{len(total.troubles):,} that can't be read"] if total.troubles else []
    parts += [f"{total.left:,} to read"]
    yield f"Pages: {total.pages:,}: {', '.join(parts)}"
    if not total.left + total.copies:
        return
    answer = guesses.answer(rows)
    if total.left:
        yield from _reading_lines(total, guesses, options, answer)
    yield _disk_line(total, results_path, settings, answer)


def _reading_lines(
    total: _Sum, guesses: "Guesses", options: "ReaderOptions", answer: AnswerGuess
) -> Iterator[str]:
    written = total.left * answer.tokens
    yield (
        f"Tokens: about {total.prompt_tokens:,} to read{guesses.prompt_origin}, and {_round(written)} to "
        f"write: {answer.tokens:,.0f} a page, {answer.origin}"
    )
    yield _time_line(total, guesses, options, answer)


def _time_line(total: _Sum, guesses: "Guesses", options: "ReaderOptions", answer: AnswerGuess) -> str:
    found = duration(guesses.known, options.batch_size, total.left, total.prompt_tokens, answer)
    if found is not None:
        seconds = f"{found.seconds:.0f} s" if found.seconds < 60 else said_duration(found.seconds)
        return f"Time: about {seconds}, at the speed of {found.origin}; loading aside"
    dtype = f" --dtype {options.dtype}" if options.dtype else ""
    command = f"mlx-chandra bench --model {options.model}{dtype}"
    return f"Time: not known, no speed of this model on this machine is remembered; measure it: {command}"


def _disk_line(total: _Sum, results_path: str, settings: "Settings", answer: AnswerGuess) -> str:
    formats = [] if settings.documents is None else [str(form) for form in settings.documents.formats]
    rows = total.left + total.copies
    writing = Writing(settings.texts, formats)
    size = disk_bytes(writing, total.to_do, rows, total.path_bytes / rows, answer)
    what = "CSV" + (" and text files" if settings.texts else "")
    what += f", and {', '.join(sorted(formats))} of each document without figures" if formats else ""
    free = shutil.disk_usage(existing_folder(results_path)).free
    line = f"Disk: about {_size(size)} for {what}; {_size(free)} are free"
    return line if size < free else f"{line}, which is too little"


def _print_troubles(total: _Sum) -> None:
    for trouble in list(total.troubles.values())[:_MOST_TROUBLES]:
        print(f"  {printable(trouble.page)}: {printable(trouble.status)}")
    more = len(total.troubles) - _MOST_TROUBLES
    if more > 0:
        print(f"  and {more:,} more; --verbose lists all")


def _round(number: float) -> str:
    """With two digits that count, for more would promise too much."""
    return f"{float(f'{number:.2g}'):,.0f}"


def _size(size: float) -> str:
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 999.5:
            return f"{size:,.1f} {unit}" if size < 10 else f"{size:,.0f} {unit}"
    return f"{size / 1000:,.1f} GB"
