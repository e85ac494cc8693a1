"""Draws measured runs: `python -m benchmarks.plot RESULT.json ... --output throughput.png`.

One chart for each set of pages that several engines read (pages per second by engine), and one for each
workload with several batch sizes of our own engine (pages per second by batch size). Runs of one chart may be
in several files: small batches are measured with few pages, and a slow engine may have its own file.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.engines.base import EngineName
from benchmarks.records import Result, ResultFile

OURS, OTHERS = "#1f6feb", "#9aa4b2"


def draw(files: list[ResultFile], output: Path) -> None:
    """Write one PNG with all charts.

    Raises:
        ValueError: No file has anything to draw.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    sets: dict[str, list[Result]] = {}
    for file in files:
        sets.setdefault(_title(file), []).extend(file.results)
    charts: list[tuple[Any, Any]] = [
        (partial(_engines, title=title), best)
        for title, results in sets.items()
        if len(best := _best(results)) > 1
    ]
    charts += [(_batches, points) for points in batch_points(files) if len(points) > 1]
    if not charts:
        raise ValueError("none of the files holds several engines or batch sizes")
    figure, axes = pyplot.subplots(
        len(charts), 1, figsize=(8, 3.4 * len(charts)), squeeze=False, layout="constrained"
    )
    for axis, (paint, shown) in zip(axes[:, 0], charts, strict=True):
        paint(axis, shown)
    figure.savefig(output, dpi=130, metadata={"Software": None})
    pyplot.close(figure)


def _best(results: Sequence[Result]) -> list[Result]:
    """Return each engine's run at its largest batch."""
    best: dict[EngineName, Result] = {}
    for result in results:
        key = result.run.order.engine
        if result.figures and (key not in best or result.run.order.batch > best[key].run.order.batch):
            best[key] = result
    return list(best.values())


@dataclass(frozen=True)
class BatchPoint:
    """Our own engine at one batch size: pages per second, number of pages, workload and machine."""

    batch: int
    speed: float
    pages: int
    where: str


def batch_points(files: Sequence[ResultFile]) -> list[list[BatchPoint]]:
    """Return the points of each workload and machine by batch size; of equal ones, that of more pages."""
    found: dict[str, dict[int, BatchPoint]] = {}
    for file in files:
        for result in file.results:
            order = result.run.order
            if order.engine is not EngineName.OURS or not result.figures:
                continue
            pages, where = len(file.page_names), _where(file)
            point = BatchPoint(order.batch, result.figures.pages_per_second, pages, where)
            points = found.setdefault(where, {})
            if order.batch not in points or points[order.batch].pages < pages:
                points[order.batch] = point
    return [sorted(points.values(), key=lambda point: point.batch) for points in found.values()]


def _engines(axis: Any, results: Sequence[Result], title: str) -> None:
    results = results[::-1]
    names = [f"{result.run.order.engine.value}\n{_note(result)}" for result in results]
    speeds = [result.figures.pages_per_second for result in results if result.figures]
    ours = [result.run.order.engine is EngineName.OURS for result in results]
    bars = axis.barh(names, speeds, color=[OURS if own else OTHERS for own in ours])
    axis.bar_label(bars, fmt=" %.3g")
    axis.set_xlabel("pages per second")
    axis.set_title(title, fontsize=10)
    axis.tick_params(axis="y", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def _note(result: Result) -> str:
    differing = result.figures.differing if result.figures else None
    wrong = f", {differing} texts differ" if differing else ""
    product = "" if result.run.blas.startswith("none") else f"{result.run.blas}, "
    return f"{product}batch {result.run.order.batch}{wrong}"


def _batches(axis: Any, points: Sequence[BatchPoint]) -> None:
    sizes = [point.batch for point in points]
    axis.plot(sizes, [point.speed for point in points], color=OURS, marker="o")
    for point in points:
        axis.annotate(
            f"{point.speed:.3g}",
            (point.batch, point.speed),
            (0, 6),
            textcoords="offset points",
            fontsize=7,
            ha="center",
        )
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes, [f"{point.batch}\n{point.pages} pages" for point in points], fontsize=7)
    axis.set_ylim(bottom=0)
    axis.margins(y=0.1)
    axis.set_xlabel("pages decoded at once, and pages read")
    axis.set_ylabel("pages per second")
    axis.set_title(f"mlx-chandra, {points[0].where}", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def _title(file: ResultFile) -> str:
    return f"{len(file.page_names)} pages of {_where(file)}"


def _where(file: ResultFile) -> str:
    order = file.results[0].run.order
    machine = file.machine.accelerator or f"{file.machine.cores} CPU cores"
    threads = f", {order.threads} thread{'s' * (order.threads > 1)}" if order.threads else ""
    return f"{order.workload.value}, {order.dtype}, {machine}{threads}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "throughput.png")
    chosen = parser.parse_args()
    draw([ResultFile.read(path) for path in chosen.files], chosen.output)
    print(f"Drawn: {chosen.output}")


if __name__ == "__main__":
    main()
