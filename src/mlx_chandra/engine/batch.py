"""The calls that people know from mlx-vlm: load, group_images_by_shape, batch_generate; over BatchGenerator.

Code moves over by changing its import. What theirs lacks is in `BatchResponse.pages`: how each page ended,
its token counts, and the error of a page that could not be read (the others go on).
"""

import os
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import mlx.core as mx

from mlx_chandra.documents.image_files import open_page, page_shape
from mlx_chandra.engine.ahead import run_ahead
from mlx_chandra.engine.generator import BatchGenerator
from mlx_chandra.engine.memory import require_room_here
from mlx_chandra.engine.responses import FinishReason, GeneratorStats
from mlx_chandra.engine.sampler import GREEDY, Sampling
from mlx_chandra.errors import MlxChandraError, PageError
from mlx_chandra.models import load_model, resolve_checkpoint
from mlx_chandra.models.qwen3_vl import Qwen3VL
from mlx_chandra.processing.processor import PageInputs, Processor
from mlx_chandra.processing.prompt import PromptType

if TYPE_CHECKING:
    from PIL.Image import Image

    ImageLike = str | os.PathLike[str] | Image

Value = TypeVar("Value")
Shape = tuple[int, int]  # height, width
_WORKERS = 4


@dataclass(frozen=True)
class BatchStats:
    """Tokens, seconds, tokens per second and GB, as mlx-vlm's."""

    prompt_tokens: int
    prompt_tps: float
    prompt_time: float
    generation_tokens: int
    generation_tps: float
    generation_time: float
    peak_memory: float


@dataclass(frozen=True)
class PageOutcome:
    """How one page ended; `error` is set where finish_reason is ERROR."""

    finish_reason: FinishReason
    prompt_tokens: int
    generation_tokens: int
    error: MlxChandraError | None = None


@dataclass(frozen=True)
class BatchResponse:
    """Texts in the order of the images; image_sizes as (height, width), (0, 0) for one that could not be
    read."""

    texts: list[str]
    stats: BatchStats
    image_sizes: list[Shape] | None
    pages: list[PageOutcome]


def load(name_or_path: str | Path, dtype: mx.Dtype | str | None = None) -> tuple[Qwen3VL, Processor]:
    """Load a checkpoint's model and processor.

    Args:
        name_or_path: "demo", a folder, or a name on the Hugging Face hub.
        dtype: float32, float16 or bfloat16, or its name; None: float32 on the CPU, the checkpoint's own on
            a GPU.

    Raises:
        ModelNotFoundError: There is no such checkpoint here, and it can't be downloaded.
        CheckpointError: It can't be used.
        ModelTooLargeError: It doesn't fit into this machine's memory.
    """
    folder = resolve_checkpoint(name_or_path)
    require_room_here(folder, dtype)
    return load_model(folder, dtype), Processor.from_folder(folder)


def group_images_by_shape(
    images: Sequence["ImageLike"],
) -> tuple[dict[Shape, list["ImageLike"]], dict[Shape, list[int]]]:
    """Sort images, paths or PIL's, into groups of one (height, width).

    Returns:
        The images of each shape, and their places in `images`. One that can't be read is in the group (0, 0).
    """
    grouped: dict[Shape, list[ImageLike]] = {}
    indices: dict[Shape, list[int]] = {}
    for index, image in enumerate(images):
        shape = _shape(image)
        grouped.setdefault(shape, []).append(image)
        indices.setdefault(shape, []).append(index)
    return grouped, indices


def _shape(image: "ImageLike") -> Shape:
    from PIL import Image

    if isinstance(image, Image.Image):
        return image.height, image.width
    try:
        return page_shape(image)
    except PageError:
        return 0, 0


@dataclass(frozen=True)
class _Job:
    index: int
    image: "ImageLike"
    prompt: str | PromptType
    max_tokens: int
    sampling: Sampling


def batch_generate(
    model: Qwen3VL,
    processor: Processor,
    images: "ImageLike | Sequence[ImageLike] | None" = None,
    prompts: str | Sequence[str] | None = None,
    max_tokens: int | Sequence[int] = 128,
    verbose: bool = False,
    group_by_shape: bool = True,
    track_image_sizes: bool = True,
    *,
    sampling: Sampling | Sequence[Sampling] = GREEDY,
    max_size: int | None = None,
    completion_batch_size: int | str = "auto",
    stop_on_repetition: bool = True,
) -> BatchResponse:
    """Read any number of page images.

    Args:
        model, processor: From `load`.
        images: Paths, PIL images or a mix.
        prompts: One for all images or one for each; by default the model's own layout prompt.
        max_tokens: One limit for all pages or one for each.
        verbose: Print the tokens and times at the end.
        group_by_shape: Run pages of one shape next to each other. The texts are the same either way.
        track_image_sizes: Whether to return each image's (height, width).
        sampling: One for all pages or one for each; greedy by default.
        max_size: First bring longest sides down to this many pixels.
        completion_batch_size: Pages decoded at once, or "auto": what fits the machine.
        stop_on_repetition: Whether a page that goes in circles is stopped.

    Raises:
        ValueError: No images, or lists of other lengths than theirs.
    """
    jobs = _jobs(images, prompts, max_tokens, sampling)
    order = _by_shape(jobs) if group_by_shape else jobs
    generator = BatchGenerator(
        model,
        processor,
        completion_batch_size=completion_batch_size,
        stop_on_repetition=stop_on_repetition,
        max_tokens=max(job.max_tokens for job in jobs),
    )
    run = _Run(generator, processor, len(jobs))
    try:
        run.read(order, max_size)
        stats = _stats(generator.stats())
    finally:
        generator.close()
    if verbose:
        print(_report(len(jobs), stats))
    return BatchResponse(run.texts(), stats, run.sizes if track_image_sizes else None, run.outcomes())


