"""Finds, opens and prepares pages on worker threads, ahead of whoever takes them."""

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from PIL.Image import Image

from mlx_chandra.documents.page import Document, Page, PageResult
from mlx_chandra.errors import MlxChandraError, PageError
from mlx_chandra.processing.processor import PageInputs

POLL = 0.1  # seconds between looks at whether the work is to stop


@dataclass(frozen=True)
class Copied:
    """A page that needs no reading: it holds the same bytes as the page at the path `origin`.

    `result` is that page's; None while it is in work.
    """

    page: Page
    origin: str
    result: PageResult | None = None


@dataclass(frozen=True)
class Prepared:
    """A page ready for the engine. `size` is its picture's, width and height, before any scaling."""

    page: Page
    size: tuple[int, int]
    inputs: PageInputs


@dataclass(frozen=True)
class Failed:
    """A page that can't be read."""

    page: Page
    error: PageError


Item = Prepared | Failed | Copied
Prepare = Callable[[Page, Image], PageInputs]


@dataclass
class _Planned:
    """A document's pages that no worker has begun. One worker at a time opens a page of it."""

    pages: deque[Page | Copied]
    busy: bool = field(default=False)


def _nothing() -> None:
    """Wakes nobody."""


class Loader:
    """Opens and prepares pages ahead. One slow file holds up one worker, and none of the others.

    Args:
        documents: Read by one worker at a time, so it should be quick. A Page in it stands for itself.
        plan: Gives a document's pages. Called by several workers at a time; may hash or open files.
        open_page: Gives a page's picture. Called by several workers, but for one document by one at a time.
        workers: Threads.

    Attributes:
        wants_reading: Set when a page was found that must be read. It waits for `use`.

    A document that can't be planned gets one Failed row, a page that can't be opened or prepared likewise. An
    MlxChandraError that is no PageError concerns every page, and so does any error of `documents` itself:
    `get` raises it.
    """

    def __init__(
        self,
        documents: Iterator[Document | Page],
        plan: Callable[[Document], Sequence[Page | Copied]],
        open_page: Callable[[Page], Image],
        workers: int,
    ) -> None:
        self.wants_reading = threading.Event()
        self._documents, self._plan, self._open_page = documents, plan, open_page
        self._source_lock = threading.Lock()
        self._changed = threading.Condition()  # guards the next six
        self._planned: list[_Planned] = []
        self._planning = 0  # documents that are being planned now
        self._prepare: Prepare | None = None
        self._wake: Callable[[], object] = _nothing
        self._stopped = self._at_end = False
        self._ready: queue.Queue[Item | Exception | None] = queue.Queue(workers + 2)
        self._working = workers
        for number in range(workers):
            threading.Thread(target=self._work, name=f"load-{number}", daemon=True).start()

    @property
    def exhausted(self) -> bool:
        """Whether all pages were given out."""
        return not self._working

    def use(self, prepare: Prepare, wake: Callable[[], object] = _nothing) -> None:
        """Say how pages are prepared. Those that were opened before have waited for it.

        From now on workers call `wake` when `get` has something new to say.
        """
        with self._changed:
            self._prepare, self._wake = prepare, wake
            self._changed.notify_all()

    def get(self, wait: bool) -> Item | None:
        """Return the next page; None where none is ready (with `wait`: in a tenth of a second).

        Raises what concerns every page.
        """
        while self._working:
            try:
                item = self._ready.get(wait, POLL)
            except queue.Empty:
                return None
            if isinstance(item, Exception):
                raise item
            if item is not None:
                return item
            self._working -= 1
        return None

    def stop(self) -> None:
        """Let the workers end after the page that they are at."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _work(self) -> None:
        try:
            while (planned := self._next()) is not None:
                self._load(planned)
        except Exception as error:
            self._put(error)
        self._put(None)

    def _next(self) -> _Planned | None:
        """Return a document that has a page to open, planning the next one where all are busy."""
        while not self._stopped:
            with self._changed:
                for planned in self._planned:
                    if not planned.busy:
                        planned.busy = True
                        return planned
                if self._at_end:
                    if not self._planned and not self._planning:
                        return None
                    self._changed.wait()
                    continue
                self._planning += 1
            self._plan_next()
        return None

    def _plan_next(self) -> None:
        pages: Sequence[Page | Copied] = []
        try:
            with self._source_lock:
                document = next(self._documents, None)
            if document is None:
                self._at_end = True
            else:
                pages = [document] if isinstance(document, Page) else self._pages_of(document)
        finally:
            with self._changed:
                self._planning -= 1
                if pages:
                    self._planned.append(_Planned(deque(pages)))
                self._changed.notify_all()

    def _pages_of(self, document: Document) -> Sequence[Page | Copied]:
        try:
            return self._plan(document)
        except Exception as error:
            return [Page(document, error=_page_error(error))]

    def _load(self, planned: _Planned) -> None:
        """Load a document's next page, leaving the ones after it to other workers as soon as it is open."""
        page = planned.pages.popleft()
        try:
            opened = page if isinstance(page, Copied) else self._opened(page)
        finally:
            self._give_back(planned)
        if isinstance(opened, Image):
            assert isinstance(page, Page)
            loaded = self._prepared(page, opened)
            if loaded is not None:
                self._put(loaded)
        else:
            self._put(opened)

    def _give_back(self, planned: _Planned) -> None:
        with self._changed:
            planned.busy = False
            if not planned.pages:
                self._planned.remove(planned)
            self._changed.notify_all()

    def _opened(self, page: Page) -> Image | Failed:
        if page.error is not None:
            return Failed(page, page.error)
        try:
            return self._open_page(page)
        except Exception as error:
            return Failed(page, _page_error(error))

    def _prepared(self, page: Page, image: Image) -> Prepared | Failed | None:
        """Prepare an open page as soon as there is a way to. None: stopped before that."""
        self.wants_reading.set()
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._prepare)
            prepare = self._prepare
        if prepare is None:
            return None
        try:
            return Prepared(page, image.size, prepare(page, image))
        except Exception as error:
            return Failed(page, _page_error(error))

    def _put(self, item: Item | Exception | None) -> None:
        while not self._stopped:
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=POLL)
                self._wake()
                return


def _page_error(error: Exception) -> PageError:
    """The error of one page or document. Raises what concerns all of them."""
    if isinstance(error, PageError):
        return error
    if isinstance(error, MlxChandraError):
        raise error
    return PageError("internal", f"{type(error).__name__}: {error}")
