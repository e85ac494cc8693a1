"""Measures a very large collection: `python -m benchmarks.scale [--pages 200000] [--output FILE]`

Runs the program on a manifest of small PNG files, all different, with a fake engine that answers every page
at once. That measures what the program adds to a model: seconds from its start to the first page in the
engine, and memory, for a new run and for one resumed after three quarters of the pages.

Each run is a process of its own. Memory is its largest resident set less that of the same program on ten
pages, which is Python with the libraries it needs.
"""

import argparse
import itertools
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from benchmarks.machine import write_figures

if TYPE_CHECKING:
    from PIL.Image import Image

    from mlx_chandra.engine.responses import GenerationResponse, GeneratorStats, PromptResponse
    from mlx_chandra.processing.processor import PageInputs

SLOTS, ANSWER = 64, 8  # pages at once, tokens of each answer
IN_A_FOLDER = 500  # pages
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Sample:
    """One run of the program.

    Attributes:
        what: Which run.
        first_page: Seconds from the program's start to its first page in the engine; None where it read none.
        seconds: From its start to its end.
        pages: That the engine was given.
        peak: Bytes of its largest resident set.
        beyond: The same less that of a run on ten pages.
    """

    what: str
    first_page: float | None
    seconds: float
    pages: int
    peak: int
    beyond: int


class FakeEngine:
    """A generator that answers each page with a text of its own, all pages in work in one step."""

    def __init__(self, last: int | None) -> None:
        self.slots = SLOTS
        self.first_page: float | None = None
        self.pages = 0
        self._last = last
        self._in_work: list[int] = []

    @property
    def has_work(self) -> bool:
        return bool(self._in_work)

    def insert(
        self, prompts: Sequence[object], max_tokens: object = None, sampling: object = None
    ) -> list[int]:
        if self.first_page is None:
            self.first_page = time.monotonic()
        uids = list(range(self.pages, self.pages + len(prompts)))
        self.pages += len(prompts)
        self._in_work += uids
        if self._last is not None and self.pages >= self._last:
            self._last = None
            os.kill(os.getpid(), signal.SIGINT)
        return uids

    def remove(self, uid: int) -> bool:
        return False

    def next(self) -> "tuple[list[PromptResponse], list[GenerationResponse]]":
        from mlx_chandra.engine.responses import FinishReason, GenerationResponse, PromptResponse

        finished, self._in_work = self._in_work[: self.slots], self._in_work[self.slots :]
        tokens = [
            GenerationResponse(uid, uid, FinishReason.STOP if number == ANSWER else None, number)
            for uid in finished
            for number in range(1, ANSWER + 1)
        ]
        return [PromptResponse(uid, 1000) for uid in finished], tokens

    def stats(self) -> "GeneratorStats":
        from mlx_chandra.engine.responses import GeneratorStats

        return GeneratorStats(0, 0.0, self.pages * ANSWER, 0.0, 0, self.slots, 0, 0, 0)

    def reset(self) -> None:
        """Forget all pages."""
        self._in_work.clear()

    def close(self) -> None:
        """Nothing to close."""