def _jobs(
    images: "ImageLike | Sequence[ImageLike] | None",
    prompts: str | Sequence[str] | None,
    max_tokens: int | Sequence[int],
    sampling: Sampling | Sequence[Sampling],
) -> list[_Job]:
    if images is None:
        raise ValueError("batch_generate needs images: Chandra reads page pictures.")
    pages = list(images) if isinstance(images, Sequence) and not isinstance(images, str) else [images]
    if not pages:
        raise ValueError("batch_generate needs at least one image.")
    columns = (
        _for_each(pages, PromptType.OCR_LAYOUT if prompts is None else prompts, str, "prompts"),
        _for_each(pages, max_tokens, int, "max_tokens"),
        _for_each(pages, sampling, Sampling, "sampling"),
    )
    return [_Job(index, *job) for index, job in enumerate(zip(pages, *columns, strict=True))]


def _for_each(
    pages: Sequence[object], value: Value | Sequence[Value], kind: type[Value], name: str
) -> list[Value]:
    """One value for each page, given one or all of them."""
    if isinstance(value, kind):
        return [value] * len(pages)
    values = list(cast("Sequence[Value]", value))
    if len(values) == 1:
        return values * len(pages)
    if len(values) != len(pages):
        raise ValueError(f"{len(pages)} images, but {len(values)} {name}.")
    return values


def _by_shape(jobs: list[_Job]) -> list[_Job]:
    _, groups = group_images_by_shape([job.image for job in jobs])
    return [jobs[index] for indices in groups.values() for index in indices]


class _Run:
    """One batch_generate: what is known of each page so far, by its place in the order given."""

    def __init__(self, generator: BatchGenerator, processor: Processor, pages: int) -> None:
        self._generator, self._processor = generator, processor
        self._places: dict[int, int] = {}  # of the pages in the generator, by uid
        self._tokens: list[list[int]] = [[] for _ in range(pages)]
        self._prompt_tokens = [0] * pages
        self._reasons = [FinishReason.ERROR] * pages
        self._errors: list[MlxChandraError | None] = [None] * pages
        self.sizes: list[Shape] = [(0, 0)] * pages

    def read(self, jobs: list[_Job], max_size: int | None) -> None:
        """Run all jobs, prepared on threads while the device works; it waits for a page only when it has
        none."""
        generator = self._generator
        prepared = run_ahead(lambda job: self._prepare(job, max_size), jobs, _WORKERS, 2 * _WORKERS)
        pages = zip(jobs, prepared, strict=True)
        coming = next(pages, None)
        while coming is not None or generator.has_work:
            while coming is not None and self._wants(coming[1]):
                self._insert(*coming)
                coming = next(pages, None)
            self._go_on()

    def _wants(self, page: Future[PageInputs]) -> bool:
        """Whether the generator takes this page now, be it that there is nothing to do but wait for it."""
        generator = self._generator
        has_room = generator.waiting + generator.cache.active < 2 * generator.slots
        return has_room and (page.done() or not generator.has_work)

    def _prepare(self, job: _Job, max_size: int | None) -> PageInputs:
        image = open_page(job.image) if isinstance(job.image, str | os.PathLike) else job.image
        return self._processor.prepare(image, job.prompt, max_size)

    def _insert(self, job: _Job, page: Future[PageInputs]) -> None:
        """Give the generator a page, or remember why there is none."""
        try:
            inputs = page.result()
        except MlxChandraError as error:
            self._errors[job.index] = error
            return
        self.sizes[job.index] = inputs.image_size
        (uid,) = self._generator.insert([inputs], job.max_tokens, job.sampling)
        self._places[uid] = job.index

    def _go_on(self) -> None:
        prompts, tokens = self._generator.next()
        for prompt in prompts:
            index = self._places[prompt.uid]
            self._prompt_tokens[index], self._errors[index] = prompt.prompt_tokens, prompt.error
        for response in tokens:
            index = self._places[response.uid]
            if response.finish_reason is FinishReason.ERROR:
                self._errors[index] = response.error
                continue
            self._tokens[index].append(response.token)
            if response.finish_reason is not None:
                self._reasons[index] = response.finish_reason

    def texts(self) -> list[str]:
        return [self._processor.decode(tokens) for tokens in self._tokens]

    def outcomes(self) -> list[PageOutcome]:
        columns = zip(self._reasons, self._prompt_tokens, map(len, self._tokens), self._errors, strict=True)
        return [PageOutcome(*page) for page in columns]


def _stats(stats: GeneratorStats) -> BatchStats:
    return BatchStats(
        prompt_tokens=stats.prompt_tokens,
        prompt_tps=stats.prompt_tokens / max(stats.prompt_time, 1e-9),
        prompt_time=stats.prompt_time,
        generation_tokens=stats.generation_tokens,
        generation_tps=stats.generation_tokens / max(stats.generation_time, 1e-9),
        generation_time=stats.generation_time,
        peak_memory=stats.peak_memory / 1e9,
    )


def _report(pages: int, stats: BatchStats) -> str:
    return (
        f"{pages} pages; prompts: {stats.prompt_tokens} tokens, {stats.prompt_tps:.1f} tokens/s; "
        f"answers: {stats.generation_tokens} tokens, {stats.generation_tps:.1f} tokens/s; "
        f"peak memory {stats.peak_memory:.2f} GB"
    )
