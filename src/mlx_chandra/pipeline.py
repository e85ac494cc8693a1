"""The way of the pages: found, opened and prepared on workers, read by the engine, kept on the disk.

Four kinds of threads. Workers open and prepare pages ahead of the device, behind a bounded queue. The
caller's thread feeds the engine, takes its tokens, and judges answers that ended: `attempts.py` says whether
the page is kept or read again. `keeper.py` has a thread that writes finished pages. Where documents get
files, `assembly.py` has one that puts them together of pages that are kept.

How pages are found, opened and stored is documents' and outputs' business, and what the run looks like on a
screen is the observer's.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from mlx_chandra.assembly import Follower, follower_for
from mlx_chandra.attempts import Attempt, PageResult, Retries, judged, refused, result_of, seed_of
from mlx_chandra.documents.opened import OpenDocuments
from mlx_chandra.documents.page import Document
from mlx_chandra.documents.pages import Reading
from mlx_chandra.done import ByContent, ByPath
from mlx_chandra.engine.repetition import CHECK_TEXT_EVERY, MINIMUM_SPAN
from mlx_chandra.engine.repetition import is_repeated_text as is_one_piece
from mlx_chandra.errors import PageError
from mlx_chandra.feed import LOOK_AROUND, Copied, Feed, Prepared, Refused, Todo, Total
from mlx_chandra.keeper import Endings, Keeper, Work
from mlx_chandra.outputs.document_files import DocumentSettings
from mlx_chandra.outputs.journal import Journal
from mlx_chandra.outputs.layout import Size
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
    def retry(self, page: "PageInputs", number: int, seed: int) -> int: ...  # its first, second, ... retry
    def remove(self, uid: int) -> bool: ...
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
        retries: When a page is read again.
    """

    workers: int = 4
    texts: bool = True
    text_dir: str | None = None
    documents: DocumentSettings | None = None
    reading: Reading = field(default_factory=Reading)
    retries: Retries = field(default_factory=Retries)


@dataclass(frozen=True)
class Snapshot:
    """Where a run stands. `total` is the number of pages to do, once it is known; `endings` says of what kind
    the failed ones are, `work` what the model did for the finished ones."""

    ok: int
    failed: int
    total: int | None
    seconds: float
    stats: "GeneratorStats"
    endings: Endings = field(default_factory=Endings)
    work: Work = field(default_factory=Work)

    @property
    def pages(self) -> int:
        return self.ok + self.failed


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    `skipped` pages were in the results before; `stopped`: it was asked to end early; `documents` got their
    files, `unwritten_documents` couldn't; `endings` says of what kind the failed ones are; `copied` pages got
    the row of another one of the same bytes, and are among those that are ok or failed; `work` is what the
    model did for all.
    """

    ok: int
    failed: int
    skipped: int
    unwritten_texts: int
    seconds: float
    stopped: bool
    documents: int = 0
    unwritten_documents: int = 0
    endings: Endings = field(default_factory=Endings)
    copied: int = 0
    work: Work = field(default_factory=Work)


class Observer(Protocol):
    """Sees a run go on; called from the thread that runs it, `finished` from the one that keeps pages."""

    def update(self, now: Snapshot) -> None: ...
    def warn(self, message: str) -> None: ...
    def finished(self, pages: Sequence[PageResult]) -> None: ...  # these are on the disk


def run(
    source: Iterable[Document],
    results: ResultsFile,
    open_reader: Callable[[], Reader],
    settings: Settings,
    observer: Observer,
    stop: threading.Event,
    journal: Journal | None = None,
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
        journal: By which it is told whether a page that has a row is done, and whether another one has the
            same bytes; without it, a row counts by its path.

    Raises:
        OutputError: The results can't be written any more (DiskFullError: for want of room).
        MlxChandraError: The reader can't be opened or gave up; what was finished by then is kept.
    """
    opened = OpenDocuments(settings.reading)
    documents = follower_for(settings.documents, results, opened, settings.reading, stop)
    done = ByPath() if journal is None else ByContent(results, journal)
    keeper = Keeper(results, None, settings.texts, settings.text_dir, documents, done, told=observer.finished)
    with _closing(keeper, documents, opened):
        todo = Todo(source, results, settings.reading, documents.planned, done)
        if _copy_first(todo, keeper, stop):
            reader = open_reader()
            keeper.box_scale = reader.box_scale
            if journal is not None:
                journal.begin_run()
            feed = Feed(todo, opened.page, reader.prepare, settings.workers)
            total = Total(source, results, settings.reading, done)
            summary = _read(_Reading(reader, feed, keeper, settings.retries), total, observer, stop)
        else:
            keeper.close()
            _warn(keeper, observer)
            summary = _summary(keeper, 0.0, stopped=not todo.is_empty)
        if journal is not None:
            journal.end_run()
    return _with_documents(replace(summary, skipped=todo.skipped), documents, observer)


