"""Times the engine's two kinds of passes on one page: its prefill, and a decode step of many such pages.

Both go through BatchGenerator as in a real run. Which passes are worth timing is decided in `measure.py`.
"""

import statistics
import time
from collections.abc import Generator, Iterator
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
_NO_LIMIT = 1 << 62  # tokens: what doesn't fit is to be found out
_SMALLER = "Close other programs, or choose a quantised model, a smaller page or a smaller --batch-size."
_ROOM = WARM_UP + MOST_STEPS + 2  # tokens that a page must be able to gain while its steps are timed


@dataclass(frozen=True)
class StepTimes:
    """Decode steps of one batch size: the median of their seconds, how many, and the most memory in bytes
    that MLX had meanwhile, weights included."""

    seconds: float
    steps: int
    peak_memory: int


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
    """Stands for a processor whose answers never end."""

    stop_token_ids: frozenset[int] = frozenset()


@dataclass(frozen=True)
class _HalfRead:
    """A page's prompt and the part of its answer that is there already."""

    token_ids: NDArray[np.int32]
    image: Image


class _NoPrefill:
    """A model that skips prompts: their keys and values stay zeros, which take as long to attend to.

    So a batch of pages in the middle of their answers costs no prefill, which would take minutes on a slow
    machine, and the decode steps after it are the model's own.
    """

    def __init__(self, model: Qwen3VL) -> None:
        self._model = model

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def prefill(self, pages: list[Page], attention: "PromptPass") -> mx.array:
        return mx.zeros((len(pages), self._model.config.text.vocab_size), self._model.dtype)


class EngineTimer:
    """Times one model.

    Args:
        model: From `load`.
        page: The prompt of the page that is timed.
        output_tokens: The length of its answer.

    Raises:
        UsageError: Prompt and answer are longer than the model takes.
    """

    def __init__(self, model: Qwen3VL, page: Page, output_tokens: int) -> None:
        self._model, self._page, self._output_tokens = model, page, output_tokens
        longest, prompt = model.config.text.max_position_embeddings, len(page.token_ids)
        self._longest = longest - _ROOM  # that a page in work may be
        if prompt + output_tokens > longest or prompt > self._longest:
            raise UsageError(
                f"The page has {prompt:,} prompt tokens, which with an answer of {output_tokens:,} are more "
                f"than the {longest:,} that the model takes.",
                "Choose a smaller page (--page-size, --max-size) or fewer --output-tokens.",
            )

    @property
    def most_slots(self) -> int:
        """The batch size that the engine would choose by itself."""
        with closing(BatchGenerator(self._model, NeverStops())) as generator:
            return generator.slots

    def prefills(self) -> Generator[float, None, None]:
        """Seconds to read one page, picture and prompt, in a pass of its own; again and again.

        Raises:
            MeasurementError: The device can't do it.
        """
        with _engine(self._model, 1) as generator:
            while True:
                started = time.perf_counter()
                generator.insert([self._page], max_tokens=1)
                while generator.has_work:
                    if any(prompt.error for prompt in generator.next()[0]):
                        raise MeasurementError("There is not enough memory to read one page.", _SMALLER)
                yield time.perf_counter() - started

    def decode(self, batch_size: int, seconds: float) -> StepTimes:
        """Decode steps of so many pages, for about so many seconds.

        The pages are at different points of their answers, evenly spread, as in the middle of a long run.

        Raises:
            MeasurementError: The device can't do it.
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
                raise MeasurementError(
                    f"There is not enough memory for {batch_size} pages at once.", _SMALLER
                )
            return StepTimes(statistics.median(took), len(took), mx.get_peak_memory())

    def _pages_in_work(self, count: int) -> Iterator[Page]:
        """The longest first, so that none has to make room for another."""
        prompt = self._page.token_ids
        for place in reversed(range(count)):
            answered = int(self._output_tokens * (place + 0.5) / count)
            answered = max(0, min(answered, self._longest - len(prompt)))
            ids = np.concatenate([prompt, np.zeros(answered, np.int32)])
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
        try:
            yield generator
        finally:
            generator.close()
    except (RuntimeError, MemoryError) as error:  # MLX has no classes of its own
        raise MeasurementError(
            f"The device gave up: {str(error).strip() or type(error).__name__}",
            _SMALLER,
        ) from error
