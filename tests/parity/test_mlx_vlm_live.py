"""Our models against mlx-vlm, live, on checkpoints in mlx-vlm's own format."""

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_chandra.models import load_model
from mlx_chandra.processing.processor import PageInputs, Processor
from tests.checkpoints import QUANTIZABLE, Packing, write_mlx_checkpoint
from tests.parity.cases import (
    GREEDY_STEPS,
    IMAGE_SIZES,
    MODEL_CASES,
    PROMPT,
    TOLERANCE,
    ModelCase,
    image_name,
    page_image,
)
from tests.parity.ours import greedy_tokens

mlx_vlm = pytest.importorskip("mlx_vlm.utils")
mlx_vlm_generate = pytest.importorskip("mlx_vlm.generate")

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("case", MODEL_CASES, ids=lambda case: case.name)
def test_logits_and_64_greedy_tokens_are_the_same(tmp_path: Path, case: ModelCase, shards: int) -> None:
    folder = write_mlx_checkpoint(tmp_path, case.shape, seed=case.seed, shards=shards)
    ours, theirs = load_model(folder, mx.float32), mlx_vlm.load_model(folder)
    processor = Processor.from_folder(folder)
    pages = [processor.prepare(page_image(*size), PROMPT) for size in IMAGE_SIZES]
    answers = greedy_tokens(ours, pages, GREEDY_STEPS)
    for size, page, logits, answer in zip(IMAGE_SIZES, pages, ours.logits(pages), answers, strict=True):
        expected = _their_logits(theirs, page)
        np.testing.assert_allclose(np.array(logits), expected, rtol=0, atol=TOLERANCE)
        assert answer == _their_greedy_tokens(theirs, page), image_name(size)


@pytest.mark.parametrize("packing", [Packing(32, 8), Packing(64, 4), Packing(128, 8), Packing(128, 4)])
def test_quantised_checkpoints_give_the_same_logits(tmp_path: Path, packing: Packing) -> None:
    overrides = {
        "language_model.model.layers.1.mlp.down_proj": Packing(32, 8),
        "language_model.model.layers.0.self_attn.o_proj": None,
        "vision_tower.blocks.0.attn.qkv": None,
        "language_model.lm_head": Packing(64, 8),
    }
    folder = write_mlx_checkpoint(tmp_path, QUANTIZABLE, packing=packing, overrides=overrides)
    ours, theirs = load_model(folder, mx.float32), mlx_vlm.load_model(folder)
    page = Processor.from_folder(folder).prepare(page_image(96, 160), PROMPT)
    np.testing.assert_allclose(
        np.array(ours.logits([page])[0]), _their_logits(theirs, page), rtol=0, atol=TOLERANCE
    )


def _their_logits(model: nn.Module, page: PageInputs) -> np.ndarray:
    """All logits of the prompt [T, vocab]."""
    output = model(mx.array(page.token_ids)[None], mx.array(page.image.patches), image_grid_thw=_grid(page))
    return np.array(output.logits[0])


def _their_greedy_tokens(model: nn.Module, page: PageInputs) -> list[int]:
    steps = mlx_vlm_generate.generate_step(
        mx.array(page.token_ids)[None],
        model,
        mx.array(page.image.patches),
        None,
        max_tokens=GREEDY_STEPS,
        temperature=0.0,
        image_grid_thw=_grid(page),
    )
    return [int(token) for token, _ in steps]


def _grid(page: PageInputs) -> mx.array:
    return mx.array([[page.image.grid.t, page.image.grid.h, page.image.grid.w]])
