"""What `mlx-chandra bench` prints: the machine, a table that grows as it measures, advice, a line of JSON.

The line's form has a number, `FORM`; it changes when a key goes or comes to mean something else.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

from mlx_chandra import __version__
from mlx_chandra.engine.device import Device
from mlx_chandra.engine.measure import Finding, Point, Prefill, Skipped, recommended
from mlx_chandra.engine.timing import ModelFacts

FORM = 1
_GIB = 1 << 30
_BACKENDS = {"metal": "Metal", "cuda": "CUDA", "cpu": "the CPU"}


@dataclass(frozen=True)
class PageFacts:
    """Sides in pixels, as asked for and as the model gets them; tokens of the prompt, picture included."""

    width: int
    height: int
    read_width: int
    read_height: int
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Setup:
    """What is measured: `model_name` as the user calls it, `planned` the batch size that auto chooses."""

    device: Device
    model_name: str
    model: ModelFacts
    page: PageFacts
    planned: int


@dataclass(frozen=True)
class Outcome:
    """What came of it, in `seconds`."""

    findings: Sequence[Finding]
    seconds: float
    interrupted: bool

    @property
    def prefill(self) -> Prefill | None:
        return next((finding for finding in self.findings if isinstance(finding, Prefill)), None)

    @property
    def points(self) -> list[Point]:
        return [finding for finding in self.findings if isinstance(finding, Point)]

    @property
    def skipped(self) -> Skipped | None:
        return next((finding for finding in self.findings if isinstance(finding, Skipped)), None)


def header(setup: Setup) -> list[str]:
    """The machine, the model and the page."""
    device, model, page = setup.device, setup.model, setup.page
    quantised = f", {model.bits}-bit" if model.bits else ""
    return [
        f"{device.name} ({device.architecture}), {_gib(device.memory)} of memory, "
        f"{_gib(device.working_set)} to compute in",
        f"{device.host.system}, {device.host.cores} cores; mlx-chandra {__version__}, "
        f"MLX {version('mlx')} on {_BACKENDS[device.backend]}",
        f"{setup.model_name}: {model.dtype}{quantised}, weights {_gib(model.weights)}, "
        f"cache {model.cache_per_token / 1000:,.0f} kB a token",
        f"A page of {page.width}x{page.height} pixels, read at {page.read_width}x{page.read_height}: "
        f"{page.prompt_tokens:,} prompt tokens, {page.output_tokens:,} tokens of answer",
    ]


def rows(finding: Finding) -> list[str]:
    """A finding's part of the table."""
    if isinstance(finding, Prefill):
        passes = f"median of {finding.passes}" if finding.passes > 1 else "one pass"
        passes = "the first pass, later ones are quicker" if finding.cold else passes
        return [
            "",
            f"Reading a page before its answer: {finding.seconds:.3g} s ({passes})",
            "",
            " batch  ms a step  tokens/s  pages/s  pages/hour     memory",
        ]
    if isinstance(finding, Skipped):
        return []
    return [
        f"{finding.batch_size:6}  {1000 * finding.step_seconds:9.1f}  {finding.tokens_per_second:8,.0f}  "
        f"{_rate(finding.pages_per_second):>7}  {3600 * finding.pages_per_second:10,.0f}  "
        f"{_gib(finding.peak_memory):>9}"
    ]


def conclusion(setup: Setup, outcome: Outcome) -> list[str]:
    """What is missing, and what to do with the rest."""
    lines = [""]
    if outcome.interrupted:
        lines.append("Stopped early.")
    if outcome.skipped is not None:
        sizes = ", ".join(str(size) for size in outcome.skipped.batch_sizes)
        lines.append(f"Batch sizes not measured: {sizes} ({outcome.skipped.reason.rstrip('.')}).")
    best = recommended(outcome.points)
    if best is None:
        return [*lines, "No batch size was measured."]
    auto = " (which is what auto chooses)" if best.batch_size == setup.planned else ""
    pages = f"{_rate(best.pages_per_second)} pages/s, {3600 * best.pages_per_second:,.0f} pages an hour"
    if len(outcome.points) > 1:
        lines.append(f"Use --batch-size {best.batch_size}{auto}: expect {pages}.")
    else:
        lines.append(f"With --batch-size {best.batch_size}{auto}, expect {pages}.")
    return lines


def json_line(setup: Setup, outcome: Outcome) -> str:
    """Everything, on one line."""
    best = recommended(outcome.points)
    device = {**asdict(setup.device), **asdict(setup.device.host)}
    del device["host"], device["memory"]
    content = {
        "mlx_chandra_bench": FORM,
        "mlx_chandra": __version__,
        "mlx": version("mlx"),
        "device": {**device, "memory": setup.device.memory},
        "model": {"name": public_name(setup.model_name), **asdict(setup.model)},
        "page": asdict(setup.page),
        "planned_batch_size": setup.planned,
        "prefill": asdict(outcome.prefill) if outcome.prefill else None,
        "points": [asdict(point) for point in outcome.points],
        "skipped": asdict(outcome.skipped) if outcome.skipped else None,
        "recommended_batch_size": best.batch_size if best else None,
        "pages_per_second": best.pages_per_second if best else None,
        "seconds": outcome.seconds,
        "interrupted": outcome.interrupted,
    }
    return json.dumps(_rounded(content), ensure_ascii=True)


def public_name(model: str) -> str:
    """A hub's name as it is; of a folder the last part alone, for the rest may be private."""
    path = os.path.expanduser(model)
    return os.path.basename(os.path.abspath(path)) if os.path.isdir(path) else model


def _rounded(value: object) -> object:
    """The same with four significant digits; more would be noise."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def _gib(size: int) -> str:
    """Bytes in GiB, as memory is sold: 16.0 GB is 16 * 2**30."""
    return f"{size / _GIB:,.1f} GB" if size >= _GIB else f"{size / _GIB:.2f} GB"


def _rate(pages: float) -> str:
    return f"{pages:.2g}" if pages < 1 else f"{pages:.1f}"
