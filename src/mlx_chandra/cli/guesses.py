"""What `--dry-run` knows of a model without loading it: its prompts, its answers so far, its speed here.

Prompts are counted by the checkpoint's own rule where it is on this machine, else by that of Chandra 1.
"""

import os
import statistics
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from mlx_chandra.cli.reader import ReaderOptions
from mlx_chandra.errors import PageState, state_of
from mlx_chandra.forecast import ASSUMED_ANSWER, AnswerGuess, Shape
from mlx_chandra.outputs.results_csv import Row
from mlx_chandra.speeds import (
    BenchSpeed,
    Known,
    RunSpeed,
    Subject,
    recall,
    remember_bench,
    remember_run,
    today,
)

if TYPE_CHECKING:
    from mlx_chandra.engine.responses import GeneratorStats
    from mlx_chandra.keeper import Work
    from mlx_chandra.processing.processor import Processor

_MOST_ROWS = 200  # of the results, whose texts are turned into tokens
_BYTES_PER_TOKEN = 4  # assumed where no text is there to look at
_CHARACTERS_PER_TOKEN = 4  # of a prompt, likewise
_CHANDRA_MIN_PIXELS, _CHANDRA_MAX_PIXELS = 65_536, 16_777_216  # Qwen3-VL's own


class Guesses:
    """What is known of the model that these options name."""

    def __init__(self, options: ReaderOptions) -> None:
        self._options = options
        self._shapes: dict[Shape, int] = {}  # scans of one kind have one shape

    @property
    def prompt_origin(self) -> str:
        """Words that say by which rule prompts are counted, where it isn't the checkpoint's."""
        return "" if self._processor else " (by Chandra 1's rule; the model isn't on this machine)"

    def prompt_tokens(self, shape: Shape) -> int:
        """Of a page of this height and width. Raises PageError for one that the model can't take."""
        if shape not in self._shapes:
            self._shapes[shape] = self._counted(shape)
        return self._shapes[shape]

    def answer(self, rows: Sequence[Row]) -> AnswerGuess:
        """How long an answer will be: as in these results, as in the last run, or as assumed."""
        texts = [row.text for row in rows if state_of(row.status) is PageState.OK]
        if texts and self._processor is not None:
            step = -(-len(texts) // _MOST_ROWS)
            sample = texts[::step]
            encode = self._processor.tokenizer.encode
            tokens = statistics.fmean(len(encode(text)) + 1 for text in sample)  # its end is one, too
            size = statistics.fmean(len(text.encode()) for text in sample)
            pages = "a page" if len(sample) == 1 else f"{len(sample):,} pages"
            return AnswerGuess(tokens, size, f"as in {pages} of these results")
        run = self.known.run(self._options.batch_size)
        if run is not None:
            origin = f"as in a run of {run.pages:,} pages on {run.day}"
            return AnswerGuess(run.answer_tokens, run.answer_tokens * _BYTES_PER_TOKEN, origin)
        origin = "assumed, as no run with this model is remembered"
        return AnswerGuess(ASSUMED_ANSWER, ASSUMED_ANSWER * _BYTES_PER_TOKEN, origin)

    @cached_property
    def known(self) -> Known:
        """The speed that is remembered."""
        return recall(subject_of(self._options.model, self._options.dtype))

    @cached_property
    def _processor(self) -> "Processor | None":
        """The checkpoint's, None where it isn't on this machine."""
        from mlx_chandra.models.hub import cached_checkpoint
        from mlx_chandra.processing.processor import Processor

        folder = cached_checkpoint(self._options.model)
        return None if folder is None else Processor.from_folder(folder)

    def _counted(self, shape: Shape) -> int:
        from mlx_chandra.processing.image import ImageSettings, target_grid
        from mlx_chandra.processing.prompt import ModelFamily, PromptType, prompt_text

        asked, max_size = self._options.prompt, self._options.max_size or None
        kind = PromptType(self._options.prompt_type)
        if self._processor is not None:
            return self._processor.prompt_tokens(shape, kind if asked is None else asked, max_size)
        settings = ImageSettings(_CHANDRA_MIN_PIXELS, _CHANDRA_MAX_PIXELS)
        grid = target_grid(shape, settings, max_size)
        text = prompt_text(kind, ModelFamily.CHANDRA_1) if asked is None else asked
        return grid.patches // settings.merge_size**2 + len(text) // _CHARACTERS_PER_TOKEN


def subject_of(model: str, dtype: str | None) -> Subject:
    """This machine with this model, as speeds are remembered."""
    from mlx_chandra.engine.device import this_device
    from mlx_chandra.models.backend import current_backend

    device = this_device(current_backend().name)
    host = device.host
    machine = (
        f"{device.name}, {device.architecture}, {device.backend}, {host.cores} cores, {device.memory} bytes"
    )
    folder = os.path.expanduser(model)
    return Subject(machine, os.path.realpath(folder) if os.path.isdir(folder) else model, dtype)


def remember(options: ReaderOptions, stats: "GeneratorStats", work: "Work", seconds: float) -> None:
    """Keeps what a run measured for the next --dry-run, where it measured anything.

    What the pages' waiting for the disk and for being opened took is spread over all tokens.
    """
    times = stats.prompt_time + stats.generation_time
    if not (times and stats.prompt_tokens and stats.generation_tokens and work.pages):
        return
    busy = max(seconds / times, 1.0)
    run = RunSpeed(
        batch_size=options.batch_size,
        slots=stats.slots,
        pages=work.pages,
        prompt_seconds=busy * stats.prompt_time / stats.prompt_tokens,
        answer_seconds=busy * stats.generation_time / stats.generation_tokens,
        answer_tokens=work.generated_tokens / work.pages,
        day=today(),
    )
    remember_run(subject_of(options.model, options.dtype), run)


def remember_measured(
    subject: Subject, planned: int, prompt_seconds: float, steps: Sequence[tuple[int, float]]
) -> None:
    """Keeps what `mlx-chandra bench` measured; nothing where it got to no batch size."""
    if steps:
        remember_bench(subject, BenchSpeed(planned, prompt_seconds, steps, today()))
