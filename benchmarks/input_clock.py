"""How long the engine lacks pages: a reader between the pipeline and the engine, and the clock that it tells.

A pass of the engine over the model is short of input when it leaves a slot free because no page is ready for
it, and pages are still to come. Its time counts whole, from the end of the pass before to its own end,
however soon after its beginning a page was ready: the device goes on with fewer pages until then. Passes with
all slots taken, or at the end when no page is to come, are never short; nor are those that leave a page
waiting.

A decode step that is short reads all weights for fewer pages than it could: this, and having nothing in the
engine at all, is what is called idle for input. A prefill that is short has the device busy with a page's
tokens, which have to be computed at some time anyway, so it is no idleness and counted by itself.

`no_page_ready` takes no account of what the device does: the seconds of a short pass, of either kind, until
some page was ready, and those with nothing in the engine.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from mlx_chandra.documents.opened import OpenDocuments
from mlx_chandra.feed import Todo

if TYPE_CHECKING:
    from PIL.Image import Image

    from mlx_chandra.engine.generator import BatchGenerator
    from mlx_chandra.engine.responses import GenerationResponse, GeneratorStats, PromptResponse
    from mlx_chandra.pipeline import Reader
    from mlx_chandra.processing.processor import PageInputs


class State(StrEnum):
    """What a stretch of the run was."""

    FIRST = "waiting for the first page"
    EMPTY = "nothing in the engine"
    SHORT_STEP = "a decode step short of pages"
    SHORT_PREFILL = "a prefill short of pages"
    SUPPLIED = "all the pages that it could have"


class Work(StrEnum):
    """What a worker does for a page."""

    FIND = "find"  # which page is next, one worker at a time; its file is hashed for the journal
    OPEN = "open"  # decoded, upright, RGB
    PREPARE = "prepare"  # resized, cut into patches, its prompt put together


@dataclass(frozen=True)
class WorkerSeconds:
    """For a page, on average: as a clock on the wall sees it, waiting included, and on a core."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class InputTimes:
    """One run's figures; seconds.

    Attributes:
        pages: That the engine read.
        seconds: From the model being there to the end of the last pass.
        cpu_seconds: Of all threads in that time; the steadier figure where others use the machine too.
        first_page: Of these, before the first page came to the engine.
        empty: With nothing in the engine later, pages still to come.
        short_steps, short_prefills: In passes short of input.
        no_page_ready: With a slot free and no page ready, pages still to come, whatever the device did.
        idle: empty and short_steps, as a share of the time from the first page on.
        idle_of_all: The same and first_page, as a share of all.
        lost: As `idle`, but each step by the share of slots that lacked a page.
        ready_least, ready_mean: Pages that were ready, in the queue or waiting in the engine, after passes
            that left a slot free while pages were to come. None where there was no such pass.
        workers: Seconds for each page, by work.
    """

    pages: int
    seconds: float
    cpu_seconds: float
    first_page: float
    empty: float
    short_steps: float
    short_prefills: float
    no_page_ready: float
    idle: float
    idle_of_all: float
    lost: float
    ready_least: int | None
    ready_mean: float | None
    workers: dict[str, WorkerSeconds]


