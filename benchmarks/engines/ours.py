"""mlx-chandra: batch_generate over files, BatchGenerator over made pages."""

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx

from benchmarks.engines.base import Answer, Outcome, Setup
from benchmarks.made_model import made_model
from benchmarks.workloads import MadePage
from mlx_chandra.engine.bench import NeverStops
from mlx_chandra.engine.generator import BatchGenerator
from mlx_chandra.processing.processor import Processor
from mlx_chandra.reading.batch import batch_generate, load


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
        response = batch_generate(
            self._model,
            self._processor,
            images=list(paths),
            max_tokens=max_tokens,
            completion_batch_size=self._batch,
            stop_on_repetition=False,
        )
        pages = zip(response.texts, response.pages, strict=True)
        return Outcome([Answer(text, page.generation_tokens) for text, page in pages])

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

    def peak_device_bytes(self) -> int:
        return mx.get_peak_memory()
