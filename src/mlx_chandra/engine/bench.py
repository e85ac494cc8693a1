"""Times a model on this machine for `mlx-chandra bench`: passes, batch sizes within the seconds, advice.

A page costs its prefill, and its share of each decode step until its output is complete. Both kinds of passes
go through BatchGenerator as in a real run.
"""

import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_chandra.engine.generator import BatchGenerator
from mlx_chandra.errors import MeasurementError, UsageError
from mlx_chandra.models.inputs import Image, Page
from mlx_chandra.models.qwen3_vl import Qwen3VL

if TYPE_CHECKING:
    from mlx_chandra.models.kv_cache import PromptPass

WARM_UP, FEWEST_STEPS, MOST_STEPS = 2, 3, 64
_ROOM = WARM_UP + MOST_STEPS + 2  # tokens that a page must be able to gain while its steps are timed
_NO_LIMIT = 1 << 62  # tokens: what doesn't fit is to be found out
_SMALLER = "Close other programs, or choose a quantised model, a smaller page or a smaller --batch-size."
_PREFILL_SHARE = 0.3  # of all the time
_MOST_PREFILLS = 5
_LONGEST_POINT = 5.0  # seconds for one batch size
_AS_GOOD = 0.97  # a smaller batch size that does so much of the best one's pages is the better choice


@dataclass(frozen=True)
class StepTimes:
    """Decode steps: the median of their seconds, how many, and MLX's most memory in bytes, with weights."""

    seconds: float
    steps: int
    peak_memory: int


@dataclass(frozen=True)
class Prefill:
    """The median seconds of so many prefills. `cold`: there was time for the first one only."""

    seconds: float
    passes: int
    cold: bool


@dataclass(frozen=True)
class Point:
    """What one batch size does: its decode steps, and pages and output tokens per second in a long run."""

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
    return (*(1 << n for n in range(most.bit_length()) if 1 << n < most), most)


def pages_per_second(prefill: float, step: float, batch_size: int, output_tokens: int) -> float:
    """What a long run does in which every free slot is refilled at once.

    Args:
        prefill: Seconds of a page's prefill, which gives the first output token too.
        step: Seconds of a decode step of `batch_size` pages.
    """
    return 1 / (prefill + (output_tokens - 1) * step / batch_size)


def recommended(points: Sequence[Point]) -> Point | None:
    """The smallest batch size that is within 3 % of the best one; None where there are none."""
    enough = _AS_GOOD * max((point.pages_per_second for point in points), default=0.0)
    good = (point for point in points if point.pages_per_second >= enough)
    return min(good, key=lambda point: point.batch_size, default=None)


def measure(
    timer: "EngineTimer",
    sizes: Sequence[int],
    output_tokens: int,
    seconds: float,
    now: Callable[[], float] = time.perf_counter,
) -> Iterator[Finding]:
    """Time prefills, then decode steps at each batch size as long as there is time.

    One prefill and one batch size are timed however long they take.

    Raises:
        MeasurementError: The device can't read a single page, or do a step with the first batch size.
    """
    end = now() + seconds
    prefill = _prefill(timer, _PREFILL_SHARE * seconds)
    yield prefill
    a_row = 0.0  # seconds of a step for one page, in the batch size before
    for place, size in enumerate(sizes):
        left = end - now()
        if a_row and (WARM_UP + FEWEST_STEPS) * a_row * size > left:
            yield Skipped(tuple(sizes[place:]), "the time was up")
            return
        try:
            times = timer.decode(size, min(_LONGEST_POINT, left / (len(sizes) - place)))
        except MeasurementError as error:
            if not a_row:
                raise
            yield Skipped(tuple(sizes[place:]), error.message)
            return
        a_row = times.seconds / size
        rate = pages_per_second(prefill.seconds, times.seconds, size, output_tokens)
        yield Point(size, times.seconds, times.steps, times.peak_memory, rate, rate * output_tokens)


def _prefill(timer: "EngineTimer", seconds: float) -> Prefill:
    """The first pass is a warm-up, unless another one like it would take longer than `seconds` allow."""
    took: list[float] = []
    with closing(timer.prefills()) as passes:
        first = spent = newest = next(passes)
        while len(took) < _MOST_PREFILLS and spent + newest <= seconds:
            newest = next(passes)
            took.append(newest)
            spent += newest
    return Prefill(statistics.median(took or [first]), len(took) or 1, cold=not took)


@dataclass(frozen=True)
class ModelFacts:
    """What a model asks of the machine, in bytes. `bits` and `group_size`: None if nothing is quantised."""

    dtype: str
    bits: int | None
    group_size: int | None
    weights: int
    cache_per_token: int


