"""What exists for CUDA alone: fused layers compiled once a shape of steps, attention at rounded lengths."""

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_chandra.models import load_model
from mlx_chandra.models.backend import BackendName, backend_of
from mlx_chandra.models.cuda import rounded_layout
from mlx_chandra.models.kv_cache import StepShape
from mlx_chandra.models.qwen3_vl import Qwen3VL
from mlx_chandra.models.slots import Slots
from tests.checkpoints import CheckpointShape, write_huggingface_checkpoint
from tests.models.parts import small_page

PAGES = [small_page(seed=1), small_page(before=5, seed=2)]
LENGTHS = [len(page.token_ids) for page in PAGES]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Qwen3VL:
    folder: Path = write_huggingface_checkpoint(tmp_path_factory.mktemp("fused"), CheckpointShape(), seed=3)
    return load_model(folder, mx.float32, replace(backend_of(BackendName.CUDA), name=BackendName.CPU))


class Rows:
    """The two pages, prefilled into so many slots that hold room for so many tokens."""

    def __init__(self, model: Qwen3VL, slots: int, capacity: int = 0) -> None:
        self._model = model
        self.slots: Slots[int] = Slots(model.new_cache([slots]), 600, shared_shapes=True)
        logits = model.prefill(PAGES, self.slots.insert([0, 1], LENGTHS))
        self._tokens = mx.argmax(logits, axis=-1).astype(mx.int32)
        (bucket,) = self.slots.cache.buckets
        bucket.reserve(capacity)

    def step(self) -> mx.array:
        """Logits [2, vocab] of one more step; positions count from each prompt's length, as good as any."""
        attention = self.slots.step()
        decoded = self._model.decode(self._tokens, attention.lengths, attention)
        mx.eval(decoded.logits, self.slots.cache.arrays(range(self._model.config.text.num_hidden_layers)))
        self._tokens = mx.argmax(decoded.logits, axis=-1).astype(mx.int32)
        return decoded.logits


def test_steps_of_one_shape_are_compiled_once_for_all_layers_and_again_when_they_read_further(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3VL
) -> None:
    traced: list[int] = []
    attend = StepShape.attend_joined

    def counted(self: StepShape, *arrays: list[mx.array]) -> tuple[mx.array, list[mx.array]]:
        traced.append(self.buckets[0].window)
        return attend(self, *arrays)  # type: ignore[arg-type]

    monkeypatch.setattr(StepShape, "attend_joined", counted)
    rows = Rows(model, 3)  # slots that no other test here has
    windows = []
    for _ in range(64):
        rows.step()
        windows.append(-(-max(rows.slots.lengths) // 64) * 64)
    assert set(windows) == {64, 128}
    assert traced == [64, 128]


def test_caches_of_one_model_whose_arrays_are_of_one_size_are_not_taken_for_each_other(
    model: Qwen3VL,
) -> None:
    expected = Rows(model, 8)
    few, many = Rows(model, 2, capacity=512), Rows(model, 4, capacity=256)
    (one,), (other,) = (rows.slots.cache.arrays([0]) for rows in (few, many))
    assert one.shape == other.shape
    for _ in range(3):
        logits = expected.step()
        assert mx.allclose(few.step(), logits, atol=1e-5)
        assert mx.allclose(many.step(), logits, atol=1e-5)


def test_every_token_comes_back_to_its_place() -> None:
    layout = rounded_layout([5, 17, 8], 40, 8, mx.float32)
    assert layout.sizes == (8, 24, 8)
    assert layout.tokens is not None
    assert layout.tokens[layout.places][:30].tolist() == list(range(30))


def test_nothing_is_spread_or_marked_where_lengths_are_round_already() -> None:
    layout = rounded_layout([8, 8, 16], 32, 8, mx.float32)
    assert (layout.tokens, layout.places, layout.marks) == (None, None, None)
