"""How many pages fit into this machine at once.

`plan_slots` is a pure function over numbers; `device_memory` is the one place that asks the machine for them.
"""

import os
from dataclasses import dataclass

import mlx.core as mx

from mlx_chandra.models.backend import BackendName, current_backend

MOST_SLOTS = {BackendName.METAL: 64, BackendName.CUDA: 128, BackendName.CPU: 32}
FEWEST_SLOTS = 8
_USABLE = 0.85  # of the working set: the rest is for the system and what is computed on the way
_WORKSPACE = 2 << 30  # bytes a prefill pass of a large model needs beside weights and cache


@dataclass(frozen=True)
class Demand:
    """What a run asks of the memory, in bytes and tokens."""

    weights: int
    cache_per_token: int
    tokens_per_page: int


def device_memory(backend: BackendName) -> int:
    """Bytes that computing may take here: Metal's recommended working set, the GPU's memory, or half the
    RAM."""
    info = mx.device_info()
    for key in ("max_recommended_working_set_size", "memory_size", "total_memory"):
        size = info.get(key)
        if isinstance(size, int) and size > 0 and backend is not BackendName.CPU:
            return size
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def plan_slots(memory: int, demand: Demand, most: int) -> int:
    """Pages to decode at once so that each may use its full length; at least 1, even where memory is
    short."""
    workspace = min(_WORKSPACE, memory // 8)
    room = int(memory * _USABLE) - demand.weights - workspace
    per_page = demand.cache_per_token * demand.tokens_per_page
    return max(1, min(most, room // per_page))


def automatic_slots(demand: Demand) -> int:
    """`plan_slots` for the machine that this runs on."""
    name = current_backend().name
    return plan_slots(device_memory(name), demand, MOST_SLOTS[name])
