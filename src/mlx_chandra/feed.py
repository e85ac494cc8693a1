"""The pages of a run before the engine: which are still to do, opened and prepared on workers ahead of it."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_chandra.documents.page import Document, Page
from mlx_chandra.documents.pages import Reading, pages_left
from mlx_chandra.documents.selection import PageSelection
from mlx_chandra.done import ByPath, Done, Judge, Origin, Table
from mlx_chandra.errors import MlxChandraError, PageError
from mlx_chandra.outputs.journal import JournalPage
from mlx_chandra.outputs.results_csv import ResultsFile

if TYPE_CHECKING:
    from PIL.Image import Image

    from mlx_chandra.processing.processor import PageInputs

LOOK_AROUND = 0.1  # seconds between looks at the stop signal, and between updates of the observer

Planned = Callable[[Document, Sequence[Page], int], None]
"""Is told a document, its pages that are asked for, and how many of these are still to do."""


def _nothing(document: Document, pages: Sequence[Page], left: int) -> None:
    """For runs in which nobody wants to know."""


@dataclass(frozen=True)
class Standing:
    """A row that stands in the table: its place, and how its page was read."""

    place: int
    known: JournalPage


@dataclass(frozen=True)
class Copied:
    """A page that gets the row of another one, `origin`, which was or will be read of the same bytes.

    `row` is the one that stood there when this was found: the origin may be done again after that, because
    its file has other bytes by now. None where the origin is in work.
    """

    page: Page
    origin: str
    row: Standing | None = None


@dataclass(frozen=True)
class Plan:
    """A document whose turn it is: its pages that were asked for, those of them that have to be done, and
    which of these, by their paths, their user wants done again."""

    document: Document
    pages: Sequence[Page]
    left: Sequence[Page]
    again: Set[str]


def plans(source: Iterable[Document], table: Table, judge: Judge, reading: Reading) -> Iterator[Plan]:
    """Looks at each document when it is its turn, and tells the table which rows don't count any more.

    A document that is in the table by its own path isn't opened: it was read, or could not be.
    """

    def is_done(page: Page) -> bool:
        return page.path in table and judge.is_current(page)

    for document in source:
        pages, left = pages_left(document, reading, is_done)
        again = {page.path for page in left if table.is_asked_again(page.path)}
        if left or pages[0].number is not None:  # else it is done by its own path
            paths = dict.fromkeys([document.path, *(page.path for page in left)])
            changed = [path for path in paths if path in table]
            for path in changed:
                table.do_again(path)
            if changed and pages[0].number is not None and reading.pages == PageSelection():
                table.drop(judge.vanished(pages))
        yield Plan(document, pages, left, again)


class Todo:
    """The pages that still have to be done. Can be asked by several threads.

    Documents are opened to find their pages when the first of these is asked for. A row whose page `done`
    finds changed doesn't count. Of each document, `planned` is told before the first of its pages is given
    out.
    """

    def __init__(
        self,
        source: Iterable[Document],
        results: ResultsFile,
        reading: Reading,
        planned: Planned = _nothing,
        done: Done | None = None,
    ) -> None:
        self.skipped = 0
        self._lock = threading.Lock()
        self._planned, self._reading = planned, reading
        self._results, self._done = results, done or ByPath()
        self._pages = self._not_done(source)
        self._first = next(self._pages, None)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left, as long as nobody else asks."""
        return self._first is None

    def next(self) -> Page | Copied | None:
        with self._lock:
            page, self._first = self._first, None
            return page or next(self._pages, None)

    def next_copy(self) -> Copied | None:
        """The next page if it needs no reading; else None, and it stays the next. For one thread alone."""
        if not isinstance(self._first, Copied):
            return None
        copied, self._first = self._first, next(self._pages, None)
        return copied

    def _not_done(self, source: Iterable[Document]) -> Iterator[Page | Copied]:
        for plan in plans(source, self._results, self._done, self._reading):
            self.skipped += len(plan.pages) - len(plan.left)
            self._planned(plan.document, plan.pages, len(plan.left))
            for page in plan.left:
                origin = self._done.origin(page, page.path in plan.again)
                yield page if origin is None else Copied(page, origin.path, self._standing(origin))

    def _standing(self, origin: Origin) -> Standing | None:
        """The row of a page that is done; None where that can't be told."""
        if origin.in_work:
            return None
        place, known = self._results.place(origin.path), self._done.known(origin.path)
        return None if place is None or known is None else Standing(place, known)


class Total:
    """Counts on a thread of its own how many pages there are to do; `count` is None until it knows."""

    def __init__(
        self, source: Iterable[Document], results: ResultsFile, reading: Reading, done: Done | None = None
    ) -> None:
        self.count: int | None = None
        self._stopped = False
        self._results, self._done = results, done or ByPath()
        threading.Thread(target=self._count, args=(source, reading), name="count", daemon=True).start()

    def stop(self) -> None:
        """Lets the counting end after the document that it is at."""
        self._stopped = True

    def _count(self, source: Iterable[Document], reading: Reading) -> None:
        count = 0
        with contextlib.suppress(Exception):  # trouble shows where the pages are read
            for document in source:
                if self._stopped:
                    return
                count += len(pages_left(document, reading, self._was_done)[1])
            self.count = count

    def _was_done(self, page: Page) -> bool:
        return self._results.was_done(page.path) and self._done.is_current(page)


@dataclass(frozen=True)
class Prepared:
    """A page ready for the engine. `size` is its picture's, width and height, before any scaling."""

    page: Page
    size: tuple[int, int]
    inputs: "PageInputs"


@dataclass(frozen=True)
class Refused:
    """A page that can't be read, or that the engine wouldn't take."""

    page: Page
    error: PageError


_Item = Prepared | Refused | Copied


class Feed:
    """Pages opened and prepared on worker threads, a few ahead of who takes them."""

    def __init__(
        self,
        todo: Todo,
        open_page: "Callable[[Page], Image]",
        prepare: "Callable[[Image], PageInputs]",
        workers: int,
    ) -> None:
        self._todo, self._open_page, self._prepare = todo, open_page, prepare
        self._ready: queue.Queue[Prepared | Refused | Copied | BaseException | None] = queue.Queue(
            workers + 2
        )
        self._stopped = threading.Event()
        self._working = workers
        for number in range(workers):
            threading.Thread(target=self._work, name=f"prepare-{number}", daemon=True).start()

    @property
    def exhausted(self) -> bool:
        """Whether all pages were given out."""
        return not self._working

    def get(self, wait: bool) -> _Item | None:
        """The next page; None when none is ready now (with `wait`: soon). Raises what ended a worker."""
        while self._working:
            try:
                item = self._ready.get(wait, LOOK_AROUND)
            except queue.Empty:
                return None
            if item is None:
                self._working -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                return item
        return None

    def stop(self) -> None:
        """Lets the workers end after the page they are at."""
        self._stopped.set()

    def _work(self) -> None:
        try:
            while not self._stopped.is_set() and (page := self._todo.next()) is not None:
                self._put(page if isinstance(page, Copied) else self._prepared(page))
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: _Item | BaseException | None) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=LOOK_AROUND)
                return

    def _prepared(self, page: Page) -> Prepared | Refused:
        if page.error is not None:
            return Refused(page, page.error)
        try:
            image = self._open_page(page)
            return Prepared(page, image.size, self._prepare(image))
        except PageError as error:
            return Refused(page, error)
        except MlxChandraError:
            raise  # about the checkpoint or the prompt: it concerns every page
        except Exception as error:
            return Refused(page, PageError("internal", f"{type(error).__name__}: {error}"))