class InputClock:
    """Adds up the seconds of each state. Told by one thread, but for `worked`.

    Args:
        pages: That will come in all.
    """

    def __init__(self, pages: int, now: Callable[[], float] = time.perf_counter) -> None:
        self._pages, self._now = pages, now
        self._seconds = dict.fromkeys(State, 0.0)
        self._lost = 0.0
        self._ready: list[int] = []
        self._began = self._mark = now()
        self._cpu_began = self._cpu = time.process_time()
        self._waits: State | None = State.FIRST  # for what, where the engine has nothing
        self._inserted = self._prepared = 0
        self._lock = threading.Lock()
        self._workers = dict.fromkeys(Work, (0.0, 0.0))
        self._asked = self._began  # the beginning of a pass,
        self._came: float | None = None  # and when after it a page was ready
        self._unready = 0.0

    def start(self) -> None:
        """The model is there; the run begins."""
        self._began = self._mark = self._now()
        self._cpu_began = self._cpu = time.process_time()

    @property
    def to_come(self) -> int:
        """Pages that the engine hasn't got yet."""
        return self._pages - self._inserted

    def inserted(self, count: int) -> None:
        """So many pages come to the engine now."""
        if self._waits is not None:
            self._add(self._waits, 1.0)
            self._waits = None
        self._inserted += count

    def begins(self) -> None:
        """A pass begins."""
        with self._lock:
            self._asked, self._came = self._now(), None

    def passed(self, short: float, prefill: bool) -> None:
        """A pass ended that left this share of the slots without a page."""
        with self._lock:
            came = self._now() if self._came is None else self._came
        self._unready += came - self._asked if short else 0.0
        if not short:
            self._add(State.SUPPLIED, 0.0)
        elif prefill:
            self._add(State.SHORT_PREFILL, 0.0)
        else:
            self._add(State.SHORT_STEP, short)

    def leaves(self, active: int, waiting: int, slots: int) -> None:
        """So many pages are in slots, and wait for one, after a pass."""
        if self.to_come and active < slots:
            self._ready.append(waiting + self._prepared - self._inserted)
        if self.to_come and not active and not waiting:
            self._waits = State.EMPTY

    def worked(self, work: Work, wall: float, cpu: float) -> None:
        """A worker did this for a page. From any thread."""
        with self._lock:
            walls, cpus = self._workers[work]
            self._workers[work] = (walls + wall, cpus + cpu)
            if work is Work.PREPARE:
                self._prepared += 1
                self._came = self._came or self._now()

    @contextmanager
    def around(self, owner: type, method: str, work: Work) -> Iterator[None]:
        """Times every call of a class's method while the context lasts."""
        original = getattr(owner, method)

        def timed(*arguments: Any) -> Any:
            wall, cpu = time.perf_counter(), time.thread_time()
            result = original(*arguments)
            self.worked(work, time.perf_counter() - wall, time.thread_time() - cpu)
            return result

        with patch.object(owner, method, timed):
            yield

    def times(self) -> InputTimes:
        """The figures, once the last page has ended."""
        of = self._seconds
        seconds = self._mark - self._began
        after = max(seconds - of[State.FIRST], 1e-9)
        idle = of[State.EMPTY] + of[State.SHORT_STEP]
        return InputTimes(
            pages=self._inserted,
            seconds=seconds,
            cpu_seconds=self._cpu - self._cpu_began,
            first_page=of[State.FIRST],
            empty=of[State.EMPTY],
            short_steps=of[State.SHORT_STEP],
            short_prefills=of[State.SHORT_PREFILL],
            no_page_ready=of[State.EMPTY] + self._unready,
            idle=idle / after,
            idle_of_all=(idle + of[State.FIRST]) / max(seconds, 1e-9),
            lost=self._lost / after,
            ready_least=min(self._ready, default=None),
            ready_mean=fmean(self._ready) if self._ready else None,
            workers={
                work.value: WorkerSeconds(wall / self._pages, cpu / self._pages)
                for work, (wall, cpu) in self._workers.items()
            },
        )

    def _add(self, state: State, lost: float) -> None:
        now = self._now()
        self._seconds[state] += now - self._mark
        if state is not State.FIRST:
            self._lost += lost * (now - self._mark)
        self._mark, self._cpu = now, time.process_time()


@contextmanager
def opening_timed(clock: InputClock) -> Iterator[None]:
    """Times what workers do before a reader sees the page."""
    with clock.around(Todo, "next", Work.FIND), clock.around(OpenDocuments, "page", Work.OPEN):
        yield


class ClockedReader:
    """`pipeline.Reader`: another one, with its generator looked at.

    Args:
        inner: What prepares pages and reads them.
        generator: The engine in it.
        limits: Tokens of each page's answer, in the order in which pages come to the engine; None: `inner`'s.
        keep: Gets the inputs of all pages that come to the engine.
        kept: Give out these instead of preparing anything, in their order; None: prepare.
    """

    def __init__(
        self,
        inner: "Reader",
        generator: "BatchGenerator",
        clock: InputClock,
        limits: Sequence[int] | None = None,
        keep: "list[PageInputs] | None" = None,
        kept: "Sequence[PageInputs] | None" = None,
    ) -> None:
        self._inner, self._generator, self._clock = inner, generator, clock
        self._limits = None if limits is None else iter(limits)
        self._keep, self._kept = keep, None if kept is None else iter(kept)
        self._lock = threading.Lock()

    @property
    def slots(self) -> int:
        return self._inner.slots

    @property
    def has_work(self) -> bool:
        return self._inner.has_work

    @property
    def box_scale(self) -> int:
        return self._inner.box_scale

    def prepare(self, image: "Image") -> "PageInputs":
        wall, cpu = time.perf_counter(), time.thread_time()
        if self._kept is None:
            inputs = self._inner.prepare(image)
        else:
            with self._lock:
                inputs = next(self._kept)
        self._clock.worked(Work.PREPARE, time.perf_counter() - wall, time.thread_time() - cpu)
        return inputs

    def decode(self, ids: Sequence[int]) -> str:
        return self._inner.decode(ids)

    def insert(self, prompts: "Sequence[PageInputs]") -> list[int]:
        self._clock.inserted(len(prompts))
        if self._keep is not None:
            self._keep.extend(prompts)
        if self._limits is None:
            return self._inner.insert(prompts)
        return self._generator.insert(prompts, [next(self._limits) for _ in prompts])

    def retry(self, page: "PageInputs", number: int, seed: int) -> int:
        return self._inner.retry(page, number, seed)

    def remove(self, uid: int) -> bool:
        return self._inner.remove(uid)

    def next(self) -> "tuple[list[PromptResponse], list[GenerationResponse]]":
        generator, clock = self._generator, self._clock
        have = generator.cache.active + generator.waiting
        lacking = max(0, min(generator.slots, have + clock.to_come) - have)
        clock.begins()
        prompts, tokens = self._inner.next()
        clock.passed(0.0 if generator.waiting else lacking / generator.slots, bool(prompts))
        clock.leaves(generator.cache.active, generator.waiting, generator.slots)
        return prompts, tokens

    def stats(self) -> "GeneratorStats":
        return self._inner.stats()

    def close(self) -> None:
        self._inner.close()
