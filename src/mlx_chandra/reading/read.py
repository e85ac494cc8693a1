"""Reads pages with a service: pages in, a PageResult for each out. Needs no disk but the pages' own files."""

import contextlib
import os
import queue
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field

from PIL.Image import Image

from mlx_chandra.documents.opened import OpenDocuments
from mlx_chandra.documents.page import Document, Page, PageResult
from mlx_chandra.documents.pages import Reading, pages_of
from mlx_chandra.engine.handles import Cancelled, Events, Finished, Handle, RequestOptions
from mlx_chandra.engine.retries import Answer, Retries
from mlx_chandra.engine.sampler import GREEDY, Sampling
from mlx_chandra.engine.service import Service
from mlx_chandra.errors import EngineError
from mlx_chandra.processing.prompt import PromptType
from mlx_chandra.reading.loader import POLL, Failed, Loader, Prepare, Prepared

_MOST_RESULTS = 64  # that wait for whoever takes them


@dataclass(frozen=True)
class ReadOptions:
    """How pages are read.

    Attributes:
        prompt: One of the model's own prompts, or any text.
        max_size: First brings the longest side down to this many pixels; None or 0: as large as it is.
        retries: When a page is read again.
        max_tokens: Output tokens of an attempt; None for the service's own limit.
        sampling: Of the first attempt.
        workers: Threads that open and prepare pages.
        open_page: Gives a page's picture, upright and in mode RGB, or raises PageError; called by workers.
            By default files are opened.
    """

    prompt: str | PromptType = PromptType.OCR_LAYOUT
    max_size: int | None = None
    retries: Retries = field(default_factory=Retries)
    max_tokens: int | None = None
    sampling: Sampling = GREEDY
    workers: int = 4
    open_page: Callable[[Page], Image] | None = None

    def __post_init__(self) -> None:
        if self.max_size is not None and self.max_size < 0:
            raise ValueError("max_size must be at least 0; 0 is as large as the picture is")
        if self.workers < 1:
            raise ValueError("workers must be at least 1")

    def request(self, page: Page) -> RequestOptions:
        """Return how the service reads a page. Its file's name gives the seeds of its retries."""
        name = os.path.basename(page.path)
        return RequestOptions(self.max_tokens, self.sampling, self.retries, seed_name=name)

    def preparing(self, service: Service) -> Prepare:
        """Return how pages are prepared for a service."""
        return lambda page, image: service.prepare(image, self.prompt, self.max_size or None)


class Pages:
    """Pages in a service, and the results of those that have ended.

    Args:
        service: Other clients may use it, too.
        request: How each page is read.
    """

    def __init__(self, service: Service, request: Callable[[Page], RequestOptions]) -> None:
        self._service, self._request = service, request
        self._events: Events = queue.SimpleQueue()
        self._pending: deque[Prepared] = deque()  # admitted while the service was full
        self._in_work: dict[Handle, Prepared] = {}
        self._results: list[PageResult] = []

    @property
    def wants_more(self) -> bool:
        """Whether there is room for another page."""
        return not self._pending and len(self._results) < _MOST_RESULTS

    @property
    def empty(self) -> bool:
        """Whether every admitted page's result was taken."""
        return not (self._pending or self._in_work or self._results)

    def wake(self) -> None:
        """End the wait of `finished`. Called from any thread."""
        self._events.put(None)

    def admit(self, item: Prepared | Failed) -> None:
        """Take a page. Never waits. Raises EngineError when the service reads nothing any more."""
        if isinstance(item, Failed):
            self._results.append(PageResult.failed(item.page, item.error))
        else:
            self._pending.append(item)
            self._submit()

    def finished(self, wait: bool) -> list[PageResult]:
        """Return the results that are new; with `wait`, after a tenth of a second at most.

        Raises EngineError when the service reads nothing any more, after the results of all pages in work.
        """
        self._collect(wait and not self._results)
        self._submit()
        results, self._results = self._results, []
        return results

    def close(self) -> None:
        """Drop what is in work."""
        self._pending.clear()
        for handle in self._in_work:
            handle.cancel()
        self._in_work.clear()

    def _collect(self, wait: bool) -> None:
        timeout = POLL if wait else 0.0
        try:
            while True:
                event = self._events.get(block=timeout > 0, timeout=timeout)
                timeout = 0.0
                if isinstance(event, Cancelled):
                    raise EngineError("The service was closed while pages were read.", "Open another one.")
                if isinstance(event, Finished):
                    prepared = self._in_work.pop(event.handle)
                    self._results.append(result_of(prepared, event.answer, self._service.box_scale))
        except queue.Empty:
            return

    def _submit(self) -> None:
        while self._pending:
            prepared = self._pending[0]
            options = self._request(prepared.page)
            try:
                handle = self._service.submit(prepared.inputs, options, self._events, timeout=0)
            except TimeoutError:
                return
            except EngineError:
                if self._in_work or self._results:
                    return  # these come first
                raise
            self._in_work[handle] = prepared
            self._pending.popleft()


def result_of(prepared: Prepared, answer: Answer, box_scale: int) -> PageResult:
    """Return what is kept of a page that the model answered."""
    return PageResult(
        page=prepared.page,
        status=answer.status,
        text=answer.text,
        finish_reason=answer.finish_reason,
        prompt_tokens=answer.prompt_tokens,
        output_tokens=answer.output_tokens,
        generated_tokens=answer.generated_tokens,
        attempts=answer.attempts,
        seconds=answer.seconds,
        size=prepared.size,
        box_scale=box_scale,
    )


def read_loaded(loader: Loader, prepare: Prepare, pages: Pages) -> Generator[PageResult, None, None]:
    """Read all pages of a loader without copies, and yield each one's result as it finishes.

    At the end, and when the iterator is closed early, stops the loader and drops what is in work.
    """
    try:
        loader.use(prepare, pages.wake)
        while not (loader.exhausted and pages.empty):
            while pages.wants_more and (item := loader.get(wait=False)) is not None:
                assert isinstance(item, Prepared | Failed)
                pages.admit(item)
            yield from pages.finished(wait=not (loader.exhausted and pages.empty))
    finally:
        loader.stop()
        pages.close()


def read_pages(
    pages: Iterable[Page | Document], service: Service, options: ReadOptions | None = None
) -> Iterator[PageResult]:
    """Read pages, and yield each one's result as it finishes. Keeps no more than a few pages in memory.

    Closing the iterator early drops what is in work.

    Args:
        pages: Iterated by worker threads, one at a time. A document stands for all its pages.
        service: From `open_service`. Other clients may use it at the same time.

    Raises:
        EngineError: The service is broken or closed; the results of pages in work come before that.
        MlxChandraError: The prompt or the checkpoint can't be used for any page.
    """
    options = options or ReadOptions()
    reading = Reading()
    with contextlib.closing(OpenDocuments(reading)) as opened:
        loader = Loader(
            iter(pages),
            lambda document: list(pages_of(document, reading)),
            options.open_page or opened.page,
            options.workers,
        )
        yield from read_loaded(loader, options.preparing(service), Pages(service, options.request))
