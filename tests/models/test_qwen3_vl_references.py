"""Our Qwen3-VL against what transformers made of the same checkpoints (tests/parity/make_references.py).

Everything within 1e-4 in float32: vision tower, deepstack features, logits; greedy tokens the same for 64
steps, all pages of a checkpoint decoded together.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_chandra.models import load_model
from mlx_chandra.models.backend import Backend, BackendName, backend_of, current_backend
from mlx_chandra.models.cuda import rounded_form
from mlx_chandra.models.qwen3_vl import Qwen3VL
from mlx_chandra.processing.processor import PageInputs, Processor
from tests.checkpoints import random_weights, write_huggingface_checkpoint
from tests.parity.cases import (
    GREEDY_STEPS,
    IMAGE_SIZES,
    LOGIT_COLUMNS,
    MODEL_CASES,
    PROMPT,
    TOLERANCE,
    VISION_COLUMNS,
    ModelCase,
    image_name,
    page_image,
)
from tests.parity.ours import greedy_tokens

REFERENCES = Path(__file__).parents[1] / "data" / "qwen3_vl_references.npz"


@dataclass(frozen=True)
class Opened:
    """One checkpoint of the cases, opened by us, its pages prepared, and what is stored about it."""

    case: ModelCase
    model: Qwen3VL

    pages: list[PageInputs]
    stored: dict[str, np.ndarray]

    def reference(self, size: tuple[int, int], what: str) -> np.ndarray:
        return self.stored[f"{self.case.name}/{image_name(size)}/{what}"]


def here() -> Backend:
    """The other two run here with the choices of the machines that they are named after."""
    return current_backend()


def as_on_a_mac() -> Backend:
    return replace(backend_of(BackendName.METAL), name=BackendName.CPU, bucket_slots=(1, 2))


def as_on_cuda() -> Backend:
    return replace(
        backend_of(BackendName.CUDA),
        name=BackendName.CPU,
        bucket_slots=(2,),
        attention=rounded_form(64),
    )


@pytest.fixture(
    scope="module",
    params=list(product(MODEL_CASES, (here, as_on_a_mac, as_on_cuda))),
    ids=lambda case: f"{case[0].name}-{case[1].__name__}",
)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    case, backend = request.param
    folder = tmp_path_factory.mktemp(case.name)
    write_huggingface_checkpoint(folder, case.shape, seed=case.seed, form=case.form)
    processor = Processor.from_folder(folder)
    pages = [processor.prepare(page_image(*size), PROMPT) for size in IMAGE_SIZES]
    with np.load(REFERENCES) as stored:
        yield Opened(case, load_model(folder, mx.float32, backend()), pages, dict(stored))


def test_the_checkpoint_is_the_one_that_the_references_were_made_from(opened: Opened) -> None:
    weights = random_weights(opened.case.shape, opened.case.seed).values()
    total = sum(float(np.abs(array).sum(dtype=np.float64)) for array in weights)
    assert total == pytest.approx(float(opened.stored[f"{opened.case.name}/weights"]), rel=1e-9)


def test_prompts_and_grids_are_those_of_transformers(opened: Opened) -> None:
    for size, page in zip(IMAGE_SIZES, opened.pages, strict=True):
        np.testing.assert_array_equal(page.token_ids, opened.reference(size, "token_ids"))
        assert (page.image.grid.t, page.image.grid.h, page.image.grid.w) == tuple(
            opened.reference(size, "grid")
        )


def test_vision_output_and_deepstack_features_agree_alone_and_packed_together(opened: Opened) -> None:
    packed = opened.model.embed_images([page.image for page in opened.pages])
    start = 0
    for size, page in zip(IMAGE_SIZES, opened.pages, strict=True):
        alone = opened.model.embed_images([page.image])
        vision, deepstack = opened.reference(size, "vision"), opened.reference(size, "deepstack")
        rows = slice(start, start := start + len(vision))
        assert len(alone.deepstack) == len(packed.deepstack) == len(deepstack)
        for features, here in ((alone, slice(None)), (packed, rows)):
            _assert_close(features.hidden[here, :VISION_COLUMNS], vision)
            for level, expected in zip(features.deepstack, deepstack, strict=True):
                _assert_close(level[here, :VISION_COLUMNS], expected)
    assert start == len(packed.hidden)


def test_logits_agree_at_every_position(opened: Opened) -> None:
    for size, logits in zip(IMAGE_SIZES, opened.model.logits(opened.pages), strict=True):
        _assert_close(logits[:, :LOGIT_COLUMNS], opened.reference(size, "logits"))
        _assert_close(logits[-1], opened.reference(size, "last_logits"))


def test_greedy_tokens_are_the_same_for_64_steps(opened: Opened) -> None:
    answers = greedy_tokens(opened.model, opened.pages, GREEDY_STEPS)
    for size, tokens in zip(IMAGE_SIZES, answers, strict=True):
        assert tokens == opened.reference(size, "greedy").tolist(), image_name(size)


def _assert_close(ours: mx.array, reference: np.ndarray) -> None:
    np.testing.assert_allclose(np.array(ours), reference, rtol=0, atol=TOLERANCE)
