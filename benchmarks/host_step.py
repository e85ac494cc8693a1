"""What does a decode step cost the host? `python -m benchmarks.host_step [--rows 64 8] [--output FILE]`

Python builds a step's graph, MLX launches it, the device computes it. The first two are the host's. Mostly
they overlap with the third, and with each other where launches have a thread of their own. So they are timed
in steps that begin with nothing left to compute, in one thread, and the whole step in others, one behind the
other as in a run. Made weights, pages of W1's first shape.

On a CPU the launches are the computing, so there only Python's part says anything: `--backend cuda` has the
model choose its operations as on CUDA, and `--toy` gives it Chandra 1's number of layers and small widths.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from unittest.mock import patch

import mlx.core as mx

from benchmarks.machine import write_figures
from benchmarks.made_model import CHANDRA_1, TOY, made_model
from benchmarks.workloads import PagePlan, Workload, make_pages, plan
from mlx_chandra.engine.generator import BatchGenerator
from mlx_chandra.engine.timing import NeverStops
from mlx_chandra.models.backend import BackendName, backend_of, current_backend
from mlx_chandra.models.inputs import Page
from mlx_chandra.models.qwen3_vl import Qwen3VL

WARM_UP = 8  # steps
MOST_TOKENS = 8192  # of a page
MILLISECOND = 1e-3


@dataclass(frozen=True)
class StepCost:
    """Milliseconds of a step, medians, and the least that Python took, which others at work disturb less.

    Attributes:
        rows: Pages in the step.
        tokens: Of each page when the first step was timed.
        step: From one step to the next.
        python, python_least: To build it, and all that the generator does besides.
        launch: Within MLX, until it is sent off.
    """

    rows: int
    tokens: int
    step: float
    python: float
    python_least: float
    launch: float

    @property
    def host_share(self) -> float:
        """The host's work over a whole step; above 1 where two threads share it."""
        return (self.python + self.launch) / self.step


@contextmanager
def launches_timed(now: Callable[[], float] = time.perf_counter) -> Iterator[list[float]]:
    """The seconds of each call of mx.async_eval within the block."""
    launch, seconds = mx.async_eval, []

    def timed(*arrays: object) -> None:
        began = now()
        launch(*arrays)  # type: ignore[no-untyped-call]
        seconds.append(now() - began)

    with patch.object(mx, "async_eval", timed):
        yield seconds


def measure(model: Qwen3VL, rows: int, page: PagePlan, steps: int) -> StepCost:
    """Times `steps` steps of each kind with this many equal pages."""
    inputs = [made.inputs for made in make_pages([page] * rows, model.config)]
    with closing(_decoding(model, inputs, steps)) as generator:
        whole = [_seconds(generator.next) for _ in range(steps)]
    with closing(_decoding(model, inputs, steps)) as generator:
        apart = [_python_and_launch(generator) for _ in range(steps)]
    python, launch = zip(*apart, strict=True)
    return StepCost(
        rows,
        len(inputs[0].token_ids) + WARM_UP,
        statistics.median(whole) / MILLISECOND,
        statistics.median(python) / MILLISECOND,
        min(python) / MILLISECOND,
        statistics.median(launch) / MILLISECOND,
    )


def _decoding(model: Qwen3VL, pages: Sequence[Page], steps: int) -> BatchGenerator:
    """A generator that has begun to decode, and has so many steps before it."""
    generator = BatchGenerator(
        model,
        NeverStops(),
        completion_batch_size=len(pages),
        stop_on_repetition=False,
        max_context=MOST_TOKENS,
    )
    generator.insert(pages, WARM_UP + 2 * steps)
    while generator.waiting or generator.stats().steps < WARM_UP:
        generator.next()
    return generator


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _python_and_launch(generator: BatchGenerator) -> tuple[float, float]:
    """Of one step that finds the device with nothing to do."""
    mx.synchronize()
    with launches_timed() as seconds:
        whole = _seconds(generator.next)
    return whole - sum(seconds), sum(seconds)


def shown(cost: StepCost, with_launches: bool) -> str:
    python = f"Python {cost.python:.2f} ms (at least {cost.python_least:.2f})"
    if not with_launches:
        return f"{cost.rows:4} rows   {python}"
    return (
        f"{cost.rows:4} rows   step {cost.step:.2f} ms   {python}   launches {cost.launch:.2f} ms   "
        f"host {100 * cost.host_share:.0f} %"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The host's part of a decode step.")
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 8], help="pages in a step")
    parser.add_argument("--steps", type=int, default=100, help="timed, of each kind")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--toy", action="store_true", help="small widths, as many layers")
    parser.add_argument("--backend", choices=[name.value for name in BackendName], help="whose operations")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    chosen = parser.parse_args(arguments)
    size = replace(TOY, layers=CHANDRA_1.layers) if chosen.toy else CHANDRA_1
    own = current_backend()
    backend = backend_of(BackendName(chosen.backend)) if chosen.backend else own
    model = made_model(size, chosen.dtype, backend)
    (page,) = plan(Workload.W1, 1, chosen.toy)
    costs = []
    for rows in chosen.rows:
        costs.append(measure(model, rows, page, chosen.steps))
        print(shown(costs[-1], own.name is not BackendName.CPU), flush=True)
    if chosen.output:
        figures = {
            "settings": {
                "toy": chosen.toy,
                "dtype": chosen.dtype,
                "backend": backend.name.value,
                "steps": chosen.steps,
            },
            "milliseconds": [asdict(cost) for cost in costs],
        }
        write_figures(chosen.output, figures)


if __name__ == "__main__":
    main()