@contextlib.contextmanager
def _closing(keeper: Keeper, documents: Follower, opened: OpenDocuments) -> Iterator[None]:
    """Ends what works beside the block: all documents are written, but after an error no more."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):  # there is trouble already
            keeper.close()
        documents.close(drop=True)
        raise
    else:
        documents.close()
    finally:
        opened.close()


def _with_documents(summary: Summary, documents: Follower, observer: Observer) -> Summary:
    """The same, with what became of the documents; of the first that has no files it is said why."""
    if documents.first_unwritten is not None:
        observer.warn(f"{documents.first_unwritten.message} Run again with --resume to have them written.")
    return replace(
        summary,
        stopped=summary.stopped or documents.dropped > 0,
        documents=documents.written,
        unwritten_documents=documents.unwritten,
    )


def _copy_first(todo: Todo, keeper: Keeper, stop: threading.Event) -> bool:
    """Keeps the pages at the beginning that need no reading; whether there is one then that does.

    So no model is loaded for files that were only moved.
    """
    while not stop.is_set() and (copied := todo.next_copy()) is not None:
        keeper.check()
        keeper.keep(copied)
    return not (stop.is_set() or todo.is_empty)


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
                observer.update(_snapshot(keeper, total, seconds, reader.stats()))
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
    observer.update(_snapshot(keeper, total, seconds, stats))
    warned = warned or _warn(keeper, observer)
    return _summary(keeper, seconds, stopped=not finished)


def _summary(keeper: Keeper, seconds: float, stopped: bool) -> Summary:
    return Summary(
        ok=keeper.ok,
        failed=keeper.failed,
        skipped=0,
        unwritten_texts=keeper.unwritten_texts,
        seconds=seconds,
        stopped=stopped,
        endings=keeper.endings,
        copied=keeper.copied,
        work=keeper.work,
    )


def _snapshot(keeper: Keeper, total: Total, seconds: float, stats: "GeneratorStats") -> Snapshot:
    return Snapshot(keeper.ok, keeper.failed, total.count, seconds, stats, keeper.endings, keeper.work)


def _warn(keeper: Keeper, observer: Observer) -> bool:
    if keeper.first_unwritten is None:
        return False
    observer.warn(
        f"{keeper.first_unwritten.message} Texts that get no file are in the results all the same; "
        "--text-dir puts the files elsewhere, --no-text writes none."
    )
    return True


@dataclass
class _InWork:
    """A page in the engine: its earlier attempts, and the tokens of this one so far."""

    prepared: Prepared
    earlier: list[Attempt] = field(default_factory=list)
    prompt_tokens: int = 0
    tokens: list[int] = field(default_factory=list)
    begun: float = 0.0  # when it was prefilled


class _Reading:
    """Pages in the engine, and their tokens so far."""

    def __init__(self, reader: Reader, feed: Feed, keeper: Keeper, retries: Retries) -> None:
        self.looked = 0.0  # when the observer was told last
        self.reader, self.feed, self.keeper = reader, feed, keeper
        self._retries = retries
        self._pages: dict[int, _InWork] = {}

    def step(self) -> bool:
        """Gives the engine pages if it has room, and takes one step of it. False when all is done."""
        self.keeper.check()
        self._admit()
        if self.reader.has_work:
            prompts, tokens = self.reader.next()
            for prompt in prompts:
                self._begin(prompt)
            for response in tokens:
                self._take(response)
        return bool(self._pages) or self.reader.has_work or not self.feed.exhausted

    def _admit(self) -> None:
        slots = self.reader.slots
        new: list[Prepared] = []
        for _ in range(slots + max(2, min(slots, _MOST_SPARE)) - len(self._pages)):
            item = self.feed.get(wait=not self._pages and not new)
            if item is None:
                break
            if isinstance(item, Refused):
                self.keeper.keep(refused(item.page, item.error))
            elif isinstance(item, Copied):
                self.keeper.keep(item)
            else:
                new.append(item)
        if new:
            for uid, item in zip(self.reader.insert([item.inputs for item in new]), new, strict=True):
                self._pages[uid] = _InWork(item)

    def _begin(self, prompt: "PromptResponse") -> None:
        page = self._pages[prompt.uid]
        page.prompt_tokens, page.begun = prompt.prompt_tokens, time.monotonic()
        if prompt.error is None:
            return
        error = prompt.error
        if not isinstance(error, PageError):
            error = PageError("refused", error.message, error.remedy)
        if page.earlier:
            self._end(prompt.uid, "error", error)
        else:
            del self._pages[prompt.uid]
            self.keeper.keep(refused(page.prepared.page, error))

    def _take(self, response: "GenerationResponse") -> None:
        page = self._pages.get(response.uid)
        if page is None:
            return  # it was evicted a moment ago
        if response.finish_reason != "error":  # else there is no token
            page.tokens.append(response.token)
        if response.finish_reason is not None:
            self._end(response.uid, str(response.finish_reason), response.error)
        elif self._is_in_circles(page.tokens):
            self.reader.remove(response.uid)
            self._end(response.uid, "repetition")

    def _is_in_circles(self, tokens: list[int]) -> bool:
        """Whether the text repeats itself; the engine looks at the tokens alone."""
        if len(tokens) < MINIMUM_SPAN or len(tokens) % CHECK_TEXT_EVERY:
            return False
        try:
            return is_one_piece(self.reader.decode(tokens[-MINIMUM_SPAN:]))
        except Exception:
            return False  # will show at the page's end, and be its error

    def _end(self, uid: int, reason: str, error: PageError | None = None) -> None:
        """Keeps the page whose answer ended, or has it read again."""
        page = self._pages.pop(uid)
        seconds = time.monotonic() - page.begun
        attempts = [*page.earlier, judged(self.reader.decode, page.tokens, reason, seconds, error)]
        prepared = page.prepared
        if self._retries.wants_another(attempts):
            number = len(attempts)
            again = self.reader.retry(prepared.inputs, number, seed_of(prepared.page, number))
            self._pages[again] = _InWork(prepared, attempts)
        else:
            size = Size(*prepared.size)
            self.keeper.keep(result_of(prepared.page, size, page.prompt_tokens, attempts))
