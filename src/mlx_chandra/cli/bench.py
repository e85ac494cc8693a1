"""`mlx-chandra bench`: what this machine would do with a model, and which batch size to use."""

import argparse
import re
import sys
import time
from typing import TYPE_CHECKING

from mlx_chandra.cli import checkpoint
from mlx_chandra.cli.numbers import at_least, batch_size
from mlx_chandra.errors import ExitCode

if TYPE_CHECKING:
    from PIL.Image import Image

    from mlx_chandra.cli.bench_report import Setup
    from mlx_chandra.engine.timing import EngineTimer

Commands = argparse._SubParsersAction  # argparse has no public name for it

_EPILOG = """\
A made-up page is read and answered by the real engine, at batch sizes 1, 2, 4, ... up to what fits the
memory. The last line is everything in JSON, to keep or to share; it names no folder of yours. Ctrl-C ends it
early with what was measured."""


def add_to(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Adds the command to the program's."""
    parser = commands.add_parser(
        "bench",
        help="measure this machine: pages per second and the batch size to use",
        description="Measure this machine: pages per second and the batch size to use, in about two minutes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    checkpoint.add_to(parser)
    parser.add_argument(
        "--page-size",
        type=page_size,
        default=(1654, 2339),
        metavar="WxH",
        help="pixels of a page (default: 1654x2339, A4 at 200 dpi)",
    )
    parser.add_argument(
        "--max-size",
        type=at_least(0),
        default=1024,
        metavar="N",
        help="scale it down to N pixels on the longest side, as ocr does; 0: never (default: %(default)s)",
    )
    parser.add_argument(
        "--output-tokens",
        type=at_least(1),
        default=1000,
        metavar="N",
        help="tokens of a page's answer (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=batch_size,
        metavar="N",
        help="measure this one alone, or auto: all up to what fits the memory (default: auto)",
    )
    parser.add_argument(
        "--seconds",
        type=at_least(1),
        default=120,
        metavar="N",
        help="stop after about so long, loading aside (default: %(default)s)",
    )


def page_size(text: str) -> tuple[int, int]:
    """An argparse type: width and height in pixels as `1654x2339`."""
    sides = re.fullmatch(r"([1-9]\d{0,5})[xX×]([1-9]\d{0,5})", text)
    if sides is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a width and a height such as 1654x2339")
    return int(sides[1]), int(sides[2])


def run(arguments: argparse.Namespace) -> int:
    """Measures and prints; returns the exit status. Raises MlxChandraError."""
    from mlx_chandra.cli.bench_report import Outcome, conclusion, header, json_line, rows
    from mlx_chandra.engine.measure import Finding, batch_sizes, measure

    setup, timer = _prepare(arguments)
    sizes = (arguments.batch_size,) if arguments.batch_size else batch_sizes(setup.planned)
    _say(*header(setup))
    began = time.perf_counter()
    findings: list[Finding] = []
    interrupted = False
    try:
        for finding in measure(timer, sizes, arguments.output_tokens, arguments.seconds):
            findings.append(finding)
            _say(*rows(finding))
    except KeyboardInterrupt:
        interrupted = True
    outcome = Outcome(findings, time.perf_counter() - began, interrupted)
    _say(*conclusion(setup, outcome), json_line(setup, outcome))
    return ExitCode.INTERRUPTED if interrupted else ExitCode.OK


def _say(*lines: str) -> None:
    for line in lines:
        print(line)
    sys.stdout.flush()


def _made_up_page(width: int, height: int) -> "Image":
    """Grey noise: a page takes as long whatever is on it."""
    import numpy as np
    from PIL import Image

    from mlx_chandra.documents.image_files import MAX_PIXELS
    from mlx_chandra.errors import UsageError

    if width * height > MAX_PIXELS:
        raise UsageError(
            f"A page of {width}x{height} pixels has more than the {MAX_PIXELS:,} that ocr reads.",
            "Choose a smaller --page-size.",
        )
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8))


def _prepare(arguments: argparse.Namespace) -> "tuple[Setup, EngineTimer]":
    """Loads the model as `ocr` does, and prepares the page."""
    from mlx_chandra.cli.bench_report import PageFacts, Setup
    from mlx_chandra.engine.device import this_device
    from mlx_chandra.engine.timing import EngineTimer, model_facts
    from mlx_chandra.processing.prompt import PromptType
    from mlx_chandra.reading.batch import load

    picture = _made_up_page(*arguments.page_size)
    print(f"Loading {arguments.model}", file=sys.stderr, flush=True)
    model, processor = load(arguments.model, arguments.dtype)
    page = processor.prepare(picture, PromptType.OCR_LAYOUT, arguments.max_size or None)
    timer = EngineTimer(model, page, arguments.output_tokens)
    patch, grid = processor.image_settings.patch_size, page.image.grid
    facts = PageFacts(
        picture.width,
        picture.height,
        grid.w * patch,
        grid.h * patch,
        len(page.token_ids),
        arguments.output_tokens,
    )
    device = this_device(model.backend.name)
    return Setup(device, arguments.model, model_facts(model), facts, timer.most_slots), timer
