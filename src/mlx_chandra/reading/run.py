"""Joins documents, service, store and export: the whole of `mlx-chandra ocr` but for its options.

Worker threads plan, open and prepare pages ahead of the engine (`loader.py`, `resume.py`). The service's
thread runs the engine. The caller's thread hands pages from one to the other and stores what comes out. Where
documents get files, one more thread writes them as documents complete.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mlx_chandra.documents.opened import OpenDocuments
from mlx_chandra.documents.page import Document, Page, PageResult
from mlx_chandra.documents.pages import Reading
from mlx_chandra.engine.service import Service
from mlx_chandra.errors import OutputError, PageError
from mlx_chandra.export.settings import ExportSettings
from mlx_chandra.export.writer import Exporter
from mlx_chandra.reading.loader import POLL, Copied, Failed, Loader, Prepared
from mlx_chandra.reading.progress import Counts, Observer, Snapshot, Summary
from mlx_chandra.reading.read import Pages, ReadOptions
from mlx_chandra.reading.resume import Resume
from mlx_chandra.store.store import Store
from mlx_chandra.store.text_files import TextFiles, text_path
from mlx_chandra.store.version1 import import_ledger

if TYPE_CHECKING:
    from mlx_chandra.engine.responses import GeneratorStats

_LARGEST_GROUP = 256  # pages that are stored together


@dataclass(frozen=True)
class RunSettings:
    """How a run works, apart from what is read and by which model.

    Attributes:
        workers: Threads that open and prepare pages.
        texts: Whether each page's text gets a file of its own.
        text_dir: Top of the tree of text files; None puts them beside the images.
        export: Which files each document gets; None for none.
        reading: How documents are opened.
        options: How pages are read.
    """

    workers: int = 4
    texts: bool = True
    text_dir: str | None = None
    export: ExportSettings | None = None
    reading: Reading = field(default_factory=Reading)
    options: ReadOptions = field(default_factory=ReadOptions)


def run(
    source: Iterable[Document],
    store: Store,
    open_service: Callable[[], Service],
    settings: RunSettings,
    observer: Observer,
    stop: threading.Event,
) -> Summary:
    """Read every page of `source` that has no current result in `store`, and store it.

    Args:
        source: Can be iterated more than once: a second pass counts the pages.
        store: Gets the results as they come.
        open_service: Called once, and only if there is a page to read.
        settings: How the run works.
        observer: Updated about ten times a second.
        stop: When set, no new pages are begun, those in work are dropped, finished ones are stored.

    Raises:
        OutputError: The results can't be written any more (DiskFullError: for want of room).
        EngineError: The engine failed for good; what was finished is stored.
        MlxChandraError: The model can't be loaded.
    """
    resume = Resume(store, settings.reading)
    with (
        contextlib.closing(OpenDocuments(settings.reading)) as opened,
        _Documents(settings.export, store, opened, stop) as documents,
    ):
        planner = _Planner(source, store, resume, documents)
        results = _Results(store, resume, documents, settings, observer)
        loader = Loader(planner.documents(), planner.plan, opened.page, settings.workers)
        try:
            seconds, finished = 0.0, _store_copies(loader, results, stop)
            if not (finished or stop.is_set()):
                with open_service() as service, _Total(source, resume) as total:
                    store.begin_run()
                    seconds, finished = _read(service, loader, results, settings.options, total, stop)
        finally:
            loader.stop()
        store.drop(planner.vanished)  # not before: other files may hold what they held
        store.end_run(complete=finished)
        results.warn()
    if documents.first_error is not None:
        observer.warn(f"{documents.first_error.message} Run again with --resume to have them written.")
    return Summary(
        results.counts,
        planner.skipped,
        seconds,
        stopped=not finished or documents.dropped > 0,
        documents=documents.written,
        unwritten_documents=documents.failed,
        unwritten_texts=results.unwritten_texts,
    )


def _store_copies(loader: Loader, results: "_Results", stop: threading.Event) -> bool:
    """Store pages that need no model, until one does; return whether none does."""
    while not (loader.wants_reading.is_set() or loader.exhausted or stop.is_set()):
        item = loader.get(wait=True)
        if item is not None:
            results.store([_without_model(item)])
    return loader.exhausted


def _without_model(item: Copied | Failed | Prepared) -> Copied | PageResult:
    assert not isinstance(item, Prepared), "a page was prepared without a model"
    return item if isinstance(item, Copied) else PageResult.failed(item.page, item.error)


def _read(
    service: Service,
    loader: Loader,
    results: "_Results",
    options: ReadOptions,
    total: "_Total",
    stop: threading.Event,
) -> tuple[float, bool]:
    """Read all pages of the loader; return the seconds that took, and whether it came to the end."""
    started = time.monotonic()
    pages = Pages(service, options.request)
    loader.use(options.preparing(service), pages.wake)
    with contextlib.closing(pages):
        while not (stop.is_set() or (loader.exhausted and pages.empty)):
            copies = _admit(loader, pages)
            results.store([*copies, *pages.finished(wait=not copies)])
            results.update(service.stats(), total.count, time.monotonic() - started)
        results.store(pages.finished(wait=False))
        finished = loader.exhausted and pages.empty
    seconds = time.monotonic() - started
    results.update(service.stats(), total.count, seconds, last=True)
    return seconds, finished


def _admit(loader: Loader, pages: Pages) -> list[Copied]:
    """Hand what is ready to the service; return the copies among it."""
    copies: list[Copied] = []
    while pages.wants_more and len(copies) < _LARGEST_GROUP:
        item = loader.get(wait=False)
        if item is None:
            break
        if isinstance(item, Copied):
            copies.append(item)
        else:
            pages.admit(item)
    return copies


class _Planner:
    """Plans documents on the loader's workers, and notes the order of the input."""

    def __init__(
        self, source: Iterable[Document], store: Store, resume: Resume, documents: "_Documents"
    ) -> None:
        self.skipped = 0
        self.vanished: list[str] = []  # stored pages that their documents don't have any more
        self._source, self._store, self._resume, self._export = source, store, resume, documents
        self._lock = threading.Lock()
        self._order: deque[str] = deque()  # documents in the order of the input
        self._planned: dict[str, list[str]] = {}  # paths of the pages of those that are planned, by document

    def documents(self) -> Iterator[Document]:
        """The input. Read by one worker at a time."""
        for document in self._source:
            with self._lock:
                self._order.append(document.path)
            self._export.reserve(document)
            yield document

    def plan(self, document: Document) -> Sequence[Page | Copied]:
        """Find a document's pages that need a result. Called by several workers."""
        try:
            plan = self._resume.plan(document)
        except Exception:
            self._note(document.path, [document.path], 0)
            self._export.planned(document, 1)  # the loader stores its error
            raise
        self._note(document.path, [page.path for page in plan.pages], len(plan.pages) - len(plan.todo))
        with self._lock:
            self.vanished += plan.vanished
        self._export.planned(plan.document, len(plan.todo))
        return plan.todo

    def _note(self, document: str, paths: list[str], skipped: int) -> None:
        with self._lock:
            self.skipped += skipped
            self._planned[document] = paths
            while self._order and self._order[0] in self._planned:
                self._store.plan(self._planned.pop(self._order.popleft()))


