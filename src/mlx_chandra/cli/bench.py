"""`mlx-chandra bench`: what this machine would do with a model, and which batch size to use.

It prints the machine, a table that grows as it measures, advice, and a line of JSON. The line's form has a
number, `FORM`, which changes when a key goes or comes to mean something else.
"""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeVar

from mlx_chandra import __version__
from mlx_chandra.cli.options import add_checkpoint, add_number, batch_size
from mlx_chandra.cli.texts import rate
from mlx_chandra.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from mlx_chandra.cli.options import Commands
    from mlx_chandra.engine.bench import EngineTimer, Finding, ModelFacts
    from mlx_chandra.engine.device import Device

FORM = 1
_GIB = 1 << 30
_BACKENDS = {"metal": "Metal", "cuda": "CUDA", "cpu": "the CPU"}
_TABLE = " batch  ms a step  tokens/s  pages/s  pages/hour     memory"
_EPILOG = """\
A made-up page is read and answered by the real engine, at batch sizes 1, 2, 4, ... up to what fits the
memory. The last line is everything in JSON, to keep or to share; it names no folder of yours. Ctrl-C ends it
early with what was measured."""

T = TypeVar("T")


@dataclass(frozen=True)
class PageFacts:
    """Sides in pixels, as asked for and as the model gets them; prompt tokens with the picture's."""

    width: int
    height: int
    read_width: int
    read_height: int
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Setup:
    """What is measured: `model_name` as the user calls it, `planned` the batch size that auto chooses."""

    device: "Device"
    model_name: str
    model: "ModelFacts"
    page: PageFacts
    planned: int


@dataclass(frozen=True)
class Outcome:
    """What was measured, in `seconds`."""

    findings: "Sequence[Finding]"
    seconds: float
    interrupted: bool

    def of(self, kind: type[T]) -> list[T]:
        return [finding for finding in self.findings if isinstance(finding, kind)]


def add_to(commands: "Commands") -> None:
    """Add the command to the program's."""
    parser = commands.add_parser(
        "bench",
        help="measure this machine: pages per second and the batch size to use",
        description="Measure this machine: pages per second and the batch size to use, in about two minutes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--page-size",
        type=page_size,
        default=(1654, 2339),
        metavar="WxH",
        help="pixels of a page (default: 1654x2339, A4 at 200 dpi)",
    )
    size = "scale it down to N pixels on the longest side, as ocr does; 0: never (default: %(default)s)"
    add_number(parser, "--max-size", 0, 1024, size)
    add_number(parser, "--output-tokens", 1, 1000, "tokens of a page's answer (default: %(default)s)")
    parser.add_argument(
        "--batch-size",
        type=batch_size,
        metavar="N",
        help="measure this one alone, or auto: all up to what fits the memory (default: auto)",
    )
    seconds = "stop after about so long, loading aside (default: %(default)s)"
    add_number(parser, "--seconds", 1, 120, seconds)


