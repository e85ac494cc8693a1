"""Prints the table of measured runs: `python -m benchmarks.report FILE.json ...`"""

import sys
from pathlib import Path

from benchmarks.records import Result, ResultFile

_HEADINGS = (
    "engine", "matrix product", "batch", "pages/s", "CPU s", "out tok/s", "in tok/s", "roofline", "slots",
    "device GB", "RSS GB", "texts",
)  # fmt: skip


def table(file: ResultFile) -> str:
    """Return all results of a file in columns, with the errors of engines that failed below."""
    rows = [_HEADINGS, *(_row(result) for result in file.results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    failed = [
        f"{result.run.order.engine.value} failed: {result.run.error}"
        for result in file.results
        if result.run.error
    ]
    return "\n".join([_title(file), *(line.rstrip() for line in lines), *failed])


def _title(file: ResultFile) -> str:
    order = file.results[0].run.order
    machine = file.machine.accelerator or f"{file.machine.cores} cores, {file.machine.processor}"
    toy = " (toy size)" if order.toy else ""
    return (
        f"{order.workload.value}{toy}: {len(file.page_names)} pages, {sum(file.prompt_tokens)} prompt "
        f"tokens, {order.dtype} on {machine}; ceilings {file.ceilings.flops / 1e12:.3g} TFLOP/s, "
        f"{file.ceilings.bandwidth / 1e9:.4g} GB/s; commit {file.commit}"
    )


def _row(result: Result) -> tuple[str, ...]:
    run, figures = result.run, result.figures
    first = (run.order.engine.value, run.blas, str(run.order.batch))
    if figures is None:
        return (*first, "failed", *[""] * (len(_HEADINGS) - 4))
    return (
        *first,
        f"{figures.pages_per_second:.3f}",
        f"{run.cpu_seconds:.1f}",
        f"{figures.output_tokens_per_second:.1f}",
        f"{figures.prompt_tokens_per_second:.1f}",
        f"{figures.roofline:.1%}",
        "" if run.occupancy is None else f"{run.occupancy:.1%}",
        "" if run.peak_device_bytes is None else f"{run.peak_device_bytes / 1e9:.2f}",
        f"{run.peak_rss_bytes / 1e9:.2f}",
        _texts(figures.differing),
    )


def _texts(differing: int | None) -> str:
    if differing is None:
        return ""
    return f"{differing} differ" if differing else "same"


def main(names: list[str]) -> None:
    print("\n\n".join(table(ResultFile.read(Path(name))) for name in names))


if __name__ == "__main__":
    main(sys.argv[1:])
