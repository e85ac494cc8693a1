"""What fits into which machine, from numbers alone."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_chandra.engine import memory
from mlx_chandra.engine.generator import BatchGenerator
from mlx_chandra.engine.memory import (
    WIRED_SWITCH,
    Demand,
    device_memory,
    limit_kept_buffers,
    plan,
    require_room,
    require_room_here,
    wired_working_set,
)
from mlx_chandra.errors import CheckpointError, ModelTooLargeError
from mlx_chandra.models import load_model
from mlx_chandra.models.backend import BackendName, backend_of, current_backend
from mlx_chandra.models.qwen3_vl import Qwen3VL
from mlx_chandra.processing.processor import Processor
from mlx_chandra.reading.batch import load
from tests.checkpoints import CheckpointShape, write_huggingface_checkpoint

GB = 1 << 30
# Chandra 1: 8.77 billion parameters; quantised in groups of 64, half a bit more for each
BITS_16, BITS_8, BITS_4 = (
    Demand(weights=int(8.77e9 * bits / 8), cache_per_token=147_456) for bits in (16, 8.5, 4.5)
)
# what Metal recommends as a working set: two thirds of the memory, three quarters above 36 GB
MACS = {
    "M1, 8 GB": 5.3,
    "M1, 16 GB": 10.7,
    "M2, 24 GB": 16.0,
    "M1 Max, 32 GB": 21.3,
    "M4 Pro, 48 GB": 36.0,
    "M1 Max, 64 GB": 48.0,
    "M3 Max, 128 GB": 96.0,
    "M2 Ultra, 192 GB": 144.0,
    "M3 Ultra, 512 GB": 384.0,
}


@pytest.mark.parametrize(
    ("mac", "slots"),
    [
        ("M1, 8 GB", (None, None, None)),
        ("M1, 16 GB", (None, None, 8)),
        ("M2, 24 GB", (None, 8, 19)),
        ("M1 Max, 32 GB", (None, 21, 32)),
        ("M4 Pro, 48 GB", (34, 56, 64)),
        ("M1 Max, 64 GB", (63, 64, 64)),
        ("M3 Max, 128 GB", (64, 64, 64)),
        ("M2 Ultra, 192 GB", (64, 64, 64)),
        ("M3 Ultra, 512 GB", (64, 64, 64)),
    ],
)
def test_chandra_1_in_16_8_and_4_bits_on_macs(mac: str, slots: tuple[int | None, ...]) -> None:
    working_set = int(MACS[mac] * GB)
    for demand, bits, expected in zip((BITS_16, BITS_8, BITS_4), (16, 8, 4), slots, strict=True):
        if expected is None:
            with pytest.raises(ModelTooLargeError):
                require_room(working_set, demand, bits, "chandra")
            continue
        require_room(working_set, demand, bits, "chandra")
        planned = plan(working_set, demand, most=64)
        assert planned.slots == expected
        taken = demand.weights + planned.cache_tokens * demand.cache_per_token
        assert taken < 0.85 * working_set  # the system and what is computed on the way have the rest


def test_a_model_that_does_not_fit_is_refused_with_what_would() -> None:
    with pytest.raises(ModelTooLargeError) as caught:
        require_room(int(MACS["M2, 24 GB"] * GB), BITS_16, 16, "mlx-community/chandra-bf16")
    assert caught.value.message == (
        "mlx-community/chandra-bf16 has 17.5 GB of weights, and this machine has 17.2 GB to compute in."
    )
    assert caught.value.remedy == (
        "Of its quantised checkpoints, one with 8 bits (about 9.3 GB) or one with 4 bits (about 4.9 GB) "
        "would fit."
    )


def test_where_no_quantisation_helps_the_memory_needed_is_said() -> None:
    with pytest.raises(ModelTooLargeError) as caught:
        require_room(int(MACS["M1, 8 GB"] * GB), BITS_4, 4, "chandra-4bit")
    assert caught.value.remedy == "It needs about 7 GB to compute in."


@pytest.mark.parametrize(("gigabytes", "fits"), [(1, True), (0.00001, False)])
def test_a_checkpoint_is_measured_before_it_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gigabytes: float, fits: bool
) -> None:
    folder = write_huggingface_checkpoint(tmp_path / "small", CheckpointShape(), seed=3)
    on_a_gpu = replace(current_backend(), name=BackendName.METAL)
    monkeypatch.setattr(memory, "current_backend", lambda: on_a_gpu)
    monkeypatch.setattr(memory, "device_memory", lambda name: int(gigabytes * GB))
    if fits:
        require_room_here(folder)
        return
    with pytest.raises(ModelTooLargeError, match="small has"):
        require_room_here(folder)


def test_the_dtype_that_a_model_is_loaded_with_decides_whether_it_fits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = write_huggingface_checkpoint(tmp_path / "small", CheckpointShape(), seed=3)  # in float32
    on_a_gpu = replace(current_backend(), name=BackendName.METAL, float32_only=False)
    monkeypatch.setattr(memory, "current_backend", lambda: on_a_gpu)

    def room(needed_for: str) -> None:
        """As much memory as that dtype needs at least."""
        half = 2 if needed_for == "float16" else 1
        tokens = 4096 * 4 * 2 * 3 * 2 * 16 // half  # keys and values of 3 layers, 2 heads, 16 numbers each
        weights = load_model(folder, needed_for).nbytes
        monkeypatch.setattr(memory, "device_memory", lambda name: int(1.01 * (weights + tokens) / 0.725))

    room("float32")
    for dtype in (None, "float32", "float16"):
        require_room_here(folder, dtype)
    room("float16")
    require_room_here(folder, mx.float16)
    for same in (None, "float32"):
        with pytest.raises(ModelTooLargeError, match="small has"):
            load(folder, same)


def test_a_dtype_that_makes_a_model_too_large_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = write_huggingface_checkpoint(tmp_path / "small", CheckpointShape(), seed=3)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    on_a_gpu = replace(current_backend(), name=BackendName.METAL, float32_only=False)
    monkeypatch.setattr(memory, "current_backend", lambda: on_a_gpu)
    half = load_model(folder, "bfloat16").nbytes + 4096 * 2 * 2 * 3 * 2 * 16
    monkeypatch.setattr(memory, "device_memory", lambda name: int(1.01 * half / 0.725))
    require_room_here(folder)
    with pytest.raises(ModelTooLargeError) as caught:
        load(folder, "float32")
    assert caught.value.message.startswith("small in float32 has 0.0 GB of weights")
    assert caught.value.remedy == "In bfloat16, its own, it would fit."
    monkeypatch.setattr(memory, "device_memory", lambda name: half // 2)
    with pytest.raises(ModelTooLargeError, match=r"small in float32 .* It needs about"):
        load(folder, "float32")
    with pytest.raises(CheckpointError, match="'float8' is not supported"):
        load(folder, "float8")


def test_one_page_is_tried_where_memory_is_short_and_may_have_a_long_answer() -> None:
    planned = plan(16 * GB, BITS_16, most=64)
    assert planned.slots == 1
    assert planned.cache_tokens == 4096


def test_no_more_slots_are_planned_than_make_the_backend_quicker() -> None:
    assert plan(400 * GB, BITS_16, most=32).slots == 32


def test_cards_get_as_many_slots_as_their_memory_holds_and_make_them_quicker() -> None:
    slots = [
        plan(card, BITS_16, backend_of(BackendName.CUDA).most_slots).slots
        for card in (24 * GB, 80 * GB, 150_754_820_096)
    ]
    assert slots == [5, 141, 256]


def test_this_machine_has_memory_to_compute_in() -> None:
    assert device_memory(BackendName.CPU) > 256 << 20


@pytest.fixture
def kept_limit() -> Iterator[Callable[[], int]]:
    """Says how many bytes MLX may keep; afterwards it is as many as before."""
    before = mx.set_cache_limit(1000 * GB)

    def now() -> int:
        limit = mx.set_cache_limit(0)
        mx.set_cache_limit(limit)
        return limit

    yield now
    mx.set_cache_limit(before)


def test_mlx_keeps_the_backends_share_of_the_memory_at_most_and_less_where_that_was_set(
    kept_limit: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "device_memory", lambda name: 80 * GB)
    limit_kept_buffers(backend_of(BackendName.CPU))
    assert kept_limit() == 1000 * GB
    limit_kept_buffers(backend_of(BackendName.METAL))
    assert kept_limit() == 10 * GB
    limit_kept_buffers(backend_of(BackendName.CUDA))
    assert kept_limit() == 5 * GB
    mx.set_cache_limit(1 * GB)
    limit_kept_buffers(backend_of(BackendName.CUDA))
    assert kept_limit() == 1 * GB


def test_a_generator_sets_the_limit_of_its_models_backend(
    kept_limit: Callable[[], int], model_as_on_cuda: Qwen3VL, processor: Processor
) -> None:
    share = model_as_on_cuda.backend.kept_share
    assert share
    BatchGenerator(model_as_on_cuda, processor).close()
    assert kept_limit() == int(share * device_memory(BackendName.CPU))


@pytest.fixture
def wired(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pretends to be MLX on a Mac: the wired limits that were set, the first one before all."""
    limits = [7]

    def set_wired_limit(limit: int) -> int:
        limits.append(limit)
        return limits[-2]

    monkeypatch.delenv(WIRED_SWITCH, raising=False)
    monkeypatch.setattr(mx, "set_wired_limit", set_wired_limit)
    monkeypatch.setattr(memory, "device_memory", lambda name: 11 * GB)
    return limits


