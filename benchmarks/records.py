"""The records of a benchmark's run, and the JSON file that keeps them for report and plot."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.engines.base import EngineName
from benchmarks.roofline import Ceilings, Ideal
from benchmarks.workloads import Workload

FORM = 1  # of the JSON file


@dataclass(frozen=True)
class Order:
    """What one worker process is asked to do.

    Attributes:
        pages: How many; None: all of WD.
        checkpoint: A folder; None for a model with made weights.
        threads: Of the matrix product on a CPU; None: its library's own number.
    """

    engine: EngineName
    workload: Workload
    pages: int | None
    toy: bool
    checkpoint: str | None
    dtype: str
    batch: int
    max_tokens: int
    threads: int | None


@dataclass(frozen=True)
class EngineRun:
    """One engine's run in a process of its own. Seconds, tokens, bytes.

    Attributes:
        blas: Name of the matrix product.
        error: Why there are no figures.
        cpu_seconds: Of all threads during `seconds`; steadier than `seconds` on a machine that is shared.
        texts: The answers; empty strings for made models.
        load: The machine's load (1 minute) before and after. Above the number of cores, others were at work.
    """

    order: Order
    blas: str
    error: str | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    output_tokens: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    occupancy: float | None = None
    steps: int | None = None
    peak_device_bytes: int | None = None
    peak_rss_bytes: int = 0
    load: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Figures:
    """What a run amounts to.

    Attributes:
        roofline: The ideal time of the work (at this batch size) as a share of the time taken.
        differing: Pages whose text differs from our engine's; None where there is nothing to compare.
    """

    pages_per_second: float
    output_tokens_per_second: float
    prompt_tokens_per_second: float
    roofline: float
    ideal: Ideal
    differing: int | None


@dataclass(frozen=True)
class Machine:
    system: str
    processor: str
    cores: int
    memory_bytes: int
    accelerator: str | None
    backend: str


@dataclass(frozen=True)
class Result:
    """One engine's run and its figures; no figures where it failed."""

    run: EngineRun
    figures: Figures | None


@dataclass(frozen=True)
class ResultFile:
    when: str
    commit: str
    machine: Machine
    versions: dict[str, str]
    ceilings: Ceilings
    prompt_tokens: tuple[int, ...]
    page_names: tuple[str, ...]
    results: tuple[Result, ...] = ()
    form: int = FORM

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "ResultFile":
        """Read a file back. Raises ValueError for a file of another form."""
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.get("form") != FORM:
            raise ValueError(f"{path} is of form {values.get('form')}, not {FORM}: measure again.")
        values["machine"] = Machine(**values["machine"])
        values["ceilings"] = Ceilings(**values["ceilings"])
        values["results"] = tuple(_result(item) for item in values["results"])
        for name in ("prompt_tokens", "page_names"):
            values[name] = tuple(values[name])
        return cls(**values)


def order_from(values: dict[str, Any]) -> Order:
    """Build an order from its JSON. Fields of 0.1.0's files that no longer exist are left out."""
    order = {field.name: values[field.name] for field in fields(Order)}
    return Order(**{**order, "engine": EngineName(order["engine"]), "workload": Workload(order["workload"])})


def run_from(values: dict[str, Any]) -> EngineRun:
    """Build a run from its JSON."""
    run = {field.name: values[field.name] for field in fields(EngineRun)}
    for name in ("output_tokens", "texts", "load"):
        run[name] = tuple(run[name])
    return EngineRun(**{**run, "order": order_from(run["order"])})


def _result(values: dict[str, Any]) -> Result:
    figures = values["figures"]
    if figures is not None:
        figures = Figures(**{**figures, "ideal": Ideal(**figures["ideal"])})
    return Result(run_from(values["run"]), figures)
