"""A full disk is said, and what was written before stays readable and is gone on with."""

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import command, environment, make_page, process, read
from tests.fakes import Answer, Script


def long_answers(count: int) -> Script:
    text = "<p>" + "".join(f"many words {line} on this page, " for line in range(340)) + "</p>"
    return Script(answers={f"{number:06x}": Answer(text) for number in range(count)}, slots=2)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A disk of this size at `folder`; skips where this user may not mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if not sys.platform.startswith("linux") or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this user may not mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("texts_there_too", [False, True])
def test_a_full_disk_ends_the_run_with_everything_readable(tmp_path: Path, texts_there_too: bool) -> None:
    pages, disk = tmp_path / "pages", tmp_path / "disk"
    for number in range(20):
        make_page(pages / f"{number:02}.png", number)
    script = long_answers(20)
    with small_disk(disk, "320k"):
        arguments = ["ocr", "--images-dir", str(pages), "-o", str(disk / "r.csv"), "--resume"]
        arguments += ["--text-dir", str(disk / "texts")] if texts_there_too else ["--no-text"]
        done = process(script, tmp_path, *arguments)
        assert done.returncode == 1
        assert "is full" in done.stderr
        assert "--resume" in done.stderr
        assert "Traceback" not in done.stderr
        rows = read(disk / "r.csv")
        assert 0 < len(rows) < 20
        for path in disk.rglob("*_ocr.txt"):
            assert path.read_text().endswith("</p>")
        subprocess.run(["mount", "-o", "remount,size=2m", str(disk)], check=True)
        assert process(script, tmp_path, *arguments).returncode == 0
        assert len(read(disk / "r.csv")) == 20


def test_a_limit_on_file_sizes_is_a_full_disk_too(tmp_path: Path) -> None:
    pages, table = tmp_path / "pages", tmp_path / "r.csv"
    for number in range(20):
        make_page(pages / f"{number:02}.png", number)
    script = long_answers(20)
    arguments = ["ocr", "--images-dir", str(pages), "-o", str(table), "--no-text", "--resume"]
    done = subprocess.run(
        command(script, tmp_path, *arguments),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000)),
    )
    assert done.returncode == 1
    assert "is full" in done.stderr
    assert 0 < len(read(table)) < 20
    assert os.stat(table).st_size <= 150_000
    assert process(script, tmp_path, *arguments).returncode == 0
    assert len(read(table)) == 20
