"""Does the engine wait for pages? `python -m benchmarks.starvation --help`

Runs the pipeline as the program does: a manifest of files, workers that open and prepare them, the journal,
texts on the disk. WD has the example pages and the demo checkpoint. W1 has JPEG files of its shapes and a
made model of Chandra 1's dimensions; its answers have W1's lengths, in the order in which pages come to the
engine. Files are written and the model is warmed up before the clock starts. What counts as idle for input is
said in `input_clock.py`.

With `--compare`, the same pages are read once more with next to nothing to do for them: tiny files in their
place, and the inputs of the first run.
"""

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.clocked_engine import Engine, demo_engine, made_engine
from benchmarks.input_clock import ClockedReader, InputClock, InputTimes, opening_timed
from benchmarks.machine import write_figures
from benchmarks.page_files import write_pages
from benchmarks.scale import make_pages
from benchmarks.workloads import Workload, example_pages, plan
from mlx_chandra import pipeline
from mlx_chandra.attempts import PageResult
from mlx_chandra.documents.manifest import Manifest
from mlx_chandra.models.backend import BackendName, current_backend
from mlx_chandra.outputs.journal import Journal
from mlx_chandra.outputs.making import Making
from mlx_chandra.outputs.results_csv import ResultsFile
from mlx_chandra.processing.processor import PageInputs

_AIM = 0.03  # of the time from the first page on
_MAKING = Making("mlx-chandra benchmarks.starvation", "measured", {})


@dataclass(frozen=True)
class Settings:
    """What was measured. `scale` is how many times larger than W1's the pictures are."""

    workload: Workload
    pages: int
    batch: int
    workers: int
    scale: int
    max_size: int
    toy: bool


@dataclass(frozen=True)
class Pages:
    """Files to be read, and where W1 says so the tokens of each answer."""

    paths: Sequence[Path]
    limits: Sequence[int] | None = None


class Quiet:
    """An observer that says nothing of the run but its warnings."""

    def update(self, now: pipeline.Snapshot) -> None:
        """Not shown."""

    def warn(self, message: str) -> None:
        print(message, file=sys.stderr)

    def finished(self, pages: Sequence[PageResult]) -> None:
        """Not shown."""


def pages_of(settings: Settings, folder: Path) -> Pages:
    """The example pages, or W1's files, which are written now."""
    if settings.workload is Workload.WD:
        return Pages(example_pages(settings.pages))
    plans = plan(settings.workload, settings.pages, settings.toy)
    paths = write_pages(folder, [(page.height, page.width) for page in plans], settings.scale)
    return Pages(paths, [page.output_tokens for page in plans])


def read(
    settings: Settings,
    engine: Engine,
    pages: Pages,
    folder: Path,
    keep: list[PageInputs] | None = None,
    kept: Sequence[PageInputs] | None = None,
) -> InputTimes:
    """One run over all pages.

    Args:
        folder: Where the manifest and the results go.
        keep: Gets the inputs of the pages, in the order in which they come to the engine.
        kept: Inputs to be given to the engine in place of the pages' own.
    """
    manifest = folder / "pages.txt"
    manifest.write_text("".join(f"{path}\n" for path in pages.paths), encoding="utf-8")
    clock = InputClock(len(pages.paths))
    generator = engine.generator()
    inner = engine.reader(generator)

    def opened() -> ClockedReader:
        clock.start()
        return ClockedReader(inner, generator, clock, pages.limits, keep, kept)

    run_settings = pipeline.Settings(workers=settings.workers, text_dir=str(folder / "texts"))
    with (
        ResultsFile(folder / "results.csv") as results,
        Journal(results.path, _MAKING, results.is_new) as journal,
        opening_timed(clock),
    ):
        source, stop = Manifest.at(str(manifest), tree=True), threading.Event()
        pipeline.run(source, results, opened, run_settings, Quiet(), stop, journal)
    times = clock.times()
    if times.pages != len(pages.paths):
        raise SystemExit(f"Of {len(pages.paths)} pages {times.pages} came to the engine: see {results.path}.")
    return times


