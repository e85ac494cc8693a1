"""What a run would do, without doing it: its documents and pages, and what the pages will cost.

Documents are opened as far as a run opens them to find their pages, and hashed where a run hashes them; of
each page the size is looked up where the file says it. Nothing is drawn, decoded or written. What pages cost
is arithmetic over these sizes, on what is known of answers and of the machine.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from mlx_chandra.documents.names import suffix_of
from mlx_chandra.documents.opened import OpenDocuments
from mlx_chandra.documents.page import Document, Page
from mlx_chandra.documents.pages import Reading
from mlx_chandra.done import Judge
from mlx_chandra.errors import PageError, error_status
from mlx_chandra.feed import Copied, plans
from mlx_chandra.outputs.results_csv import Again, Row
from mlx_chandra.outputs.rows import shown_path
from mlx_chandra.speeds import Known

Shape = tuple[int, int]  # height, width

ASSUMED_ANSWER = 1000  # tokens of a page; what `mlx-chandra bench` assumes too
_KINDS = {"jpg": "JPEG", "tif": "TIFF", "webp": "WebP"}


@dataclass(frozen=True)
class Trouble:
    """A page that can be seen not to be readable, as the results will name it, and its status."""

    page: str
    status: str


@dataclass(frozen=True)
class Sized:
    """A page that would be read, and its height and width as it will be opened."""

    page: str
    shape: Shape


@dataclass(frozen=True)
class Foreseen:
    """One document.

    Attributes:
        path: Its full path.
        kind: What its name says it is: PDF, PNG, ...
        pages: That were asked for, those that can't be read included.
        done: Of these, how many are in the results already.
        sized: Those that would be read.
        copies: Those that would get another one's row.
        troubles: Of those that can't be read.
    """

    path: str
    kind: str
    pages: int
    done: int
    sized: Sequence[Sized]
    copies: Sequence[Copied]
    troubles: Sequence[Trouble]


class ImaginedTable:
    """The table as a run would see it and mark it, in memory alone.

    Args:
        rows: Those that it holds.
        again: Which of them are done again; None for none.
    """

    def __init__(self, rows: Iterable[Row], again: Again | None = None) -> None:
        self._done: set[str] = set()
        self._again: set[str] = set()  # both by shown path
        for row in rows:
            shown = shown_path(row.image_path)
            (self._again if again is not None and again(shown, row.status) else self._done).add(shown)

    def __contains__(self, path: str) -> bool:
        return shown_path(path) in self._done

    def is_asked_again(self, path: str) -> bool:
        return shown_path(path) in self._again

    def do_again(self, path: str) -> None:
        self._done.remove(shown_path(path))
        self._again.add(shown_path(path))

    def drop(self, paths: Iterable[str]) -> None:
        self._done.difference_update(paths)


def foresee(
    source: Iterable[Document], table: ImaginedTable, judge: Judge, reading: Reading
) -> Iterator[Foreseen]:
    """Looks at each document when it is its turn, and marks in the table what a run would do again."""
    opened = OpenDocuments(reading)
    try:
        for plan in plans(source, table, judge, reading):
            sized: list[Sized] = []
            copies: list[Copied] = []
            troubles: list[Trouble] = []
            for page in plan.left:
                origin = judge.origin(page, page.path in plan.again)
                if origin is not None:
                    copies.append(Copied(page, origin.path))
                    continue
                try:
                    sized.append(Sized(page.path, _shape(page, opened)))
                except PageError as error:
                    troubles.append(Trouble(page.path, error_status(error)))
            path, pages = plan.document.path, len(plan.pages)
            done = pages - len(plan.left)
            yield Foreseen(path, _kind(plan.document), pages, done, sized, copies, troubles)
    finally:
        opened.close()


def _shape(page: Page, opened: OpenDocuments) -> Shape:
    if page.error is not None:
        raise page.error
    return opened.shape(page)


def _kind(document: Document) -> str:
    suffix = suffix_of(document.path).removeprefix(".").lower()
    return _KINDS.get(suffix, suffix.upper()) or "file"


@dataclass(frozen=True)
class AnswerGuess:
    """How long a page's answer will be: tokens and bytes on average, and what that is taken from."""

    tokens: float
    bytes: float
    origin: str


@dataclass(frozen=True)
class Duration:
    """How long the reading takes, and what that is taken from; not counted: loading the model."""

    seconds: float
    origin: str


def duration(
    known: Known, batch_size: int | None, pages: int, prompt_tokens: float, answer: AnswerGuess
) -> Duration | None:
    """How long so many pages take at the speed that is remembered; None where none is.

    A run counts for more than the bench, as it had real pages; but only if its slots were filled again, for a
    few pages alone can't be as quick as many.
    """
    run, bench = known.run(batch_size), known.bench
    written = pages * answer.tokens
    if run is not None and (bench is None or run.pages >= 2 * run.slots):
        seconds = prompt_tokens * run.prompt_seconds + written * run.answer_seconds
        return Duration(seconds, f"a run of {run.pages:,} pages on {run.day}")
    if bench is not None:
        seconds = prompt_tokens * bench.prompt_seconds + written * bench.answer_seconds(batch_size)
        return Duration(seconds, f"`mlx-chandra bench` on {bench.day}")
    return None


@dataclass(frozen=True)
class Writing:
    """What a run writes: text files or not, and the names of its formats for documents."""

    texts: bool
    formats: Collection[str]


# Bytes of a document's file, and more for each byte of its answers: fitted to the example pages, read with
# the demo checkpoint.
_FILES = {
    "html": (0, 0.7),
    "markdown": (0, 0.65),
    "json": (800, 2.4),
    "text": (0, 0.6),
    "parquet": (7300, 1.8),
    "metadata": (600, 0.0),
}
_ROW = 20  # bytes of a row beside its path and text


def disk_bytes(writing: Writing, documents: int, pages: int, path_bytes: float, answer: AnswerGuess) -> float:
    """What a run takes on the disk. Figures are not counted: they depend on the pages.

    Args:
        path_bytes: Of a page's path, on average.
    """
    answers = pages * answer.bytes
    total = pages * (path_bytes + _ROW) + answers * (2 if writing.texts else 1)
    for name in {*writing.formats, "metadata"} if writing.formats else ():
        fixed, share = _FILES[name]
        total += documents * fixed + answers * share
    return total


def existing_folder(path: str) -> str:
    """The deepest folder on the way to a path that is there, to ask for the room on its disk."""
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder
