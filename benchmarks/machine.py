"""Finds what a run was measured on: hardware, library versions, commit."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.records import Machine

PACKAGES = ("mlx-chandra", "mlx", "mlx-vlm", "transformers", "torch", "numpy", "scipy-openblas32")
_ROOT = Path(__file__).parent.parent


def this_machine() -> Machine:
    import mlx.core as mx

    from mlx_chandra.models.backend import BackendName, current_backend

    backend = current_backend().name
    device = mx.device_info() if backend is not BackendName.CPU else {}
    name = device.get("device_name") or device.get("architecture")
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        accelerator=str(name) if name else None,
        backend=backend.value,
    )


def _processor() -> str:
    """Return the CPU's name as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return _output_of("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Return the commit measured, with a + where src differs from it; empty outside git."""
    name = _output_of("git", "-C", str(_ROOT), "rev-parse", "--short", "HEAD")
    changed = _output_of("git", "-C", str(_ROOT), "status", "--porcelain", "--", "src")
    return name + "+" if changed else name


def write_figures(path: Path, figures: Mapping[str, object]) -> None:
    """Write figures, and what they were measured on, to a JSON file."""
    measured_on = {"commit": commit(), "machine": asdict(this_machine()), "versions": versions()}
    path.write_text(json.dumps({**measured_on, **figures}, indent=1) + "\n", encoding="utf-8")


def _output_of(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
