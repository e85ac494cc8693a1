"""The way of the pages: found, opened and prepared on workers, read by the engine, kept on the disk.

Four kinds of threads. Workers open and prepare pages ahead of the device, behind a bounded queue. The
caller's thread feeds the engine and takes its tokens, and does nothing else. `keeper.py` has one that decodes
finished pages and writes them. Where documents get files, `assembly.py` has one that puts them together of
pages that are kept.

How pages are found, opened and stored is documents' and outputs' business, and what the run looks like on a
screen is the observer's.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from mlx_chandra.assembly import follower_for
from mlx_chandra.documents.document import Document
from mlx_chandra.documents.opened import OpenDocuments
from mlx_chandra.documents.pages import Reading
from mlx_chandra.errors import PageError
from mlx_chandra.feed import LOOK_AROUND, Feed, Prepared, Refused, Todo, Total
from mlx_chandra.keeper import Answered, Keeper
from mlx_chandra.outputs.document_files import DocumentSettings
from mlx_chandra.outputs.results_csv import ResultsFile

if TYPE_CHECKING:
    from PIL.Image import Image

    from mlx_chandra.engine.responses import GenerationResponse, GeneratorStats, PromptResponse
    from mlx_chandra.processing.processor import PageInputs

_MOST_SPARE = 16  # prepared pages that wait in the engine beyond its slots; a page takes a few MB


class Reader(Protocol):
    """What reads pages: an engine with its processor. Only prepare and decode meet other threads."""

    @property
    def slots(self) -> int: ...
    @property
    def has_work(self) -> bool: ...
    @property
    def box_scale(self) -> int: ...  # what the boxes in its answers are normalised to
    def prepare(self, image: "Image") -> "PageInputs": ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def insert(self, prompts: "Sequence[PageInputs]") -> list[int]: ...
    def next(self) -> "tuple[list[PromptResponse], list[GenerationResponse]]": ...
    def stats(self) -> "GeneratorStats": ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Settings:
    """How a run works, apart from what is read and by whom.

    Attributes:
        workers: Threads that open and prepare pages.
        texts: Whether each page's text gets a file of its own.
        text_dir: Top of the tree of text files; None puts them beside the images.
        documents: Which files each document gets; None for none.
        reading: How documents are read.
    """

    workers: int = 4
    texts: bool = True
    text_dir: str | None = None
    documents: DocumentSettings | None = None
    reading: Reading = field(default_factory=Reading)


@dataclass(frozen=True)
class Snapshot:
    """Where a run stands. `total` is the number of pages to do, once it is known."""

    ok: int
    failed: int
    total: int | None
    seconds: float
    stats: "GeneratorStats"

    @property
    def pages(self) -> int:
        return self.ok + self.failed


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    `skipped` pages were in the results before; `stopped`: it was asked to end early; `documents` got their
    files, `unwritten_documents` couldn't.
    """

    ok: int
    failed: int
    skipped: int
    unwritten_texts: int
    seconds: float
    stopped: bool
    documents: int = 0
    unwritten_documents: int = 0


class Observer(Protocol):
    """Sees a run go on; called from the thread that runs it."""

    def update(self, now: Snapshot) -> None: ...
    def warn(self, message: str) -> None: ...


def run(
    source: Iterable[Document],
    results: ResultsFile,
    open_reader: Callable[[], Reader],
    settings: Settings,
    observer: Observer,
    stop: threading.Event,
) -> Summary:
    """Reads every page of `source` that isn't in `results` yet, and puts it there.

    Args:
        source: Can be iterated more than once; a second pass, on a thread of its own, counts the pages.
            Each document is opened when it is its turn.
        results: Gets one row for each page, in the order in which they are finished.
        open_reader: Called once, and only when there is a page to read.
        settings: Workers, text files, and how documents are read.
        observer: Told how things stand about ten times a second.
        stop: When set, no new pages are begun, those in work are dropped, finished ones are kept.

    Raises:
        OutputError: The results can't be written any more (DiskFullError: for want of room).
        MlxChandraError: The reader can't be opened or gave up; what was finished by then is kept.
    """
    opened = OpenDocuments(settings.reading)
    documents = follower_for(settings.documents, results, opened, settings.reading, stop)
    try:
        todo = Todo(source, results, settings.reading, documents.planned)
        if todo.is_empty:
            summary = Summary(0, 0, todo.skipped, 0, 0.0, False)
        else:
            reader = open_reader()
            keeper = Keeper(results, reader, settings.texts, settings.text_dir, documents)
            feed = Feed(todo, opened.page, reader.prepare, settings.workers)
            total = Total(source, results, settings.reading)
            summary = _read(_Reading(reader, feed, keeper), total, observer, stop)
            summary = replace(summary, skipped=todo.skipped)
    except BaseException:
        documents.close(drop=True)
        raise
    else:
        documents.close()
    finally:
        opened.close()
    if documents.first_unwritten is not None:
        observer.warn(f"{documents.first_unwritten.message} With --resume, it is tried again.")
    return replace(
        summary,
        stopped=summary.stopped or documents.dropped > 0,
        documents=documents.written,
        unwritten_documents=documents.unwritten,
    )