def page_size(text: str) -> tuple[int, int]:
    """An argparse type: width and height in pixels as `1654x2339`."""
    sides = re.fullmatch(r"([1-9]\d{0,5})[xX×]([1-9]\d{0,5})", text)
    if sides is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a width and a height such as 1654x2339")
    return int(sides[1]), int(sides[2])


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; return the exit status. Raises MlxChandraError."""
    from mlx_chandra.engine.bench import batch_sizes, measure

    setup, timer = _prepare(arguments)
    sizes = (arguments.batch_size,) if arguments.batch_size else batch_sizes(setup.planned)
    _say(header(setup))
    began = time.perf_counter()
    findings: list[Finding] = []
    interrupted = False
    try:
        for finding in measure(timer, sizes, arguments.output_tokens, arguments.seconds):
            findings.append(finding)
            _say(rows(finding))
    except KeyboardInterrupt:
        interrupted = True
    outcome = Outcome(findings, time.perf_counter() - began, interrupted)
    _say([*conclusion(setup, outcome), json_line(setup, outcome)])
    return ExitCode.INTERRUPTED if interrupted else ExitCode.OK


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        print(line, flush=True)


def _prepare(arguments: argparse.Namespace) -> "tuple[Setup, EngineTimer]":
    """Load the model as `ocr` does, and prepare the page."""
    from mlx_chandra.engine.bench import EngineTimer, model_facts
    from mlx_chandra.engine.device import this_device
    from mlx_chandra.processing.prompt import PromptType
    from mlx_chandra.reading.batch import load

    width, height = arguments.page_size
    picture = _made_up_page(width, height)
    print(f"Loading {arguments.model}", file=sys.stderr, flush=True)
    model, processor = load(arguments.model, arguments.dtype)
    page = processor.prepare(picture, PromptType.OCR_LAYOUT, arguments.max_size or None)
    timer = EngineTimer(model, page, arguments.output_tokens)
    patch, grid, prompt = processor.image_settings.patch_size, page.image.grid, len(page.token_ids)
    facts = PageFacts(width, height, grid.w * patch, grid.h * patch, prompt, arguments.output_tokens)
    device = this_device(model.backend.name)
    return Setup(device, arguments.model, model_facts(model), facts, timer.most_slots), timer


def _made_up_page(width: int, height: int) -> "Image":
    """Grey noise: a page takes as long whatever is on it."""
    import numpy as np
    from PIL import Image

    from mlx_chandra.documents.image_files import MAX_PIXELS

    if width * height > MAX_PIXELS:
        raise UsageError(
            f"A page of {width}x{height} pixels has more than the {MAX_PIXELS:,} that ocr reads.",
            "Choose a smaller --page-size.",
        )
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8))


def header(setup: Setup) -> list[str]:
    """The machine, the model and the page."""
    from importlib.metadata import version

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


def rows(finding: "Finding") -> list[str]:
    """A finding's part of the table."""
    from mlx_chandra.engine.bench import Point, Prefill

    if isinstance(finding, Prefill):
        passes = f"median of {finding.passes}" if finding.passes > 1 else "one pass"
        passes = "the first pass, later ones are quicker" if finding.cold else passes
        return ["", f"Reading a page before its answer: {finding.seconds:.3g} s ({passes})", "", _TABLE]
    if not isinstance(finding, Point):
        return []
    return [
        f"{finding.batch_size:6}  {1000 * finding.step_seconds:9.1f}  {finding.tokens_per_second:8,.0f}  "
        f"{rate(finding.pages_per_second):>7}  {3600 * finding.pages_per_second:10,.0f}  "
        f"{_gib(finding.peak_memory):>9}"
    ]


def conclusion(setup: Setup, outcome: Outcome) -> list[str]:
    """What is missing, and what to do with the rest."""
    from mlx_chandra.engine.bench import Point, Skipped, recommended

    lines = ["", "Stopped early."] if outcome.interrupted else [""]
    for skipped in outcome.of(Skipped):
        sizes = ", ".join(map(str, skipped.batch_sizes))
        lines.append(f"Batch sizes not measured: {sizes} ({skipped.reason.rstrip('.')}).")
    points = outcome.of(Point)
    best = recommended(points)
    if best is None:
        return [*lines, "No batch size was measured."]
    auto = " (which is what auto chooses)" if best.batch_size == setup.planned else ""
    size = f"--batch-size {best.batch_size}{auto}"
    pages = f"{rate(best.pages_per_second)} pages/s, {3600 * best.pages_per_second:,.0f} pages an hour"
    advice = f"Use {size}: expect {pages}." if len(points) > 1 else f"With {size}, expect {pages}."
    return [*lines, advice]


def json_line(setup: Setup, outcome: Outcome) -> str:
    """Everything, on one line, with four significant digits; more would be noise."""
    from importlib.metadata import version

    from mlx_chandra.engine.bench import Point, Prefill, Skipped, recommended

    points, device = outcome.of(Point), asdict(setup.device)
    best = recommended(points)
    content = {
        "mlx_chandra_bench": FORM,
        "mlx_chandra": __version__,
        "mlx": version("mlx"),
        "device": {**device.pop("host"), **device},
        "model": {"name": public_name(setup.model_name), **asdict(setup.model)},
        "page": asdict(setup.page),
        "planned_batch_size": setup.planned,
        "prefill": next(map(asdict, outcome.of(Prefill)), None),
        "points": [asdict(point) for point in points],
        "skipped": next(map(asdict, outcome.of(Skipped)), None),
        "recommended_batch_size": best.batch_size if best else None,
        "pages_per_second": best.pages_per_second if best else None,
        "seconds": outcome.seconds,
        "interrupted": outcome.interrupted,
    }
    return json.dumps(json.loads(json.dumps(content), parse_float=lambda text: float(f"{float(text):.4g}")))


def public_name(model: str) -> str:
    """A hub's name as it is; of a folder the last part alone, for the rest may be private."""
    path = os.path.expanduser(model)
    return os.path.basename(os.path.abspath(path)) if os.path.isdir(path) else model


def _gib(size: int) -> str:
    """Bytes in GiB, as memory is sold: 16.0 GB is 16 * 2**30."""
    return f"{size / _GIB:,.1f} GB" if size >= _GIB else f"{size / _GIB:.2f} GB"