def test_memory_is_wired_up_to_the_working_set_and_given_back_when_the_last_one_closes(
    wired: list[int],
) -> None:
    metal = backend_of(BackendName.METAL)
    first, second = wired_working_set(metal), wired_working_set(metal)
    first.__enter__()
    second.__enter__()
    assert wired[-1] == 11 * GB
    first.__exit__(None, None, None)
    assert wired[-1] == 11 * GB
    second.__exit__(None, None, None)
    assert wired[-1] == 7


@pytest.mark.parametrize(("name", "switch"), [("cpu", "1"), ("cuda", "1"), ("metal", "0")])
def test_nothing_is_wired_off_a_mac_or_where_the_user_has_said_so(
    monkeypatch: pytest.MonkeyPatch, wired: list[int], name: str, switch: str
) -> None:
    monkeypatch.setenv(WIRED_SWITCH, switch)
    with wired_working_set(backend_of(BackendName(name))):
        assert wired == [7]


def test_a_generator_on_a_mac_wires_memory_until_it_is_closed(
    wired: list[int], checkpoint: Path, processor: Processor
) -> None:
    crowd = BatchGenerator(load_model(checkpoint, backend=backend_of(BackendName.METAL)), processor)
    assert wired[-1] == 11 * GB
    crowd.close()
    crowd.close()
    assert wired[-1] == 7
