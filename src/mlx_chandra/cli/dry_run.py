"""`ocr --dry-run`: says what a run would do and cost, loads no model and writes nothing."""

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlx_chandra.cli.numbers import counted
from mlx_chandra.cli.progress import duration as said_duration
from mlx_chandra.cli.progress import printable
from mlx_chandra.documents.document import Page
from mlx_chandra.done import Current
from mlx_chandra.errors import PageError, UsageError
from mlx_chandra.forecast import (
    AnswerGuess,
    Foreseen,
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
from mlx_chandra.outputs.rows import shown_path
from mlx_chandra.outputs.states import error_status

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
    to_do: int = 0  # documents with such pages
    prompt_tokens: int = 0
    path_bytes: int = 0
    troubles: list[Trouble] = field(default_factory=list)


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
    with journal_view(
        os.path.realpath(earlier.results), earlier.making, earlier.again is not None
    ) as journal:
        is_done = _is_done(rows, earlier, None if journal is None else Current(journal))
        for document in _noted(foresee(source, is_done, settings.reading), verbose):
            tokens, troubles = _add(document, total, guesses)
            if verbose:
                print(_document_line(document, tokens, troubles))
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


def _is_done(rows: Iterable[Row], earlier: Earlier, current: Current | None) -> Callable[[Page], bool]:
    """Whether a run would skip a page: it has a row that isn't asked for again and would be written so."""
    again = earlier.again
    skipped = {
        row.image_path for row in rows if again is None or not again(shown_path(row.image_path), row.status)
    }
    return lambda page: page.path in skipped and (current is None or current(page))


def _noted(documents: Iterable[Foreseen], verbose: bool) -> Iterator[Foreseen]:
    """The same; every few seconds it is said how far it is."""
    noted = time.monotonic()
    for number, document in enumerate(documents, start=1):
        yield document
        if not verbose and time.monotonic() - noted > _SECONDS_BETWEEN_NOTES:
            noted = time.monotonic()
            print(f"{number:,} documents looked at", file=sys.stderr, flush=True)


def _add(document: Foreseen, total: _Sum, guesses: "Guesses") -> tuple[int, list[Trouble]]:
    """Counts a document; returns the tokens of its prompts, and all that is wrong with its pages."""
    troubles, tokens, left = list(document.troubles), 0, 0
    for shape in document.shapes:
        try:
            tokens += guesses.prompt_tokens(shape)
            left += 1
        except PageError as error:  # a shape that the model can't take
            troubles.append(Trouble(document.path, error_status(error)))
    total.documents[document.kind] += 1
    total.pages += document.pages
    total.done += document.done
    total.left += left
    total.to_do += left > 0
    total.prompt_tokens += tokens
    total.path_bytes += left * len(document.path.encode("utf-8", "surrogateescape"))
    total.troubles += troubles
    return tokens, troubles


def _document_line(document: Foreseen, tokens: int, troubles: Iterable[Trouble]) -> str:
    parts = [counted(document.pages, "page")]
    if document.done:
        parts.append(f"{document.done:,} done")
    parts += [f"{tokens:,} prompt tokens"] if tokens else []
    parts += [printable(trouble.status) for trouble in troubles]
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
    parts += [f"{len(total.troubles):,} that can't be read"] if total.troubles else []
    parts += [f"{total.left:,} to read"]
    yield f"Pages: {total.pages:,}: {', '.join(parts)}"
    if not total.left:
        return
    answer = guesses.answer(rows)
    written = total.left * answer.tokens
    yield (
        f"Tokens: about {total.prompt_tokens:,} to read{guesses.prompt_origin}, and {_round(written)} to "
        f"write: {answer.tokens:,.0f} a page, {answer.origin}"
    )
    yield _time_line(total, guesses, options, answer)
    yield _disk_line(total, results_path, settings, answer)


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
    size = disk_bytes(
        Writing(settings.texts, formats), total.to_do, total.left, total.path_bytes / total.left, answer
    )
    what = "CSV" + (" and text files" if settings.texts else "")
    what += f", and {', '.join(sorted(formats))} of each document without figures" if formats else ""
    free = shutil.disk_usage(existing_folder(results_path)).free
    line = f"Disk: about {_size(size)} for {what}; {_size(free)} are free"
    return line if size < free else f"{line}, which is too little"


def _print_troubles(total: _Sum) -> None:
    for trouble in total.troubles[:_MOST_TROUBLES]:
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