class _Results:
    """Stores results: text files first, then the store and the CSV; then others hear of them."""

    def __init__(
        self,
        store: Store,
        resume: Resume,
        documents: "_Documents",
        settings: RunSettings,
        observer: Observer,
    ) -> None:
        self.counts, self.unwritten_texts = Counts(), 0
        self._store, self._resume, self._documents = store, resume, documents
        self._settings, self._observer = settings, observer
        self._files = TextFiles(store.path)
        self._waiting: dict[str, list[Copied]] = {}  # copies, by the path of the page in work
        self._first_unwritten: OutputError | None = None
        self._warned = 0  # of the store's warnings
        self._updated = 0.0

    def store(self, items: Sequence[PageResult | Copied]) -> None:
        """Store results, and the copies that waited for them; return once they are on the disk.

        Raises OutputError or DiskFullError, also those of the documents' files.
        """
        self._documents.check()
        while items:
            group = [result for item in items if (result := self._complete(item)) is not None]
            if group:
                self._store_group(group)
            items = [copied for result in group for copied in self._waiting.pop(result.page.path, ())]

    def update(self, stats: "GeneratorStats", total: int | None, seconds: float, last: bool = False) -> None:
        """Tell the observer where the run is, ten times a second."""
        if last or seconds - self._updated >= POLL:
            self._updated = seconds
            self._observer.update(Snapshot(self.counts, total, seconds, stats))
            self.warn()

    def warn(self) -> None:
        """Pass on what the store has to say since the last time."""
        for warning in self._store.warnings[self._warned :]:
            self._warned += 1
            self._observer.warn(warning)

    def _complete(self, item: PageResult | Copied) -> PageResult | None:
        """The result with its file's content; None for a copy of a page that is in work still."""
        page = item.page
        content = self._resume.content_of(page)
        if isinstance(item, PageResult):
            return replace(item, content=content)
        origin = item.result
        if origin is None:
            if self._resume.in_work(item.origin):
                self._waiting.setdefault(item.origin, []).append(item)
                return None
            origin = self._store.result(item.origin)
        if origin is None or origin.content != content:
            error = PageError("internal", f"the result of {item.origin}, which had the same content, is gone")
            return replace(PageResult.failed(page, error), content=content)
        return replace(origin, page=page, copy_of=item.origin)

    def _store_group(self, results: Sequence[PageResult]) -> None:
        if self._settings.texts:
            self._write_texts(results)
        self._store.add(results)
        self._resume.release(results)
        self._documents.stored(results)
        self.counts = self.counts.plus(results)
        self._observer.stored(results)

    def _write_texts(self, results: Sequence[PageResult]) -> None:
        texts = {self._text_path(result.page): result.text for result in results if result.text.strip()}
        failed = self._files.write(texts)
        self.unwritten_texts += len(failed)
        if failed and self._first_unwritten is None:
            self._first_unwritten = next(iter(failed.values()))
            self._observer.warn(
                f"{self._first_unwritten.message} Texts that get no file are in the results all the same; "
                "--text-dir puts the files elsewhere, --no-text writes none."
            )

    def _text_path(self, page: Page) -> str:
        return text_path(page.path, page.text_stem, page.below, self._settings.text_dir)