class FakeProcessor:
    """Takes any picture, and gives a page's text of `length` characters for its tokens."""

    def __init__(self, length: int) -> None:
        from mlx_chandra.processing.prompt import ModelFamily

        self.family = ModelFamily.CHANDRA_1
        self._length = length

    def prepare(self, image: "Image", prompt: str, max_size: int | None = None) -> "PageInputs":
        return cast("PageInputs", image.size)

    def decode(self, ids: Sequence[int]) -> str:
        lines = [f"<p>Line {number} of page {ids[0]}</p>" for number in range(self._length // 30)]
        return "\n".join(lines)


def make_pages(folder: Path, count: int) -> Path:
    """Write so many different PNG files, eight pixels each, and return the manifest that names them."""
    manifest = folder / "pages.txt"
    with open(manifest, "w", encoding="utf-8") as names:
        for number in range(count):
            below = folder / "pages" / f"{number // IN_A_FOLDER:04}"
            if number % IN_A_FOLDER == 0:
                below.mkdir(parents=True, exist_ok=True)
            path = below / f"scan-{number:07}.png"
            path.write_bytes(_png(number))
            names.write(f"{path}\n")
    return manifest


def _png(number: int) -> bytes:
    """Return a grey picture of 8 by 1 pixels: the number's bytes."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 1, 8, 0, 0, 0, 0))
    pixels = _chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">Q", number), 1))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def run_program(arguments: Sequence[str], length: int, last: int | None) -> tuple[float, dict[str, float]]:
    """Run the program in a process of its own; return when it was started, and its last line's figures."""
    script = [sys.executable, "-m", "benchmarks.scale", "--run", str(length), str(last or 0), *arguments]
    began = time.monotonic()
    ended = subprocess.run(script, capture_output=True, text=True)
    lines = ended.stdout.splitlines()
    if ended.returncode not in (0, 130) or not lines:
        raise SystemExit(f"The program ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
    return began, json.loads(lines[-1])


def child(length: int, last: int, arguments: Sequence[str]) -> int:
    """Run the program with a fake engine; print when the first page came and the memory as the last line."""
    from mlx_chandra.cli.main import main
    from mlx_chandra.engine.service import Service

    engine = FakeEngine(last or None)
    service = Service(engine, FakeProcessor(length))  # type: ignore[arg-type]
    status = main(["ocr", *arguments], service_factory=lambda options: service)
    found = {"first": engine.first_page, "end": time.monotonic(), "pages": engine.pages, "peak": _peak()}
    print(json.dumps(found))
    return status


def _peak() -> int:
    """Return the bytes of this process's largest resident set so far."""
    if sys.platform == "linux":  # getrusage also counts what the process was before it became this program
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(count: int, length: int, folder: Path) -> list[Sample]:
    began = time.monotonic()
    manifest = make_pages(folder, count)
    print(f"{count:,} pages made in {time.monotonic() - began:.1f} s", flush=True)
    few = folder / "few.txt"
    with open(manifest, encoding="utf-8") as names:
        few.write_text("".join(itertools.islice(names, 10)))
    common = ["--model", "demo", "--no-text", "--workers", "2"]
    _, baseline = run_program(["--manifest", str(few), "-o", str(folder / "few.csv"), *common], length, None)
    samples: list[Sample] = []
    arguments = ["--manifest", str(manifest), "-o", str(folder / "results.csv"), *common]
    for what, options, last in (
        ("all, stopped after three quarters", [], count * 3 // 4),
        ("resumed for the last quarter", ["--resume"], None),
        ("resumed with nothing left", ["--resume"], None),
    ):
        started, found = run_program([*arguments, *options], length, last)
        first = None if found["first"] is None else found["first"] - started
        beyond = found["peak"] - baseline["peak"]
        seconds = found["end"] - started
        samples.append(Sample(what, first, seconds, int(found["pages"]), int(found["peak"]), int(beyond)))
        print(_line(samples[-1]), flush=True)
    return samples


def _line(sample: Sample) -> str:
    first = "none" if sample.first_page is None else f"{sample.first_page:.2f} s"
    return (
        f"{sample.what}: first page after {first}; {sample.pages:,} pages in {sample.seconds:.1f} s, "
        f"memory {sample.peak / MEGABYTE:.0f} MB, {sample.beyond / MEGABYTE:.0f} MB more than for ten pages"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--run"]:
        return child(int(given[1]), int(given[2]), given[3:])
    parser = argparse.ArgumentParser(description="A very large collection on one machine.")
    parser.add_argument("--pages", type=int, default=200_000)
    parser.add_argument("--text-length", type=int, default=2000, help="characters of each page's text")
    parser.add_argument("--folder", type=Path, help="where pages and results go for a while")
    parser.add_argument("--output", type=Path, help="a JSON file for what was measured")
    chosen = parser.parse_args(given)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        samples = measure(chosen.pages, chosen.text_length, Path(folder))
    if chosen.output:
        figures = {
            "pages": chosen.pages,
            "text_length": chosen.text_length,
            "slots": SLOTS,
            "samples": [asdict(sample) for sample in samples],
        }
        write_figures(chosen.output, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
