"""mlx-chandra: batch_generate over files, BatchGenerator over made pages."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from unittest.mock import patch

import mlx.core as mx

from benchmarks.engines.base import Answer, Outcome, Setup
from benchmarks.made_model import made_model
from benchmarks.phases import Phase, PhaseClock
from benchmarks.workloads import MadePage
from mlx_chandra.engine.batch import batch_generate, load
from mlx_chandra.engine.generator import BatchGenerator
from mlx_chandra.engine.responses import GeneratorStats
from mlx_chandra.engine.timing import NeverStops
from mlx_chandra.models.qwen3_vl import Qwen3VL
from mlx_chandra.processing.processor import Processor


class Ours:
    def __init__(self, setup: Setup) -> None:
        self._batch = setup.batch
        self._processor: Processor | None = None
        if isinstance(setup.source, Path):
            self._model, self._processor = load(setup.source, setup.dtype)
        else:
            self._model = made_model(setup.source, setup.dtype)
        mx.clear_cache()
        mx.reset_peak_memory()

    def read_files(self, paths: Sequence[Path], max_tokens: int) -> Outcome:
        assert self._processor is not None, "a made model reads no files"
        seen: list[GeneratorStats] = []
        with _stats_kept(seen):
            response = batch_generate(
                self._model,
                self._processor,
                images=list(paths),
                max_tokens=max_tokens,
                completion_batch_size=self._batch,
                stop_on_repetition=False,
            )
        answers = [
            Answer(text, page.generation_tokens)
            for text, page in zip(response.texts, response.pages, strict=True)
        ]
        return Outcome(answers, seen[-1].occupancy, seen[-1].steps)

    def read_made(self, pages: Sequence[MadePage]) -> Outcome:
        generator = BatchGenerator(
            self._model, NeverStops(), completion_batch_size=self._batch, stop_on_repetition=False
        )
        uids = generator.insert([page.inputs for page in pages], [page.output_tokens for page in pages])
        counts = dict.fromkeys(uids, 0)
        while generator.has_work:
            for response in generator.next()[1]:
                counts[response.uid] = response.generated_tokens
        stats = generator.stats()
        generator.close()
        return Outcome([Answer(None, counts[uid]) for uid in uids], stats.occupancy, stats.steps)

    @contextmanager
    def phases(self, clock: PhaseClock) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(clock.around(Qwen3VL, "embed_images", Phase.VISION))
            stack.enter_context(clock.around(Qwen3VL, "prefill", Phase.PREFILL))
            stack.enter_context(clock.around(Qwen3VL, "decode", Phase.DECODE))
            yield

    def wait(self, result: object) -> None:
        mx.eval(_arrays(result))

    def peak_device_bytes(self) -> int:
        return mx.get_peak_memory()


def _arrays(value: object) -> list[mx.array]:
    """All arrays in a result, which may be a dataclass of them."""
    if isinstance(value, mx.array):
        return [value]
    if isinstance(value, list | tuple):
        return [array for item in value for array in _arrays(item)]
    if is_dataclass(value) and not isinstance(value, type):
        return [array for field in fields(value) for array in _arrays(getattr(value, field.name))]
    return []


@contextmanager
def _stats_kept(seen: list[GeneratorStats]) -> Iterator[None]:
    """Keep what batch_generate's generator says of its slots, which its answer leaves out."""
    original = BatchGenerator.stats

    def stats(generator: BatchGenerator) -> GeneratorStats:
        seen.append(original(generator))
        return seen[-1]

    with patch.object(BatchGenerator, "stats", stats):
        yield
