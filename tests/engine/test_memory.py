"""How many pages fit, from numbers alone."""

import pytest

from mlx_chandra.engine.memory import Demand, device_memory, plan_slots
from mlx_chandra.models.backend import BackendName

GB = 1 << 30
# Chandra 1 in bf16 with answers of up to 8,192 tokens
CHANDRA = Demand(weights=17_500_000_000, cache_per_token=147_456, tokens_per_page=12_288)


def test_a_large_machine_is_used_up_to_the_most_that_helps() -> None:
    assert plan_slots(400 * GB, CHANDRA, most=64) == 64


def test_every_page_may_use_its_full_length_within_the_memory() -> None:
    for memory in (48 * GB, 64 * GB, 96 * GB, 128 * GB):
        slots = plan_slots(memory, CHANDRA, most=64)
        assert slots >= 8
        assert CHANDRA.weights + slots * CHANDRA.cache_per_token * CHANDRA.tokens_per_page < memory


@pytest.mark.parametrize("memory", [GB, 16 * GB, 20 * GB])
def test_one_page_is_tried_even_where_memory_is_short(memory: int) -> None:
    assert plan_slots(memory, CHANDRA, most=64) == 1


def test_this_machine_has_memory_to_compute_in() -> None:
    assert device_memory(BackendName.CPU) > 256 << 20
