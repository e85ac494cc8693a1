"""The calls that people know from mlx-vlm: load, group_images_by_shape, batch_generate.

Code moves over by changing its import. What mlx-vlm's lack is in `BatchResponse.pages`: how each page ended,
its token counts, and the error of a page that could not be read. The others go on.
"""

import contextlib
import operator
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, SupportsIndex

import numpy as np
from PIL.Image import Image

from mlx_chandra.documents.page import Document, Page, PageResult
from mlx_chandra.engine.generator import BatchGenerator
from mlx_chandra.engine.handles import RequestOptions
from mlx_chandra.engine.responses import FinishReason, GeneratorStats
from mlx_chandra.engine.retries import RETRIES, Retries
from mlx_chandra.engine.sampler import GREEDY, Sampler, Sampling
from mlx_chandra.engine.service import Dtype, Service, load_checkpoint
from mlx_chandra.errors import PageError, PageState
from mlx_chandra.models.qwen3_vl import Qwen3VL
from mlx_chandra.processing.processor import PageInputs, Processor
from mlx_chandra.processing.prompt import PromptType
from mlx_chandra.reading.images import Picture, Shape, name_of, open_image, shape_of
from mlx_chandra.reading.loader import Loader
from mlx_chandra.reading.read import Pages, read_loaded

_WORKERS = 4

_INSTEAD = {
    "adapter_path": "Merge the adapter into the checkpoint, and load that.",
    "draft_model": "There is no speculative decoding here.",
    "kv_bits": "The cache is not quantised; completion_batch_size makes it smaller.",
    "logits_processors": "sampler= chooses the tokens of all pages, sampling= those of one.",
    "revision": "Download it first (hf download NAME --revision REVISION), and load the folder.",
    "strict": "Every tensor must have its place.",
    "temperature": "Give sampling=Sampling(temperature=...), from mlx_chandra.engine.sampler.",
    "top_p": "Give sampling=Sampling(temperature=..., top_p=...), from mlx_chandra.engine.sampler.",
    "trust_remote_code": "No code of a checkpoint is run.",
}


@dataclass(frozen=True)
class BatchStats:
    """Tokens, seconds, tokens per second and GB, as mlx-vlm's."""

    prompt_tokens: int = 0
    prompt_tps: float = 0
    prompt_time: float = 0
    generation_tokens: int = 0
    generation_tps: float = 0
    generation_time: float = 0
    peak_memory: float = 0


@dataclass(frozen=True)
class PageOutcome:
    """How one page ended.

    Attributes:
        finish_reason: Of the attempt whose text is kept.
        prompt_tokens: Of the picture and the prompt.
        generation_tokens: Of the attempt that is kept.
        error: Why the page could not be read, where finish_reason is ERROR.
        status: As the command line's CSV says it: `ok`, `error:truncated`, `error:missing: ...`.
        attempts: How often the model read it.
    """

    finish_reason: FinishReason
    prompt_tokens: int = 0
    generation_tokens: int = 0
    error: PageError | None = None
    status: str = PageState.OK.value
    attempts: int = 0


@dataclass(frozen=True)
class BatchResponse:
    """Texts in the order of the images; image_sizes as (height, width), (0, 0) for one that could not be
    read."""

    texts: list[str]
    stats: BatchStats
    image_sizes: list[Shape] | None = None
    pages: list[PageOutcome] = field(default_factory=list)