class _Documents:
    """Has a document's files written when all its pages are stored. Without settings it does nothing."""

    def __init__(
        self, settings: ExportSettings | None, store: Store, opened: OpenDocuments, stop: threading.Event
    ) -> None:
        self._exporter: Exporter | None = None
        if settings is not None:
            import_ledger(settings.folder, store)
            self._exporter = Exporter(settings, store.document, opened.page, stop)
        self._lock = threading.Lock()
        self._left: dict[str, int] = {}  # pages without a result, by document

    def __enter__(self) -> "_Documents":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._exporter is not None:
            self._exporter.close(drop=kind is not None)

    @property
    def written(self) -> int:
        return self._exporter.exports.written if self._exporter else 0

    @property
    def failed(self) -> int:
        return self._exporter.exports.failed if self._exporter else 0

    @property
    def dropped(self) -> int:
        return self._exporter.dropped if self._exporter else 0

    @property
    def first_error(self) -> OutputError | None:
        return self._exporter.exports.first_error if self._exporter else None

    def reserve(self, document: Document) -> None:
        if self._exporter is not None:
            self._exporter.reserve(document)

    def planned(self, document: Document, left: int) -> None:
        """Note how many pages of a document need a result yet. Called by several workers."""
        if self._exporter is None:
            return
        if not left:
            self._exporter.put(document)
            return
        with self._lock:
            self._left[document.path] = left

    def stored(self, results: Sequence[PageResult]) -> None:
        if self._exporter is None:
            return
        for result in results:
            document = result.page.document
            with self._lock:
                self._left[document.path] -= 1
                complete = not self._left[document.path]
            if complete:
                self._exporter.put(document)

    def check(self) -> None:
        """Raise what ended the writing."""
        if self._exporter is not None:
            self._exporter.check()


class _Total:
    """Counts the pages to read on a thread of its own. `count` is None until it is known."""

    def __init__(self, source: Iterable[Document], resume: Resume) -> None:
        self.count: int | None = None
        self._stopped = False
        self._source, self._resume = source, resume

    def __enter__(self) -> "_Total":
        threading.Thread(target=self._count, name="count", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True

    def _count(self) -> None:
        count = 0
        with contextlib.suppress(Exception):  # an error shows where the pages are read
            for document in self._source:
                if self._stopped:
                    return
                count += self._resume.count(document)
            self.count = count
