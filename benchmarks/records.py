"""What a run of the benchmark keeps: one JSON file, written whole, read back by report and plot."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.engines.base import EngineName
from benchmarks.phases import PhaseTimes
from benchmarks.roofline import Ceilings, Ideal
from benchmarks.workloads import Workload

FORM = 1  # of the JSON file


@dataclass(frozen=True)
class Order:
    """What one worker process is asked to do.

    Attributes:
        stock_blas: Leave MLX's Linux CPU wheel the matrix product that it comes with.
        profile: Read the pages a second time, phases timed.
        only: Names of example pages, without their endings; empty: `pages` of them.
        checkpoint: A folder; None for a model with made weights.
        threads: Of the matrix product on a CPU; None: as many as its library likes.
    """

    engine: EngineName
    workload: Workload
    pages: int | None
    only: tuple[str, ...]
    toy: bool
    checkpoint: str | None
    dtype: str
    batch: int
    max_tokens: int
    stock_blas: bool
    threads: int | None
    profile: bool


@dataclass(frozen=True)
class EngineRun:
    """One engine's run in a process of its own. Seconds, tokens, bytes.

    `error` says why there are no figures. `cpu_seconds` are those of all threads during `seconds`: the
    steadier figure where others are at work too. `load` is the machine's load (1 minute) before and after;
    above the number of cores, others were. `texts` are the answers, empty strings for made models.
    """

    order: Order
    blas: str
    error: str | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    output_tokens: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    phases: PhaseTimes | None = None
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
        differing: Pages whose text is not that of our own engine; None where there is nothing to compare.
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
    form: int = field(default=FORM)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "ResultFile":
        """Raises ValueError for a file of another form."""
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.get("form") != FORM:
            raise ValueError(f"{path} is of form {values.get('form')}, not {FORM}: measure again.")
        return cls(
            when=values["when"],
            commit=values["commit"],
            machine=Machine(**values["machine"]),
            versions=values["versions"],
            ceilings=Ceilings(**values["ceilings"]),
            prompt_tokens=tuple(values["prompt_tokens"]),
            page_names=tuple(values["page_names"]),
            results=tuple(_result(item) for item in values["results"]),
        )


def order_from(values: dict[str, object]) -> Order:
    named = {
        **values,
        "engine": EngineName(str(values["engine"])),
        "workload": Workload(str(values["workload"])),
        "only": tuple(values["only"]),  # type: ignore[arg-type]
    }
    return Order(**named)  # type: ignore[arg-type]


def run_from(values: dict[str, object]) -> EngineRun:
    """An EngineRun out of its JSON."""
    named = {**values, "order": order_from(values["order"])}  # type: ignore[arg-type]
    if values["phases"] is not None:
        named["phases"] = PhaseTimes(**values["phases"])  # type: ignore[arg-type]
    for name in ("output_tokens", "texts", "load"):
        named[name] = tuple(values[name])  # type: ignore[arg-type]
    return EngineRun(**named)  # type: ignore[arg-type]


def _result(values: dict[str, dict[str, object]]) -> Result:
    figures = values["figures"]
    if figures is None:
        return Result(run_from(values["run"]), None)
    ideal = Ideal(**figures["ideal"])  # type: ignore[arg-type]
    return Result(run_from(values["run"]), Figures(**{**figures, "ideal": ideal}))  # type: ignore[arg-type]
