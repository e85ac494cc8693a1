"""One engine's run in a process of its own: `python -m benchmarks.worker ORDER.json ANSWER.json`.

A fresh process per run, so that no engine inherits another's memory, caches, threads or BLAS.
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
from benchmarks.made_model import CHANDRA_1, TOY, Dimensions, made_config
from benchmarks.phases import PhaseClock
from benchmarks.records import EngineRun, Order, order_from
from benchmarks.workloads import example_pages, make_pages, plan
from mlx_chandra.models.cpu import SWITCH, use_openblas

_WARM_UP_TOKENS = 8


def choose_blas(order: Order) -> str:
    """Settle which matrix product this process uses; returns its name."""
    if not order.engine.uses_mlx:
        return "torch's own"
    if order.stock_blas:
        os.environ[SWITCH] = "0"
    from mlx_chandra.models.backend import BackendName, current_backend

    backend = current_backend().name
    if backend is not BackendName.CPU:
        return f"none ({backend.value})"
    return "OpenBLAS" if use_openblas() else "the wheel's own"


def carry_out(order: Order) -> EngineRun:
    """Open the engine, warm it up, read the pages, and read them again with the phases timed."""
    before = os.getloadavg()[0]
    blas = choose_blas(order)
    source = Path(order.checkpoint) if order.checkpoint else _dimensions(order)
    engine = open_engine(order.engine, Setup(source, order.dtype, order.batch))
    read = _reader(engine, order)
    read(True)
    started, cpu_started = time.perf_counter(), time.process_time()
    outcome = read(False)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    run = EngineRun(
        order,
        blas,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        output_tokens=tuple(answer.tokens for answer in outcome.answers),
        texts=tuple(answer.text or "" for answer in outcome.answers),
        occupancy=outcome.occupancy,
        steps=outcome.steps,
        peak_device_bytes=engine.peak_device_bytes(),
        peak_rss_bytes=_peak_rss(),
    )
    if order.profile:
        clock = PhaseClock(engine.wait)
        with engine.phases(clock):
            started = time.perf_counter()
            read(False)
            run = replace(run, phases=clock.times(time.perf_counter() - started))
    return replace(run, load=(before, os.getloadavg()[0]))


def _dimensions(order: Order) -> Dimensions:
    return TOY if order.toy else CHANDRA_1


def _reader(engine: Engine, order: Order) -> Callable[[bool], Outcome]:
    """Reads the order's pages, or (given True) just enough to have everything loaded and compiled once: made
    pages as many as go through at once, for what is compiled for two of them isn't all that 64 need."""
    if order.checkpoint:
        paths = example_pages(order.pages, order.only)
        return lambda few: engine.read_files(
            paths[:1] if few else paths, _WARM_UP_TOKENS if few else order.max_tokens
        )
    plans = plan(order.workload, order.pages or 1, order.toy)
    pages = make_pages(plans, made_config(_dimensions(order)))
    few_pages = [replace(page, output_tokens=_WARM_UP_TOKENS) for page in pages[: order.batch]]
    return lambda few: engine.read_made(few_pages if few else pages)


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