def _read(reading: "_Reading", total: Total, observer: Observer, stop: threading.Event) -> Summary:
    """Reads all pages that the feed gives, until the end or the stop, and keeps what is finished."""
    started = time.monotonic()
    keeper, reader = reading.keeper, reading.reader
    warned = finished = False
    try:
        while not (finished or stop.is_set()):
            finished = not reading.step()
            if reading.looked + LOOK_AROUND <= time.monotonic():
                reading.looked = time.monotonic()
                seconds = reading.looked - started
                observer.update(Snapshot(keeper.ok, keeper.failed, total.count, seconds, reader.stats()))
                warned = warned or _warn(keeper, observer)
    finally:
        reading.feed.stop()
        total.stop()
        try:
            keeper.close()
        finally:
            stats = reader.stats()
            reader.close()
    seconds = time.monotonic() - started
    observer.update(Snapshot(keeper.ok, keeper.failed, total.count, seconds, stats))
    warned = warned or _warn(keeper, observer)
    return Summary(keeper.ok, keeper.failed, 0, keeper.unwritten_texts, seconds, not finished)


def _warn(keeper: Keeper, observer: Observer) -> bool:
    if keeper.first_unwritten is None:
        return False
    observer.warn(
        f"{keeper.first_unwritten.message} Texts that get no file are in the results all the same; "
        "--text-dir puts the files elsewhere, --no-text writes none."
    )
    return True


class _Reading:
    """Pages in the engine, and their tokens so far."""

    def __init__(self, reader: Reader, feed: Feed, keeper: Keeper) -> None:
        self.looked = 0.0  # when the observer was told last
        self.reader, self.feed, self.keeper = reader, feed, keeper
        self._pages: dict[int, Answered] = {}
        self._begun: dict[int, float] = {}  # when a page was prefilled

    def step(self) -> bool:
        """Gives the engine pages if it has room, and takes one step of it. False when all is done."""
        self.keeper.check()
        self._admit()
        if self.reader.has_work:
            self._take(*self.reader.next())
        return bool(self._pages) or self.reader.has_work or not self.feed.exhausted

    def _admit(self) -> None:
        slots = self.reader.slots
        new: list[Prepared] = []
        for _ in range(slots + max(2, min(slots, _MOST_SPARE)) - len(self._pages)):
            item = self.feed.get(wait=not self._pages and not new)
            if item is None:
                break
            if isinstance(item, Refused):
                self.keeper.keep(item)
            else:
                new.append(item)
        if new:
            for uid, item in zip(self.reader.insert([item.inputs for item in new]), new, strict=True):
                self._pages[uid] = Answered(item.page, item.size, 0, [], "")

    def _take(self, prompts: "list[PromptResponse]", tokens: "list[GenerationResponse]") -> None:
        for prompt in prompts:
            if prompt.error is not None:
                error = prompt.error
                if not isinstance(error, PageError):
                    error = PageError("refused", error.message, error.remedy)
                self.keeper.keep(Refused(self._pages.pop(prompt.uid).page, error))
            else:
                page = self._pages[prompt.uid]
                self._pages[prompt.uid] = replace(page, prompt_tokens=prompt.prompt_tokens)
                self._begun[prompt.uid] = time.monotonic()
        for response in tokens:
            page = self._pages[response.uid]
            if response.finish_reason != "error":  # else there is no token
                page.tokens.append(response.token)
            if response.finish_reason is not None:
                del self._pages[response.uid]
                reason, seconds = (
                    str(response.finish_reason),
                    time.monotonic() - self._begun.pop(response.uid),
                )
                self.keeper.keep(replace(page, reason=reason, seconds=seconds, error=response.error))
