"""Describes this machine, in one form for every backend."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx

from mlx_chandra.models.backend import BackendName

_DEFAULT_SHARE = 2 / 3  # of a Mac's memory: what Metal recommends on the small ones


@dataclass(frozen=True)
class Host:
    """What the system says. `memory` in bytes, 0 where it doesn't say."""

    system: str
    cores: int
    memory: int


@dataclass(frozen=True)
class Device:
    """The machine as MLX sees it; sizes in bytes.

    `working_set` is what computing may take: Metal's recommendation (which `iogpu.wired_limit_mb` changes),
    what is free of the card or in MLX's hands already, or half the RAM.
    """

    backend: BackendName
    name: str  # as its maker calls it: "Apple M1 Max", "NVIDIA H200"
    architecture: str  # as MLX names it: "applegpu_g13s", "sm_90", "x86_64"
    memory: int  # a Mac's unified memory, the card's own, or the RAM
    working_set: int
    largest_buffer: int | None  # the largest single array, where the backend has such a limit
    host: Host


def device_facts(backend: BackendName, info: Mapping[str, str | int], host: Host, held: int = 0) -> Device:
    """Return one machine's facts.

    Args:
        backend: Which of MLX's backends computes.
        info: From `mx.device_info()`. Its keys differ: Metal has memory_size,
            max_recommended_working_set_size and max_buffer_length, CUDA total_memory and free_memory, the CPU
            only names.
        host: From the system.
        held: Bytes that MLX holds.
    """
    memory, working_set = host.memory, host.memory // 2
    if backend is BackendName.METAL:
        memory = _size(info, "memory_size") or host.memory
        working_set = _size(info, "max_recommended_working_set_size") or int(memory * _DEFAULT_SHARE)
    elif backend is BackendName.CUDA:
        memory = _size(info, "total_memory") or host.memory // 2
        working_set = min(memory, (_size(info, "free_memory") or memory) + held)
    architecture = str(info.get("architecture") or "unknown")
    name, largest = str(info.get("device_name") or architecture), _size(info, "max_buffer_length") or None
    return Device(backend, name, architecture, memory, working_set, largest, host)


def this_device(backend: BackendName) -> Device:
    """Return the facts of the machine that this runs on."""
    version = platform.mac_ver()[0]
    system = f"macOS {version}" if version else platform.system()
    host = Host(f"{system} {platform.machine()}", os.cpu_count() or 1, _ram())
    held = mx.get_active_memory() + mx.get_cache_memory()
    return device_facts(backend, mx.device_info(), host, held)


def _size(info: Mapping[str, str | int], key: str) -> int:
    value = info.get(key)
    return value if isinstance(value, int) else 0


def _ram() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 0
