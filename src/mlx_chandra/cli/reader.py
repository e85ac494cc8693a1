"""From the command line's options to a reader: the engine with a checkpoint's model and processor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_chandra import __version__
from mlx_chandra.outputs.making import Making
from mlx_chandra.pipeline import Reader

if TYPE_CHECKING:
    from PIL.Image import Image

    from mlx_chandra.attempts import Retries
    from mlx_chandra.engine.generator import BatchGenerator
    from mlx_chandra.engine.responses import GenerationResponse, GeneratorStats, PromptResponse
    from mlx_chandra.processing.processor import PageInputs, Processor
    from mlx_chandra.processing.prompt import PromptType


@dataclass(frozen=True)
class ReaderOptions:
    """What the options say about the model. `max_size` 0 is no limit; `prompt` None means `prompt_type`'s."""

    model: str
    dtype: str | None
    prompt: str | None
    prompt_type: str
    max_tokens: int
    max_size: int
    batch_size: int | None  # None: what fits the machine


def making_of(options: ReaderOptions, retries: "Retries") -> Making:
    """With what pages are read. The checkpoint's fingerprint is None where it isn't on this machine yet."""
    from mlx_chandra.models.fingerprint import fingerprint

    return Making(
        program=f"mlx-chandra {__version__}",
        model=options.model,
        settings={
            "prompt_type": None if options.prompt is not None else options.prompt_type,
            "prompt": options.prompt,
            "max_tokens": options.max_tokens,
            "max_size": options.max_size,
            "dtype": options.dtype,
            "retries": retries.most,
            "on_truncation": "retry" if retries.truncated else "keep",
        },
        checkpoint=fingerprint(options.model),
    )


ReaderFactory = Callable[[ReaderOptions], Reader]


class EngineReader:
    """`pipeline.Reader` on a BatchGenerator."""

    def __init__(
        self,
        processor: "Processor",
        generator: "BatchGenerator",
        prompt: "str | PromptType",
        max_size: int | None,
    ) -> None:
        self._processor, self._generator = processor, generator
        self._prompt, self._max_size = prompt, max_size

    @property
    def slots(self) -> int:
        return self._generator.slots

    @property
    def has_work(self) -> bool:
        return self._generator.has_work

    @property
    def box_scale(self) -> int:
        from mlx_chandra.processing.prompt import BOX_SCALES

        return BOX_SCALES[self._processor.family]

    def prepare(self, image: "Image") -> "PageInputs":
        return self._processor.prepare(image, self._prompt, self._max_size)

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.decode(ids)

    def insert(self, prompts: "Sequence[PageInputs]") -> list[int]:
        return self._generator.insert(prompts)

    def retry(self, page: "PageInputs", number: int, seed: int) -> int:
        from mlx_chandra.engine.retries import retry_sampling

        sampling = retry_sampling(self._processor.family, number, seed)
        return self._generator.insert([page], sampling=sampling)[0]

    def remove(self, uid: int) -> bool:
        return self._generator.remove(uid)

    def next(self) -> "tuple[list[PromptResponse], list[GenerationResponse]]":
        return self._generator.next()

    def stats(self) -> "GeneratorStats":
        return self._generator.stats()

    def close(self) -> None:
        self._generator.close()


def open_engine(options: ReaderOptions) -> Reader:
    """Loads the model. Raises ModelNotFoundError or CheckpointError."""
    from mlx_chandra.engine.batch import load
    from mlx_chandra.engine.generator import BatchGenerator
    from mlx_chandra.processing.prompt import PromptType

    model, processor = load(options.model, options.dtype)
    generator = BatchGenerator(
        model,
        processor,
        max_tokens=options.max_tokens,
        completion_batch_size=options.batch_size or "auto",
    )
    prompt = options.prompt if options.prompt is not None else PromptType(options.prompt_type)
    return EngineReader(processor, generator, prompt, options.max_size or None)
