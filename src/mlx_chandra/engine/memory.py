"""Plans what fits into this machine's memory, and sets MLX's limits.

`plan` is a pure function of numbers; those of the machine come from `engine/device.py`. Pages are admitted by
what they need, and preempted when they grow beyond it (engine/generator.py), so the plan is a bound and need
not foresee how long pages are.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import mlx.core as mx

from mlx_chandra.engine.device import this_device
from mlx_chandra.errors import ModelTooLargeError
from mlx_chandra.models.backend import Backend, BackendName, current_backend
from mlx_chandra.models.config import read_config
from mlx_chandra.models.kv_cache import bytes_per_token
from mlx_chandra.models.load import chosen_dtype, loaded_bytes

WIRED_SWITCH = "MLX_CHANDRA_WIRED"  # set to 0: wire no memory
_USABLE = 0.85  # of the working set: the rest is for the system and what is computed on the way
_WORKSPACE = 2 << 30  # bytes a prefill pass of a large model needs beside weights and cache
_TYPICAL_PAGE = 2560  # tokens: a page of about 1 megapixel with its prompt and answer
_SMALLEST_CACHE = 4096  # tokens: one page with a long answer


@dataclass(frozen=True)
class Demand:
    """What a model needs of the memory, in bytes."""

    weights: int
    cache_per_token: int


@dataclass(frozen=True)
class Plan:
    """Pages to decode at once, at most, and the tokens that their cache may hold room for."""

    slots: int
    cache_tokens: int


@cache
def device_memory(backend: BackendName) -> int:
    """Return the bytes that computing may take here.

    Asked once a process: on CUDA, memory that MLX has freed stays with the driver and would count as in use.
    """
    return this_device(backend).working_set


def plan(memory: int, demand: Demand, most: int) -> Plan:
    """Plan as many typical pages as fit, at most `most`; one page even where memory is short.

    Args:
        memory: Bytes that computing may take, from `device_memory`.
        most: Slots above which the backend gets no faster.
    """
    tokens = _room(memory, demand.weights) // demand.cache_per_token
    return Plan(max(1, min(most, tokens // _TYPICAL_PAGE)), max(tokens, _SMALLEST_CACHE))


def _room(memory: int, weights: int) -> int:
    return int(memory * _USABLE) - weights - min(_WORKSPACE, memory // 8)


def limit_kept_buffers(backend: Backend) -> None:
    """Have MLX keep no more freed memory than `Backend.kept_share`, in all of the process.

    A lower limit stays.
    """
    if backend.kept_share is None:
        return
    limit = int(backend.kept_share * device_memory(backend.name))
    mx.set_cache_limit(min(limit, mx.set_cache_limit(limit)))


_limits_before: list[int] = []  # the wired limits to put back, one for each that is open


@contextmanager
def wired_working_set(backend: Backend) -> Iterator[None]:
    """Keep weights and caches resident on a Mac, up to the recommended working set.

    As mlx-lm does while it generates; without, macOS may page out a model that is a large part of the memory.
    It has an effect from macOS 15 on. The last one of several to close puts the limit back. *Unmeasured.*
    """
    if backend.name is not BackendName.METAL or os.environ.get(WIRED_SWITCH) == "0":
        yield
        return
    _limits_before.append(mx.set_wired_limit(device_memory(backend.name)))
    try:
        yield
    finally:
        limit = _limits_before.pop()
        if not _limits_before:
            mx.synchronize()  # it must not change while something is computed
            mx.set_wired_limit(limit)


def require_room_here(folder: Path, dtype: mx.Dtype | str | None = None) -> None:
    """Refuse a checkpoint that can't run on this machine; a CPU has swap, and there nothing is refused.

    Args:
        dtype: As `load_model` takes it.

    Raises:
        CheckpointError: The folder holds no checkpoint, or it can't be loaded with this dtype.
        ModelTooLargeError: It can't run here.
    """
    backend = current_backend()
    if backend.name is BackendName.CPU:
        return
    config, memory, name = read_config(folder), device_memory(backend.name), folder.name
    chosen, own = (chosen_dtype(asked, config, backend, folder) for asked in (dtype, None))
    demand, in_own = (
        Demand(loaded_bytes(folder, config, kind), bytes_per_token(config.text, kind))
        for kind in (chosen, own)
    )
    if chosen != own:
        name = f"{name} in {_name(chosen)}"
        if not _fits(memory, demand) and _fits(memory, in_own):
            raise _too_large(memory, demand, name, f"In {_name(own)}, its own, it would fit.")
    bits = config.quantization.bits if config.quantization else 8 * chosen.size
    require_room(memory, demand, bits, name)


def require_room(memory: int, demand: Demand, bits: int, name: str) -> None:
    """Refuse a model that can't run in so much memory, before it is loaded.

    Args:
        bits: Per weight, as they are loaded.
        name: Of the checkpoint, for the message.

    Raises:
        ModelTooLargeError: It says what would fit.
    """
    if _fits(memory, demand):
        return
    # a quantised group of 64 weights has a scale and a bias of 16 bits: half a bit a weight
    smaller = {fewer: demand.weights * (fewer + 0.5) / (bits + 0.5 * (bits < 16)) for fewer in (8, 4)}
    fitting = [
        f"one with {fewer} bits (about {size / 1e9:.1f} GB)"
        for fewer, size in smaller.items()
        if fewer < bits and _fits(memory, replace(demand, weights=int(size)))
    ]
    whole = (demand.weights + _SMALLEST_CACHE * demand.cache_per_token) / _USABLE / (1 - 1 / 8)
    remedy = f"It needs about {whole / 1e9:.0f} GB to compute in."
    if fitting:
        remedy = f"Of its quantised checkpoints, {' or '.join(fitting)} would fit."
    raise _too_large(memory, demand, name, remedy)


def _fits(memory: int, demand: Demand) -> bool:
    return _room(memory, demand.weights) >= _SMALLEST_CACHE * demand.cache_per_token


def _name(dtype: mx.Dtype) -> str:
    return str(dtype).rpartition(".")[2]


def _too_large(memory: int, demand: Demand, name: str, remedy: str) -> ModelTooLargeError:
    weights, here = f"{demand.weights / 1e9:.1f} GB of weights", f"{memory / 1e9:.1f} GB to compute in"
    return ModelTooLargeError(f"{name} has {weights}, and this machine has {here}.", remedy)
