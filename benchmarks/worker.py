"""Runs one engine in a process of its own: `python -m benchmarks.worker ORDER.json ANSWER.json`.

Each run has a fresh process, so that no engine inherits another's memory, caches, threads or matrix product.
"""

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.engines.base import Engine, Outcome, Setup, open_engine
from benchmarks.made_model import CHANDRA_1, TOY, made_config
from benchmarks.records import EngineRun, Order, order_from
from benchmarks.workloads import example_pages, make_pages, plan
from mlx_chandra.models.cpu import use_openblas

_WARM_UP_TOKENS = 8


def choose_blas(order: Order) -> str:
    """Load OpenBLAS for MLX on a Linux CPU; return the name of this process's matrix product."""
    if not order.engine.uses_mlx:
        return "torch's own"
    from mlx_chandra.models.backend import BackendName, current_backend

    backend = current_backend().name
    if backend is not BackendName.CPU:
        return f"none ({backend.value})"
    return "OpenBLAS" if use_openblas() else "the wheel's own"


def carry_out(order: Order) -> EngineRun:
    """Open the engine, warm it up, and read the pages."""
    before = os.getloadavg()[0]
    blas = choose_blas(order)
    source = Path(order.checkpoint) if order.checkpoint else (TOY if order.toy else CHANDRA_1)
    engine = open_engine(order.engine, Setup(source, order.dtype, order.batch))
    read = _reader(engine, order)
    read(True)
    started, cpu_started = time.perf_counter(), time.process_time()
    outcome = read(False)
    return EngineRun(
        order,
        blas,
        seconds=time.perf_counter() - started,
        cpu_seconds=time.process_time() - cpu_started,
        output_tokens=tuple(answer.tokens for answer in outcome.answers),
        texts=tuple(answer.text or "" for answer in outcome.answers),
        occupancy=outcome.occupancy,
        steps=outcome.steps,
        peak_device_bytes=engine.peak_device_bytes(),
        peak_rss_bytes=_peak_rss(),
        load=(before, os.getloadavg()[0]),
    )


def _reader(engine: Engine, order: Order) -> Callable[[bool], Outcome]:
    """Return a function that reads the order's pages, or a few tokens of some of them to warm up (True).

    Made pages are warmed up as many as are decoded at once: kernels compiled for two rows don't serve 64.
    """
    if order.checkpoint:
        paths = example_pages(order.pages)
        return lambda warm_up: engine.read_files(
            paths[:1] if warm_up else paths, _WARM_UP_TOKENS if warm_up else order.max_tokens
        )
    plans = plan(order.workload, order.pages or 1, order.toy)
    pages = make_pages(plans, made_config(TOY if order.toy else CHANDRA_1))
    few = [replace(page, output_tokens=_WARM_UP_TOKENS) for page in pages[: order.batch]]
    return lambda warm_up: engine.read_made(few if warm_up else pages)


def _peak_rss() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(order_path: str, answer_path: str) -> None:
    order = order_from(json.loads(Path(order_path).read_text(encoding="utf-8")))
    try:
        run = carry_out(order)
    except Exception as error:  # one engine that fails must not end the others' runs
        traceback.print_exc()
        run = EngineRun(order, "", error=f"{type(error).__name__}: {error}"[:500])
    Path(answer_path).write_text(json.dumps(asdict(run)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
