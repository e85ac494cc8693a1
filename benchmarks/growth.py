"""Does memory grow over a long run? `python -m benchmarks.growth [--pages 2000] [--output FILE]`

Reads small pages of many shapes with the demo checkpoint, one after the other through one engine, and notes
the device's memory and the process's at every tenth of the run. What counts is what comes after the first
tenth: before, caches fill and libraries start.

The first pages are the largest, one for each slot, so that the most a pass ever needs is needed at once.
Without them the process grows for long: ever more pages happen to end and begin together, and so ever longer
prompts run at once.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.machine import write_figures

SLOTS, ANSWER = 16, 24  # pages at once, tokens of each answer
ROWS, COLUMNS = range(2, 12), range(2, 14)  # of 32 pixels
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Sample:
    """Bytes after so many pages: arrays in use, the most in use so far, MLX's kept buffers, and the process's
    memory."""

    pages: int
    seconds: float
    active: int
    peak: int
    kept: int
    rss: int


def pictures(count: int) -> Iterator[Image.Image]:
    """Grey noise: the largest shape for each slot, then 120 shapes in turn."""
    random = np.random.default_rng(0)
    for number in range(count):
        rows, columns = ROWS[number % len(ROWS)], COLUMNS[number // len(ROWS) % len(COLUMNS)]
        if number < SLOTS:
            rows, columns = ROWS[-1], COLUMNS[-1]
        yield Image.fromarray(random.integers(0, 256, (32 * rows, 32 * columns), dtype=np.uint8))


def measure(count: int) -> list[Sample]:
    import mlx.core as mx
    import psutil

    from mlx_chandra.engine.batch import load
    from mlx_chandra.engine.generator import BatchGenerator

    model, processor = load("demo")
    generator = BatchGenerator(model, processor, completion_batch_size=SLOTS, stop_on_repetition=False)
    process, began = psutil.Process(), time.perf_counter()
    waiting, done = pictures(count), 0
    samples: list[Sample] = []
    more = True
    while more or generator.has_work:
        while more and generator.waiting < SLOTS:
            picture = next(waiting, None)
            more = picture is not None
            if picture is not None:
                generator.insert([processor.prepare(picture, "OCR this image to HTML.")], ANSWER)
        done += sum(response.finish_reason is not None for response in generator.next()[1])
        if done >= (len(samples) + 1) * count // 10:
            samples.append(
                Sample(
                    done,
                    time.perf_counter() - began,
                    mx.get_active_memory(),
                    mx.get_peak_memory(),
                    mx.get_cache_memory(),
                    process.memory_info().rss,
                )
            )
            print(_line(samples[-1]), flush=True)
    return samples


def _line(sample: Sample) -> str:
    return (
        f"{sample.pages:6} pages {sample.seconds:7.1f} s   active {sample.active / MEGABYTE:7.1f} MB, "
        f"at most {sample.peak / MEGABYTE:7.1f}   kept {sample.kept / MEGABYTE:7.1f} MB   "
        f"process {sample.rss / MEGABYTE:7.1f} MB"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Memory over a long run.")
    parser.add_argument("--pages", type=int, default=2000)
    parser.add_argument("--output", type=Path, help="a JSON file for the samples")
    chosen = parser.parse_args(arguments)
    samples = measure(chosen.pages)
    first, last = samples[0], samples[-1]
    print(
        f"From page {first.pages} to {last.pages}: active {(last.active - first.active) / MEGABYTE:+.1f} MB, "
        f"process {(last.rss - first.rss) / MEGABYTE:+.1f} MB"
    )
    if chosen.output:
        figures = {
            "slots": SLOTS,
            "samples": [asdict(sample) for sample in samples],
        }
        write_figures(chosen.output, figures)


if __name__ == "__main__":
    main()