def model_facts(model: Qwen3VL) -> ModelFacts:
    stored = model.config.quantization
    return ModelFacts(
        dtype=str(model.dtype).rpartition(".")[2],
        bits=stored.bits if stored else None,
        group_size=stored.group_size if stored else None,
        weights=model.nbytes,
        cache_per_token=model.cache_bytes_per_token,
    )


@dataclass(frozen=True)
class NeverStops:
    """Stands for a processor whose outputs never end."""

    stop_token_ids: frozenset[int] = frozenset()


@dataclass(frozen=True)
class _HalfRead:
    """A page's prompt and the part of its output that is there already."""

    token_ids: NDArray[np.int32]
    image: Image


class _NoPrefill:
    """A model that skips prompts: their keys and values stay zeros, which take as long to attend to.

    So a batch of pages in the middle of their outputs costs no prefill, which would take minutes on a slow
    machine, and the decode steps after it are the model's own.
    """

    def __init__(self, model: Qwen3VL) -> None:
        self._model = model

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def prefill(self, pages: list[Page], attention: "PromptPass") -> mx.array:
        return mx.zeros((len(pages), self._model.config.text.vocab_size), self._model.dtype)


class EngineTimer:
    """Times one model on a page's prompt and an output of so many tokens.

    Its methods raise MeasurementError where the device can't do a pass.

    Raises:
        UsageError: Prompt and output are longer than the model takes.
    """

    def __init__(self, model: Qwen3VL, page: Page, output_tokens: int) -> None:
        self._model, self._page, self._output_tokens = model, page, output_tokens
        longest, prompt = model.config.text.max_position_embeddings, len(page.token_ids)
        self._most_output = longest - _ROOM - prompt  # that a page in work may have
        if prompt + output_tokens > longest or self._most_output < 0:
            raise UsageError(
                f"The page has {prompt:,} prompt tokens, which with an output of {output_tokens:,} are more "
                f"than the {longest:,} that the model takes.",
                "Choose a smaller page (--page-size, --max-size) or fewer --output-tokens.",
            )

    @property
    def most_slots(self) -> int:
        """The batch size that the engine would choose by itself."""
        with closing(BatchGenerator(self._model, NeverStops())) as generator:
            return generator.slots

    def prefills(self) -> Generator[float, None, None]:
        """Seconds of a page's prefill, picture and prompt, in a pass of its own; again and again."""
        with _engine(self._model, 1) as generator:
            while True:
                started = time.perf_counter()
                generator.insert([self._page], max_tokens=1)
                while generator.has_work:
                    if any(prompt.error for prompt in generator.next()[0]):
                        raise MeasurementError("There is not enough memory to read one page.", _SMALLER)
                yield time.perf_counter() - started

    def decode(self, batch_size: int, seconds: float) -> StepTimes:
        """Time decode steps of so many pages, for about so many seconds.

        The pages are at different points of their outputs, evenly spread, as in the middle of a long run.
        """
        end = time.perf_counter() + seconds
        mx.clear_cache()  # what the last batch size left would count, and nothing is being computed now
        mx.reset_peak_memory()
        with _engine(cast("Qwen3VL", _NoPrefill(self._model)), batch_size) as generator:
            generator.insert(list(self._pages_in_work(batch_size)), max_tokens=_ROOM)
            while generator.waiting:
                generator.next()
            for _ in range(WARM_UP):
                generator.next()
            took: list[float] = []
            while len(took) < MOST_STEPS and (len(took) < FEWEST_STEPS or time.perf_counter() < end):
                started = time.perf_counter()
                generator.next()
                took.append(time.perf_counter() - started)
            if generator.slots < batch_size:  # the engine goes on with fewer pages; here that is no answer
                words = f"There is not enough memory for {batch_size} pages at once."
                raise MeasurementError(words, _SMALLER)
            return StepTimes(statistics.median(took), len(took), mx.get_peak_memory())

    def _pages_in_work(self, count: int) -> Iterator[Page]:
        """The longest first, so that none has to make room for another."""
        for place in reversed(range(count)):
            output = min(int(self._output_tokens * (place + 0.5) / count), self._most_output)
            ids = np.concatenate([self._page.token_ids, np.zeros(output, np.int32)])
            yield _HalfRead(ids, self._page.image)


@contextmanager
def _engine(model: Qwen3VL, slots: int) -> Iterator[BatchGenerator]:
    """A generator that is closed afterwards: nothing computes on, whatever happened."""
    generator = BatchGenerator(
        model,
        NeverStops(),
        completion_batch_size=slots,
        prefill_batch_size=slots,
        cache_tokens=_NO_LIMIT,
        stop_on_repetition=False,
    )
    try:
        with closing(generator):
            yield generator
    except (RuntimeError, MemoryError) as error:  # MLX has no classes of its own
        what = str(error).strip() or type(error).__name__
        raise MeasurementError(f"The device gave up: {what}", _SMALLER) from error