def measure(settings: Settings, compare: bool, parent: Path | None = None) -> dict[str, InputTimes]:
    """The run, and with `compare` the one whose inputs were made beforehand; files go below `parent`."""
    with TemporaryDirectory(dir=parent) as name:
        folder = Path(name)
        for below in ("pages", "run", "kept", "tiny"):
            (folder / below).mkdir()
        pages = pages_of(settings, folder / "pages")
        print(
            f"{len(pages.paths)} files, {sum(p.stat().st_size for p in pages.paths) / 1e6:.1f} MB", flush=True
        )
        engine = _engine(settings)
        engine.warm_up(pages.paths[0])
        inputs: list[PageInputs] = []
        found = {"from files": read(settings, engine, pages, folder / "run", inputs if compare else None)}
        print(_said("from files", found["from files"]), flush=True)
        if compare:
            tiny = make_pages(folder / "tiny", len(inputs)).read_text(encoding="utf-8").splitlines()
            stand_ins = Pages([Path(path) for path in tiny], pages.limits)
            found["prepared"] = read(settings, engine, stand_ins, folder / "kept", kept=inputs)
            print(_said("prepared", found["prepared"]), flush=True)
    return found


def _engine(settings: Settings) -> Engine:
    if settings.workload is Workload.WD:
        return demo_engine(settings.batch, settings.max_size)
    return made_engine(settings.toy, settings.batch, settings.max_size)


def _said(what: str, times: InputTimes) -> str:
    ready = "always" if times.ready_mean is None else f"{times.ready_mean:.1f} on average"
    lines = [
        f"{what}: {times.pages} pages in {times.seconds:.2f} s, {times.pages / times.seconds:.3f} pages/s, "
        f"{times.cpu_seconds:.1f} CPU s",
        f"  first page after {times.first_page:.3f} s",
        f"  idle for input {times.idle:.2%} from then on, {times.idle_of_all:.2%} of all "
        f"(empty {times.empty:.3f} s, short steps {times.short_steps:.3f} s)",
        f"  by the slots that lacked a page {times.lost:.2%}; short prefills, in which the device is busy, "
        f"{times.short_prefills:.3f} s; no page ready for {times.no_page_ready:.3f} s in all",
        f"  pages ready where a slot was free: {ready}"
        + ("" if times.ready_least is None else f", {times.ready_least} at least"),
    ]
    spent = (f"{name} {work.wall * 1e3:.1f} ({work.cpu * 1e3:.1f})" for name, work in times.workers.items())
    return "\n".join([*lines, f"  workers' ms a page, on a core in brackets: {', '.join(spent)}"])


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.starvation", description="Does the engine wait for pages?"
    )
    add = parser.add_argument
    add("--workload", type=Workload, choices=[Workload.WD, Workload.W1], default=Workload.WD)
    add("--pages", type=int, help="how many pages (WD: all by default; W1: 128)")
    add("--batch", type=int, help="pages decoded at once: 8 on a CPU, 128 on a GPU by default")
    add("--workers", type=int, help="threads that open and prepare pages (one a core, up to 8)")
    add("--scale", type=int, default=1, help="W1: pictures so many times larger; 3: scans at some 300 dpi")
    add("--max-size", type=int, default=1024, help="as the program's; 0: no limit")
    add("--toy", action="store_true", help="W1: a small model, small pages, short answers")
    add("--compare", action="store_true", help="read the pages once more with their inputs made beforehand")
    add("--folder", type=Path, help="where pages and results go for a while")
    add("--output", type=Path, help="a JSON file for what was measured")
    return parser.parse_args(arguments)


def settings_from(chosen: argparse.Namespace) -> Settings:
    on_cpu = current_backend().name is BackendName.CPU
    most = len(example_pages())
    made = chosen.workload.made
    return Settings(
        workload=chosen.workload,
        pages=(chosen.pages or 128) if made else min(chosen.pages or most, most),
        batch=chosen.batch or (8 if on_cpu else 128),
        workers=chosen.workers or min(8, os.cpu_count() or 1),  # as the program
        scale=chosen.scale if made else 1,
        max_size=chosen.max_size,
        toy=chosen.toy and made,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 where the aim is missed."""
    chosen = parse(arguments)
    settings = settings_from(chosen)
    load_before = os.getloadavg()[0]
    found = measure(settings, chosen.compare, chosen.folder)
    if chosen.output:
        figures = {
            "settings": asdict(settings),
            "load": (load_before, os.getloadavg()[0]),
            "runs": {name: asdict(times) for name, times in found.items()},
        }
        write_figures(chosen.output, figures)
    return 0 if found["from files"].idle < _AIM else 1


if __name__ == "__main__":
    sys.exit(main())
