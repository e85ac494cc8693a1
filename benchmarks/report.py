"""The table on the terminal: `python -m benchmarks.report FILE.json ...` shows files measured before."""

import sys
from pathlib import Path

from benchmarks.records import Result, ResultFile

_HEADINGS = (
    "engine", "matrix product", "batch", "pages/s", "CPU s", "out tok/s", "in tok/s", "roofline",
    "vision s", "prefill s", "decode s", "host s", "step ms", "slots", "device GB", "RSS GB", "texts",
)  # fmt: skip


def table(file: ResultFile) -> str:
    """All results of a file, widths fitted."""
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
    times = run.phases
    phases = (times.vision, times.prefill, times.decode, times.host) if times else ()
    step = f"{times.decode / times.decode_steps * 1e3:.1f}" if times and times.decode_steps else ""
    device = run.peak_device_bytes
    return (
        *first,
        f"{figures.pages_per_second:.3f}",
        f"{run.cpu_seconds:.1f}",
        f"{figures.output_tokens_per_second:.1f}",
        f"{figures.prompt_tokens_per_second:.1f}",
        f"{figures.roofline:.1%}",
        *([f"{seconds:.2f}" for seconds in phases] or [""] * 4),
        step,
        "" if run.occupancy is None else f"{run.occupancy:.1%}",
        "" if device is None else f"{device / 1e9:.2f}",
        f"{run.peak_rss_bytes / 1e9:.2f}",
        _texts(result),
    )


def _texts(result: Result) -> str:
    differing = result.figures.differing if result.figures else None
    if differing is None:
        return ""
    return "same" if differing == 0 else f"{differing} differ"


def main(names: list[str]) -> None:
    print("\n\n".join(table(ResultFile.read(Path(name))) for name in names))


if __name__ == "__main__":
    main(sys.argv[1:])
