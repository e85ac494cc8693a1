"""Pictures of measured runs: `python -m benchmarks.plot RESULT.json ... --output throughput.png`.

One panel for each file with several engines (pages per second by engine), and one for each with several
batch sizes of our own engine (pages per second by batch size).
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.engines.base import EngineName
from benchmarks.records import Result, ResultFile

OURS, OTHERS = "#1f6feb", "#9aa4b2"


def draw(files: list[ResultFile], output: Path) -> None:
    """Write one PNG with all panels.

    Raises:
        ValueError: No file has anything to draw.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    panels: list[tuple[Any, ResultFile]] = []
    for file in files:
        if len(_by_engine(file)) > 1:
            panels.append((_engines, file))
        if len(_sweep(file)) > 1:
            panels.append((_batches, file))
    if not panels:
        raise ValueError("none of the files holds several engines or batch sizes")
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(8, 3.4 * len(panels)), squeeze=False, layout="constrained"
    )
    for axis, (paint, file) in zip(axes[:, 0], panels, strict=True):
        paint(axis, file)
    figure.savefig(output, dpi=130, metadata={"Software": None})
    pyplot.close(figure)


def _by_engine(file: ResultFile) -> list[Result]:
    """Each engine and matrix product at its largest batch."""
    best: dict[tuple[EngineName, str], Result] = {}
    for result in file.results:
        key = (result.run.order.engine, result.run.blas)
        if result.figures and (key not in best or result.run.order.batch > best[key].run.order.batch):
            best[key] = result
    return list(best.values())


def _sweep(file: ResultFile) -> list[Result]:
    """Our own engine by batch size, with its usual matrix product."""
    ours = [
        result
        for result in file.results
        if result.run.order.engine is EngineName.OURS and result.figures and not result.run.order.stock_blas
    ]
    return sorted(ours, key=lambda result: result.run.order.batch)


def _engines(axis: Any, file: ResultFile) -> None:
    results = _by_engine(file)[::-1]
    names = [f"{result.run.order.engine.value}\n{_note(result)}" for result in results]
    speeds = [result.figures.pages_per_second for result in results if result.figures]
    ours = [result.run.order.engine is EngineName.OURS for result in results]
    bars = axis.barh(names, speeds, color=[OURS if own else OTHERS for own in ours])
    axis.bar_label(bars, fmt=" %.3g")
    axis.set_xlabel("pages per second")
    axis.set_title(_title(file), fontsize=10)
    axis.tick_params(axis="y", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def _note(result: Result) -> str:
    differing = result.figures.differing if result.figures else None
    wrong = f", {differing} texts differ" if differing else ""
    product = "" if result.run.blas.startswith("none") else f"{result.run.blas}, "
    return f"{product}batch {result.run.order.batch}{wrong}"


def _batches(axis: Any, file: ResultFile) -> None:
    results = _sweep(file)
    sizes = [result.run.order.batch for result in results]
    axis.plot(
        sizes,
        [result.figures.pages_per_second for result in results if result.figures],
        color=OURS,
        marker="o",
    )
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.set_ylim(bottom=0)
    axis.margins(y=0.1)
    axis.set_xlabel("pages decoded at once")
    axis.set_ylabel("pages per second")
    axis.set_title(f"mlx-chandra, {_title(file)}", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def _title(file: ResultFile) -> str:
    order = file.results[0].run.order
    where = file.machine.accelerator or f"{file.machine.cores} CPU cores"
    threads = f", {order.threads} thread{'s' * (order.threads > 1)}" if order.threads else ""
    return f"{order.workload.value}, {len(file.page_names)} pages, {order.dtype}, {where}{threads}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "throughput.png")
    chosen = parser.parse_args()
    draw([ResultFile.read(path) for path in chosen.files], chosen.output)
    print(f"Drawn: {chosen.output}")


if __name__ == "__main__":
    main()