def load(
    name_or_path: str | Path | None = None,
    dtype: Dtype | None = None,
    lazy: bool = False,
    revision: str | None = None,
    strict: bool = True,
    *,
    path_or_hf_repo: str | None = None,
    adapter_path: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[Qwen3VL, Processor]:
    """Load a checkpoint's model and processor.

    Args:
        name_or_path: "demo", a folder, or a name on the Hugging Face hub; `path_or_hf_repo` is mlx-vlm's name
            for it.
        dtype: float32, float16 or bfloat16, or its name; None: float32 on the CPU, the checkpoint's own on
            a GPU.
        lazy: Has no effect: the weights are loaded at once.
        revision, strict, adapter_path, trust_remote_code: mlx-vlm's; only their defaults can be taken.

    Raises:
        TypeError: No checkpoint is named, or an argument can't be taken.
        ModelNotFoundError: There is no such checkpoint here, and it can't be downloaded.
        CheckpointError: It can't be used.
        ModelTooLargeError: It doesn't fit into this machine's memory.
    """
    asked = {
        "revision": None if revision == "main" else revision,
        "strict": None if strict else strict,
        "adapter_path": adapter_path,
        "trust_remote_code": trust_remote_code or None,
    }
    _refuse("load", asked)
    if lazy:
        _say_no_effect("load", ["lazy"])
    name = path_or_hf_repo if name_or_path is None else name_or_path
    if name is None:
        raise TypeError('load needs a checkpoint: "demo", a folder, or a name on the hub.')
    return load_checkpoint(name, dtype)


def group_images_by_shape(
    images: Iterable[Picture], disable_grouping: bool = False
) -> tuple[dict[tuple[int, ...], list[Picture]], dict[tuple[int, ...], list[int]]]:
    """Sort images into groups of one (height, width), as they stand upright.

    With `disable_grouping` each image is a group of its own, (height, width, place).

    Returns:
        The images of each group, and their places in `images`. What can't be read has the shape (0, 0).
    """
    grouped: dict[tuple[int, ...], list[Picture]] = {}
    places: dict[tuple[int, ...], list[int]] = {}
    for place, image in enumerate(images):
        shape = (*shape_of(image), place) if disable_grouping else shape_of(image)
        grouped.setdefault(shape, []).append(image)
        places.setdefault(shape, []).append(place)
    return grouped, places


def batch_generate(
    model: Qwen3VL,
    processor: Processor,
    images: Picture | Iterable[Picture] | None = None,
    audios: None = None,
    prompts: str | PromptType | Sequence[str | PromptType | None] | None = None,
    max_tokens: int | Sequence[int] = 128,
    verbose: bool = False,
    group_by_shape: bool = True,
    track_image_sizes: bool = True,
    videos: None = None,
    *,
    sampling: Sampling | Sequence[Sampling] = GREEDY,
    retries: int | None = None,
    max_size: int | None = None,
    completion_batch_size: int | str = "auto",
    stop_on_repetition: bool = True,
    stop_tokens: Iterable[int] | None = None,
    sampler: Sampler | None = None,
    resize_shape: object = None,
    prefill_step_size: object = None,
    kv_bits: None = None,
    logits_processors: None = None,
    draft_model: None = None,
    temperature: None = None,
    top_p: None = None,
) -> BatchResponse:
    """Read any number of page images.

    Args:
        model, processor: From `load`.
        images: Paths, PIL images, arrays (uint8 [height, width], [height, width, 3 or 4]) or a mix. A PIL
            image is treated as its file would be: turned by its EXIF, on white, scaled to 8 bits.
        prompts: One for all images or one for each; None is the model's own layout prompt.
        max_tokens: Output tokens of an attempt: one limit for all pages or one for each.
        verbose: Print the tokens and times at the end.
        group_by_shape: Run pages of one shape next to each other. The texts are the same either way.
        track_image_sizes: Whether to return each image's (height, width).
        sampling: One for all pages or one for each; greedy by default.
        retries: How often a page is read again that repeats itself; by default 3 times, or never where
            `sampler` is given or `stop_on_repetition` is off.
        max_size: First bring longest sides down to this many pixels; None or 0: as large as they are.
        completion_batch_size: Pages decoded at once, or "auto": what fits the machine.
        stop_on_repetition: Whether a page that repeats itself without end is stopped.
        stop_tokens: Further tokens that end an answer.
        sampler: logits [n, vocab] -> tokens [n], in place of `sampling`, for retries too.
        audios, videos: None only.
        resize_shape, prefill_step_size: Have no effect here.
        kv_bits, logits_processors, draft_model, temperature, top_p: None only; the error names what there is
            here instead.

    Raises:
        ValueError: No images, a negative size, or lists of other lengths than theirs.
        TypeError: An argument of another kind, or one that can't be taken.
    """
    _refuse_media(audios, videos, prompts)
    theirs = {"kv_bits": kv_bits, "logits_processors": logits_processors, "draft_model": draft_model}
    _refuse("batch_generate", {**theirs, "temperature": temperature, "top_p": top_p})
    idle = {"resize_shape": resize_shape, "prefill_step_size": prefill_step_size}
    _say_no_effect("batch_generate", [name for name, value in idle.items() if value is not None])
    if max_size is not None and max_size < 0:
        raise ValueError("max_size must be at least 0; 0 is as large as the picture is.")
    if retries is None:
        retries = RETRIES.most if sampler is None and stop_on_repetition else 0
    jobs = _jobs(images, prompts, max_tokens, sampling)
    generator = BatchGenerator(
        model,
        processor,
        max_tokens=max(job.max_tokens for job in jobs),
        stop_tokens=stop_tokens,
        sampler=sampler,
        completion_batch_size=completion_batch_size,
        stop_on_repetition=False,
    )
    batch = _Batch(jobs, Retries(retries), stop_on_repetition, max_size or None)
    with Service(generator, processor) as service:  # type: ignore[arg-type, unused-ignore]
        results = batch.read(service, group_by_shape)
    stats = _stats(service.stats())
    if verbose:
        print(_report(len(jobs), stats))
    sizes = [(result.size[1], result.size[0]) if result.size else (0, 0) for result in results]
    return BatchResponse(
        [result.text for result in results],
        stats,
        sizes if track_image_sizes else None,
        [_outcome(result) for result in results],
    )


@dataclass(frozen=True)
class _Job:
    """One image, and how it is read."""

    image: Picture
    prompt: str | PromptType
    max_tokens: int
    sampling: Sampling


@dataclass(frozen=True)
class _Batch:
    """The pages of one call. A page's number is its place among the images, counted from 1."""

    jobs: list[_Job]
    retries: Retries
    stop_on_repetition: bool
    max_size: int | None

    def read(self, service: Service, group_by_shape: bool) -> list[PageResult]:
        """Read all pages, and return the results in the order of the images."""

        def prepare(page: Page, image: Image) -> PageInputs:
            return service.prepare(image, self._job(page).prompt, self.max_size)

        loader = Loader(iter(self._pages(group_by_shape)), lambda _: [], self._open, _WORKERS)
        with contextlib.closing(read_loaded(loader, prepare, Pages(service, self._request))) as reading:
            results = {result.page.number: result for result in reading}
        return [results[number] for number in range(1, len(self.jobs) + 1)]

    def _pages(self, group_by_shape: bool) -> list[Page]:
        pages = [Page(Document(name_of(job.image), "", ""), i) for i, job in enumerate(self.jobs, start=1)]
        if not group_by_shape:
            return pages
        _, groups = group_images_by_shape(job.image for job in self.jobs)
        return [pages[place] for places in groups.values() for place in places]

    def _job(self, page: Page) -> _Job:
        assert page.number is not None
        return self.jobs[page.number - 1]

    def _open(self, page: Page) -> Image:
        return open_image(self._job(page).image)

    def _request(self, page: Page) -> RequestOptions:
        job = self._job(page)
        name = os.path.basename(job.image) if isinstance(job.image, str | os.PathLike) else str(page.number)
        return RequestOptions(
            job.max_tokens, job.sampling, self.retries, name, stop_on_repetition=self.stop_on_repetition
        )


def _jobs(
    images: Picture | Iterable[Picture] | None,
    prompts: str | PromptType | Sequence[str | PromptType | None] | None,
    max_tokens: int | Sequence[int],
    sampling: Sampling | Sequence[Sampling],
) -> list[_Job]:
    pages = _pictures(images)
    columns = (
        _for_each(pages, prompts, str | None, "prompts"),
        _for_each(pages, max_tokens, SupportsIndex, "max_tokens"),
        _for_each(pages, sampling, Sampling, "sampling"),
    )
    return [
        _Job(page, PromptType.OCR_LAYOUT if prompt is None else prompt, operator.index(limit), sampled)
        for page, prompt, limit, sampled in zip(pages, *columns, strict=True)
    ]


def _pictures(images: Picture | Iterable[Picture] | None) -> list[Picture]:
    if images is None:
        raise ValueError("batch_generate needs images: Chandra reads page pictures, and no prompts alone.")
    if isinstance(images, Set):
        raise TypeError("images are a set, which has no order to give texts back in. Give a list.")
    if isinstance(images, str | os.PathLike | Image | np.ndarray):
        return [images]
    pages = list(images)
    if not pages:
        raise ValueError("batch_generate needs at least one image.")
    return pages


def _for_each(pages: Sequence[object], value: Any, kind: type | UnionType, name: str) -> list[Any]:
    """Return one value for each page, given one or all of them."""
    if isinstance(value, kind):
        return [value] * len(pages)
    values = list(value) if isinstance(value, Iterable) else [value]
    wrong = [item for item in values if not isinstance(item, kind)]
    if wrong:
        raise TypeError(f"{name} can't be {wrong[0]!r}.")
    if len(values) == 1:
        return values * len(pages)
    if len(values) != len(pages):
        raise ValueError(f"{len(pages)} images, but {len(values)} {name}. Each page needs an image.")
    return values


def _outcome(result: PageResult) -> PageOutcome:
    error = None
    if result.state is PageState.ERROR:
        _, kind, message = result.status.split(":", 2)
        error = PageError(kind, message.strip())
    return PageOutcome(
        finish_reason=FinishReason.ERROR if error else FinishReason(result.finish_reason or "error"),
        prompt_tokens=result.prompt_tokens,
        generation_tokens=result.output_tokens,
        error=error,
        status=result.status,
        attempts=result.attempts,
    )


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
        f"{pages} pages; prompt: {stats.prompt_tokens} tokens, {stats.prompt_tps:.1f} tokens/s; "
        f"output: {stats.generation_tokens} tokens, {stats.generation_tps:.1f} tokens/s; "
        f"peak memory {stats.peak_memory:.2f} GB"
    )


def _refuse(function: str, asked: Mapping[str, object]) -> None:
    """Raise TypeError for an argument that can't be taken, naming it and what there is instead."""
    name = next((name for name, value in asked.items() if value is not None), None)
    if name is not None:
        raise TypeError(f"{function} can't take {name}. {_INSTEAD[name]}")


def _refuse_media(audios: object, videos: object, prompts: object) -> None:
    if audios is not None and prompts is None:
        raise TypeError(
            "The argument after images is audios, as in mlx-vlm, and Chandra reads pictures only. "
            "Give prompts by name: prompts=..."
        )
    for name, value in (("audios", audios), ("videos", videos)):
        if value is not None:
            raise TypeError(f"batch_generate can't take {name}: Chandra reads page pictures only.")


def _say_no_effect(function: str, names: Sequence[str]) -> None:
    if names:
        warnings.warn(f"{function}: {', '.join(names)} has no effect here.", stacklevel=3)
