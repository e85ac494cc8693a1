"""The engines whose input is clocked: the demo checkpoint as the program opens it, and a made model.

A made model comes without a processor's files. It gets the program's own processor with Qwen3-VL's picture
settings, so that a picture's way is the real one. Its prompt is as many made tokens as W1 has behind a
picture, and costs what a real one does: that is encoded once, and not for each page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import mlx.core as mx

from benchmarks.made_model import CHANDRA_1, TOY, made_model
from benchmarks.workloads import AFTER_IMAGE
from mlx_chandra.cli.reader import EngineReader
from mlx_chandra.documents.image_files import open_page
from mlx_chandra.engine.batch import load
from mlx_chandra.engine.generator import BatchGenerator
from mlx_chandra.engine.timing import NeverStops
from mlx_chandra.models.backend import BackendName, current_backend
from mlx_chandra.models.config import ModelConfig
from mlx_chandra.models.cpu import use_openblas
from mlx_chandra.models.qwen3_vl import Qwen3VL
from mlx_chandra.processing.image import ImageSettings
from mlx_chandra.processing.processor import Processor
from mlx_chandra.processing.prompt import ModelFamily, PromptType
from mlx_chandra.processing.tokenizer import Message

if TYPE_CHECKING:
    from mlx_chandra.processing.tokenizer import Tokenizer

_PIXELS = ImageSettings(min_pixels=65_536, max_pixels=16_777_216)  # Qwen3-VL's own
_TOY_PIXELS = ImageSettings(min_pixels=1024, max_pixels=16_777_216)
_WARM_UP_TOKENS = 8


class MadeTokenizer:
    """Stands for a tokenizer: one prompt, and texts that say nothing but never go in circles."""

    def __init__(self, config: ModelConfig) -> None:
        start, end, image = config.vision_start_token_id, config.vision_end_token_id, config.image_token_id
        plain = min(start, end, image)
        self._prompt = [start, image, end, *(number % plain for number in range(AFTER_IMAGE - 1))]

    def apply_chat_template(self, messages: Sequence[Message]) -> str:
        return "the conversation"

    def encode(self, text: str) -> list[int]:
        return self._prompt if text == "the conversation" else []

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(str(number) for number in range(len(ids)))


@dataclass(frozen=True)
class Engine:
    """A model with its processor, and how its pages are read."""

    model: Qwen3VL
    processor: Processor
    prompt: str | PromptType
    batch: int
    max_size: int | None
    circles: bool  # whether pages that go in circles are stopped

    def generator(self, slots: int | None = None) -> BatchGenerator:
        mx.clear_cache()  # what loading the model or an earlier run left
        return BatchGenerator(
            self.model,
            self.processor,
            completion_batch_size=slots or self.batch,
            stop_on_repetition=self.circles,
        )

    def reader(self, generator: BatchGenerator) -> EngineReader:
        return EngineReader(self.processor, generator, self.prompt, self.max_size)

    def warm_up(self, path: Path) -> None:
        """Reads the beginning of one page, so that everything is loaded and compiled once."""
        generator = self.generator(slots=1)
        inputs = self.processor.prepare(open_page(path), self.prompt, self.max_size)
        generator.insert([inputs], _WARM_UP_TOKENS)
        while generator.has_work:
            generator.next()
        generator.close()


def demo_engine(batch: int, max_size: int) -> Engine:
    model, processor = load("demo")
    return Engine(model, processor, PromptType.OCR_LAYOUT, batch, max_size or None, circles=True)


def made_engine(toy: bool, batch: int, max_size: int) -> Engine:
    """In float32 on a CPU, in bfloat16 on a GPU."""
    on_cpu = current_backend().name is BackendName.CPU
    if on_cpu:
        use_openblas()
    model = made_model(TOY if toy else CHANDRA_1, "float32" if on_cpu else "bfloat16")
    processor = Processor(
        cast("Tokenizer", MadeTokenizer(model.config)),
        _TOY_PIXELS if toy else _PIXELS,
        ModelFamily.CHANDRA_1,
        model.config.image_token_id,
        NeverStops().stop_token_ids,
    )
    return Engine(model, processor, "the prompt", batch, max_size or None, circles=False)
