"""Runs the real program with a fake engine, as its own process or in this one."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from mlx_chandra.cli.main import main
from tests.fakes import Script, fake_service

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Row:
    """A line of a results file."""

    path: str
    status: str
    text: str


def environment() -> Mapping[str, str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    return {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}


def command(script: Script, folder: Path, *arguments: str) -> list[str]:
    """The command line of a process with a fake engine of this script, which goes to a file in `folder`."""
    path = folder / "script.json"
    path.write_text(json.dumps(asdict(script)))
    return [sys.executable, "-m", "tests.fakes", str(path), *arguments]


def start(script: Script, folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    return popen(command(script, folder, *arguments))


def popen(command: Sequence[str]) -> "subprocess.Popen[str]":
    """A program that hears Ctrl-C, with its output in pipes."""
    return subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_hear_ctrl_c,
    )


def _hear_ctrl_c() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so do its children, the tests among them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def process(script: Script, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(script, folder, *arguments), env=environment(), capture_output=True, text=True, timeout=60
    )


def here(*arguments: str, script: Script | None = None) -> int:
    """The program in this process: faster, and its exit status all the same."""
    return main(list(arguments), service_factory=lambda options: fake_service(script))


def read(path: Path) -> list[Row]:
    """All rows of a results file; fails where it is not exactly as promised."""
    csv.field_size_limit(1 << 30)
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, strict=True))
    assert rows[0] == ["image_path", "status", "ocr_text"]
    assert all(len(row) == 3 for row in rows)
    found = [Row(*row) for row in rows[1:]]
    assert len({row.path for row in found}) == len(found), "a page has two rows"
    return found


def statuses(path: Path, root: Path) -> dict[str, str]:
    return {os.path.relpath(row.path, root): row.status for row in read(path)}


def make_page(path: Path, number: int = 0, size: tuple[int, int] = (12, 8)) -> Path:
    """A page of its own colour, so that its text is its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (number // 65536, number // 256 % 256, number % 256)).save(path)
    return path
