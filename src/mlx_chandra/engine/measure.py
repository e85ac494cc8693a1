"""Decides what `mlx-chandra bench` times next, within the seconds given, and what follows from it.

A `Timer` times passes (`engine/timing.py` has the engine's); everything else here is arithmetic. A page costs
its prefill, and its share of each decode step until its output is complete.
"""

import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from mlx_chandra.errors import MeasurementError

_PREFILL_SHARE = 0.3  # of all the time, for reading pages
_MOST_PREFILLS = 5
_LONGEST_POINT = 5.0  # seconds for one batch size
_STEPS_AT_LEAST = 5  # of one batch size, warm-up included
_AS_GOOD = 0.97  # a smaller batch size that does so much of the best one's pages is the better choice


class StepTimes(Protocol):
    @property
    def seconds(self) -> float: ...
    @property
    def steps(self) -> int: ...
    @property
    def peak_memory(self) -> int: ...


class Timer(Protocol):
    """Times passes over a model; both raise MeasurementError where the device can't do them."""

    def prefills(self) -> Generator[float, None, None]: ...
    def decode(self, batch_size: int, seconds: float) -> StepTimes: ...


@dataclass(frozen=True)
class Prefill:
    """Seconds to read one page: the median of so many passes. `cold`: there was time for the very first one
    only, which is otherwise left out as a warm-up."""

    seconds: float
    passes: int
    cold: bool


@dataclass(frozen=True)
class Point:
    """What one batch size does: seconds of a decode step, and pages and answer tokens per second in a long
    run; the most memory in bytes."""

    batch_size: int
    step_seconds: float
    steps: int
    peak_memory: int
    pages_per_second: float
    tokens_per_second: float


@dataclass(frozen=True)
class Skipped:
    """Batch sizes that were not timed, and why."""

    batch_sizes: tuple[int, ...]
    reason: str


Finding = Prefill | Point | Skipped


def batch_sizes(most: int) -> tuple[int, ...]:
    """1, 2, 4, ... and `most` itself."""
    return (*(1 << power for power in range(most.bit_length()) if 1 << power < most), most)


def pages_per_second(prefill: float, step: float, batch_size: int, output_tokens: int) -> float:
    """What a long run does in which every free slot is refilled at once.

    Args:
        prefill: Seconds to read one page; it gives the first token of the answer too.
        step: Seconds of a decode step of `batch_size` pages.
    """
    return 1 / (prefill + (output_tokens - 1) * step / batch_size)


def recommended(points: Sequence[Point]) -> Point | None:
    """The smallest batch size that is within 3 % of the best one; None where there are none."""
    enough = _AS_GOOD * max((point.pages_per_second for point in points), default=0.0)
    good = (point for point in points if point.pages_per_second >= enough)
    return min(good, key=lambda point: point.batch_size, default=None)


def measure(
    timer: Timer,
    sizes: Sequence[int],
    output_tokens: int,
    seconds: float,
    now: Callable[[], float] = time.perf_counter,
) -> Iterator[Finding]:
    """Time a page's reading, then decode steps at each batch size as long as there is time.

    One reading and one batch size are timed however long they take.

    Raises:
        MeasurementError: The device can't read a single page, or do a step with the first batch size.
    """
    end = now() + seconds
    prefill = _prefill(timer, _PREFILL_SHARE * seconds)
    yield prefill
    last: Point | None = None
    for place, size in enumerate(sizes):
        left = end - now()
        if last is not None and _least_seconds(size, last) > left:
            yield Skipped(tuple(sizes[place:]), "the time was up")
            return
        try:
            times = timer.decode(size, min(_LONGEST_POINT, left / (len(sizes) - place)))
        except MeasurementError as error:
            if last is None:
                raise
            yield Skipped(tuple(sizes[place:]), error.message)
            return
        last = _point(size, times, prefill.seconds, output_tokens)
        yield last


def _prefill(timer: Timer, seconds: float) -> Prefill:
    """The first pass is a warm-up, unless another one like it would take longer than `seconds` allow."""
    took: list[float] = []
    with closing(timer.prefills()) as passes:
        first = spent = newest = next(passes)
        while len(took) < _MOST_PREFILLS and spent + newest <= seconds:
            newest = next(passes)
            took.append(newest)
            spent += newest
    return Prefill(statistics.median(took or [first]), len(took) or 1, cold=not took)


def _least_seconds(size: int, last: Point) -> float:
    """How long a batch size takes at the very least to time, if a step takes its share more than the last."""
    return _STEPS_AT_LEAST * last.step_seconds * size / last.batch_size


def _point(size: int, times: StepTimes, prefill: float, output_tokens: int) -> Point:
    rate = pages_per_second(prefill, times.seconds, size, output_tokens)
    return Point(size, times.seconds, times.steps, times.peak_memory, rate, rate * output_tokens)
