"""Measures engines side by side on this machine: `python -m benchmarks.run --help`.

Every engine and batch size runs in a fresh process (`worker.py`), one after another. The results go into one
JSON file and a table on the terminal.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import mlx.core as mx

from benchmarks.engines.base import EngineName
from benchmarks.machine import commit, this_machine, versions
from benchmarks.made_model import CHANDRA_1, TOY, made_config
from benchmarks.records import EngineRun, Figures, Order, Result, ResultFile, run_from
from benchmarks.report import table
from benchmarks.roofline import LARGE, SMALL, Ceilings, Costs, PageWork, ideal_run, measure_ceilings
from benchmarks.workloads import ROOT, Workload, example_pages, plan
from mlx_chandra.documents.image_files import open_page
from mlx_chandra.models import resolve_checkpoint
from mlx_chandra.models.backend import BackendName, current_backend
from mlx_chandra.models.config import ModelConfig, read_config
from mlx_chandra.models.cpu import use_openblas
from mlx_chandra.processing.image import ImageSettings, target_size
from mlx_chandra.processing.processor import Processor
from mlx_chandra.processing.prompt import PromptType

RESULTS = Path(__file__).parent / "results"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
NAMES = {
    "ours": EngineName.OURS,
    "mlx-vlm": EngineName.MLX_VLM,
    "ungrouped": EngineName.MLX_VLM_UNGROUPED,
    "continuous": EngineName.MLX_VLM_CONTINUOUS,
    "transformers": EngineName.TRANSFORMERS,
}


@dataclass(frozen=True)
class Page:
    """A page's size before it is answered."""

    name: str
    patches: int
    prompt_tokens: int


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Engines side by side.")
    add = parser.add_argument
    add("--workload", type=Workload, choices=list(Workload), default=Workload.WD)
    add("--pages", type=int, help="how many pages (WD: all by default; W1, W2: 64)")
    add("--engines", default=",".join(NAMES), help=f"of {', '.join(NAMES)}; all by default")
    add("--batch", type=int, help="pages decoded at once: 32 on a CPU, 64 on a GPU by default")
    add("--sweep", default="", help="further batch sizes for our own engine, such as 1,2,4,8")
    add("--threads", type=int, help="of the matrix product on a CPU; 1 where others are at work too")
    add("--checkpoint", default="demo", help="for WD: demo or a folder")
    add("--toy", action="store_true", help="W1 and W2 at toy size, to try the harness")
    add("--dtype", choices=("float32", "bfloat16"), help="float32 on a CPU, bfloat16 on a GPU by default")
    add("--max-tokens", type=int, default=2048, help="WD: a page's limit")
    add("--output", type=Path, help="the JSON file; a new one in benchmarks/results by default")
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.engines.split(",")) - set(NAMES)
    if unknown:
        parser.error(f"unknown engines: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return chosen


def orders(chosen: argparse.Namespace, on_cpu: bool) -> list[Order]:
    """List all runs that were asked for, in order."""
    batch = chosen.batch or (32 if on_cpu else 64)
    made = chosen.workload.made
    base = Order(
        engine=EngineName.OURS,
        workload=chosen.workload,
        pages=chosen.pages or (64 if made else None),
        toy=chosen.toy and made,
        checkpoint=None if made else str(resolve_checkpoint(chosen.checkpoint)),
        dtype=chosen.dtype or ("float32" if on_cpu else "bfloat16"),
        batch=batch,
        max_tokens=chosen.max_tokens,
        threads=chosen.threads,
    )
    named = [replace(base, engine=NAMES[name]) for name in chosen.engines.split(",")]
    sizes = [int(size) for size in chosen.sweep.split(",") if size]
    return named + [replace(base, batch=size) for size in sizes if size != batch]


def in_own_process(order: Order) -> EngineRun:
    """Carry out one order in a fresh Python."""
    with TemporaryDirectory() as folder:
        asked, answered = Path(folder, "order.json"), Path(folder, "answer.json")
        asked.write_text(json.dumps(asdict(order)), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.worker", str(asked), str(answered)]
        ended = subprocess.run(command, cwd=ROOT, env=os.environ | threads_of(order), check=False)
        if not answered.exists():  # killed, by a lack of memory perhaps
            return EngineRun(order, "", error=f"the process ended with status {ended.returncode}")
        return run_from(json.loads(answered.read_text(encoding="utf-8")))


def threads_of(order: Order) -> dict[str, str]:
    """Return the environment's variables for the order's number of threads."""
    return {} if order.threads is None else dict.fromkeys(THREADS, str(order.threads))


def pages_of(order: Order) -> list[Page]:
    """Return the order's pages as our own processor prepares them."""
    if order.checkpoint:
        processor = Processor.from_folder(Path(order.checkpoint))
        paths = example_pages(order.pages)
        inputs = [processor.prepare(open_page(path), PromptType.OCR_LAYOUT) for path in paths]
        return [
            Page(path.name, page.image.grid.patches, len(page.token_ids))
            for path, page in zip(paths, inputs, strict=True)
        ]
    settings = ImageSettings(min_pixels=1024, max_pixels=16_777_216)
    pages = []
    for number, page in enumerate(plan(order.workload, order.pages or 1, order.toy)):
        height, width = target_size(page.height, page.width, settings)
        patches = height * width // settings.patch_size**2
        tokens = 1 + patches // settings.merge_size**2 + page.after_image
        pages.append(Page(f"page {number}", patches, tokens))
    return pages


def figures(
    run: EngineRun, pages: Sequence[Page], costs: Costs, ceilings: Ceilings, reference: EngineRun | None
) -> Figures:
    """Work out a run's figures; texts are compared with those of `reference`, page by page."""
    work = [
        PageWork(page.patches, page.prompt_tokens, tokens)
        for page, tokens in zip(pages, run.output_tokens, strict=True)
    ]
    ideal = ideal_run(work, run.order.batch, costs, ceilings)
    differing = None
    if reference is not None and run.order.checkpoint:
        differing = sum(own != other for own, other in zip(run.texts, reference.texts, strict=True))
    return Figures(
        pages_per_second=len(pages) / run.seconds,
        output_tokens_per_second=sum(run.output_tokens) / run.seconds,
        prompt_tokens_per_second=sum(page.prompt_tokens for page in pages) / run.seconds,
        roofline=ideal.seconds / run.seconds,
        ideal=ideal,
        differing=differing,
    )


def collect(runs: Sequence[EngineRun], ceilings: Ceilings) -> ResultFile:
    """Join all runs of one workload with their figures; texts are compared with our engine's first run."""
    order = runs[0].order
    pages = pages_of(order)
    costs = Costs(_config(order), 4 if order.dtype == "float32" else 2)
    ours = [run for run in runs if run.order.engine is EngineName.OURS and not run.error]
    reference = ours[0] if ours else None
    results = [
        Result(run, None if run.error else figures(run, pages, costs, ceilings, reference)) for run in runs
    ]
    shown = [replace(item, run=_without_machine_paths(item.run)) for item in results]
    return ResultFile(
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit(),
        machine=this_machine(),
        versions=versions(),
        ceilings=ceilings,
        prompt_tokens=tuple(page.prompt_tokens for page in pages),
        page_names=tuple(page.name for page in pages),
        results=tuple(shown),
    )


def _config(order: Order) -> ModelConfig:
    if order.checkpoint:
        return read_config(Path(order.checkpoint))
    return made_config(TOY if order.toy else CHANDRA_1)


def _without_machine_paths(run: EngineRun) -> EngineRun:
    """Return the run as the file keeps it: the checkpoint's name without its folder, and no texts."""
    name = Path(run.order.checkpoint).name if run.order.checkpoint else None
    return replace(run, order=replace(run.order, checkpoint=name), texts=())


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = parse(arguments)
    on_cpu = current_backend().name is BackendName.CPU
    todo = orders(chosen, on_cpu)
    os.environ.update(threads_of(todo[0]))  # read when the library is loaded, which use_openblas does
    if on_cpu:
        use_openblas()
    ceilings = measure_ceilings(todo[0].dtype, SMALL if on_cpu else LARGE)
    mx.clear_cache()  # the engines' processes need the memory
    name = f"{chosen.workload.value}-{current_backend().name.value}-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    output = chosen.output or RESULTS / name
    runs: list[EngineRun] = []
    for number, order in enumerate(todo, 1):
        print(f"[{number}/{len(todo)}] {order.engine.value}, batch {order.batch}", flush=True)
        runs.append(in_own_process(order))
        file = collect(runs, ceilings)
        file.write(output)  # after every engine, so that an interrupted run keeps what it measured
    print(table(file))
    print(f"Kept in {output}")
    return 1 if any(run.error for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
