"""Pages of hundreds of shapes: what backends keep a plan for must stay few."""

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_chandra.engine.generator import BatchGenerator
from mlx_chandra.models import load_model
from mlx_chandra.models.backend import BackendName, backend_of
from mlx_chandra.models.cuda import rounded_form
from mlx_chandra.processing.processor import PageInputs, Processor
from tests.engine.conftest import alone, run
from tests.fakes import StopsAt

MOST_PLANS = 256  # that CUDA's attention keeps; it raises after twice as many different ones


def pages_of_600_shapes(processor: Processor) -> list[PageInputs]:
    """Every page with another number of patches or of prompt tokens."""
    random = np.random.default_rng(2)
    pages = []
    for number in range(600):
        rows, columns, words = 1 + number % 5, 1 + number // 5 % 8, number // 40
        pixels = random.integers(0, 256, (32 * rows, 32 * columns, 3), dtype=np.uint8)
        pages.append(processor.prepare(Image.fromarray(pixels), "on " * words))
    shapes = {(page.image.grid.h, page.image.grid.w, len(page.token_ids)) for page in pages}
    assert len(shapes) == 600
    return pages


def test_600_shapes_of_pages_need_few_shapes_of_attention_and_change_no_text(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, processor: Processor
) -> None:
    cuda = backend_of(BackendName.CUDA)
    assert cuda.attention.multiple
    backend = replace(cuda, name=BackendName.CPU, attention=rounded_form(64))  # these pages are small
    model = load_model(checkpoint, mx.float32, backend)
    pages = pages_of_600_shapes(processor)
    some = [alone(model, page, 3) for page in pages[::120]]
    plans = set()
    attention = mx.fast.scaled_dot_product_attention

    def counted(q: mx.array, k: mx.array, v: mx.array, **settings: object) -> mx.array:
        plans.add((tuple(q.shape), tuple(k.shape), tuple(v.shape), str(settings.get("mask"))[:6]))
        return attention(q, k, v, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", counted)
    crowd = BatchGenerator(model, StopsAt(), completion_batch_size=64, stop_on_repetition=False)
    uids = crowd.insert(pages, [1 + number % 3 for number in range(600)])
    tokens = run(crowd)
    assert len(plans) <= MOST_PLANS / 4
    for number, text in zip(range(0, 600, 120), some, strict=True):
        given = tokens[uids[number]]
        assert given[:3] == text[: len(given)]
