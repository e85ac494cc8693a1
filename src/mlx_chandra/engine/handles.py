"""What a client of a service holds: the options of a page, its handle, and the events that come back."""

import contextlib
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

from mlx_chandra.engine.retries import RETRIES, Answer, Retries
from mlx_chandra.engine.sampler import GREEDY, Sampling
from mlx_chandra.errors import PageState


@dataclass(frozen=True)
class RequestOptions:
    """How one page is read."""

    max_tokens: int | None = None  # of an attempt; None for the generator's own limit
    sampling: Sampling = GREEDY  # of the first attempt; retries have the model's own
    retries: Retries = RETRIES
    seed_name: str | bytes = ""  # what the seeds of retries are derived from, such as the file's name
    stream: bool = False  # whether the text comes bit by bit, as `Tokens`
    stop_on_repetition: bool = True  # whether an attempt that repeats itself without end is stopped

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError("max_tokens must be at least 1")


@dataclass(frozen=True)
class Prefilled:
    """The page's prompt was run; once for each attempt."""

    handle: "Handle"
    prompt_tokens: int


@dataclass(frozen=True)
class Tokens:
    """More of the attempt's text: whole characters, in order. All of them together are the attempt's text."""

    handle: "Handle"
    text: str


@dataclass(frozen=True)
class Retried:
    """Attempt number `attempt` (2, 3, ...) begins, because the last one ended as `reason`; its text starts
    again."""

    handle: "Handle"
    attempt: int
    reason: PageState


@dataclass(frozen=True)
class Finished:
    """The page's answer; the last event. Its text may be an earlier attempt's."""

    handle: "Handle"
    answer: Answer


@dataclass(frozen=True)
class Cancelled:
    """The page was dropped, by `Handle.cancel` or because the service was closed; the last event."""

    handle: "Handle"


Event = Prefilled | Tokens | Retried | Finished | Cancelled
Events = queue.SimpleQueue[Event | None]
"""A queue of events. A client may put None into its own to wake itself."""


class Handle:
    """A submitted page. Can be used by any thread."""

    def __init__(self, drop: "Callable[[Handle], None]", events: Events | None) -> None:
        self._drop = drop  # keeps its service alive as long as somebody waits for the page
        self._shared = events is not None
        self._events: Events = queue.SimpleQueue() if events is None else events
        self._future: Future[Answer] = Future()

    @property
    def events(self) -> Iterator[Event]:
        """Yield the page's events until Finished or Cancelled, each once.

        Raises ValueError where they go to a shared queue.
        """
        if self._shared:
            raise ValueError("this page's events go to the queue that it was submitted with")
        event = None
        while not isinstance(event, Finished | Cancelled):
            event = self._events.get()
            if event is not None:
                yield event

    def result(self, timeout: float | None = None) -> Answer:
        """Wait for the answer.

        Raises TimeoutError after `timeout` seconds, concurrent.futures.CancelledError for a dropped page.
        """
        return self._future.result(timeout)

    def cancel(self) -> None:
        """Drop the page; its slot is free at the next step. Does nothing to one that has ended."""
        self._drop(self)

    def emit(self, event: Event) -> None:
        """Tell the client. For the service alone."""
        if isinstance(event, Finished):
            self._future.set_result(event.answer)
        elif isinstance(event, Cancelled):
            self._future.cancel()
        with contextlib.suppress(Exception):  # a client's own queue may fail
            self._events.put(event)
