"""Killed at any moment, a run leaves documents that --resume completes, and never half a file."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

from tests.cli.program import process, read, start
from tests.crash.test_disk_full import small_disk
from tests.documents.pdf_files import make_pdf
from tests.fakes import Answer, Script

DOCUMENTS, PAGES, KILLS = 20, 5, 10
FIGURE = '<div data-bbox="0 0 400 400" data-label="Figure"><img alt="f"/></div>'


def colour(document: int, page: int) -> tuple[float, float, float]:
    return (document / 51, page / 51, 0.2)  # 5, 10, 15, ... of 255


def make_documents(folder: Path) -> Script:
    """The PDFs, and a reader that says of each page which one it is."""
    answers = {}
    for document in range(DOCUMENTS):
        colours = [colour(document, page) for page in range(PAGES)]
        make_pdf(folder / f"d{document}.pdf", *[" ".join(map(str, c)) for c in colours])
        for page in range(PAGES):
            key = f"{document * 5:02x}{page * 5:02x}33"
            text = f'<div data-bbox="0 0 9 9" data-label="Text"><p>d{document} p{page} end</p></div>{FIGURE}'
            answers[key] = Answer(text)
    return Script(answers=answers, slots=4, step=0.002)


def expected(document: int) -> list[str]:
    return [f"d{document} p{page} end" for page in range(PAGES)]


def files_are_whole(out: Path) -> int:
    """Fails for half a file; returns how many documents have their whole metadata, which comes last."""
    for path in out.glob("*/*.md"):
        lines = [line for line in path.read_text().splitlines() if line.startswith("d")]
        assert lines == expected(int(path.stem[1:]))
    for path in out.glob("*/*.json"):
        found = json.loads(path.read_text())
        assert found["source"].endswith(f"/{path.parent.name}.pdf")
        assert found.get("complete") is False or found["num_pages"] == PAGES
    for path in out.glob("*/*.webp"):
        assert path.read_bytes()[:4] == b"RIFF"
        assert int.from_bytes(path.read_bytes()[4:8], "little") + 8 == path.stat().st_size
    return written(out)


def written(out: Path) -> int:
    return sum(b'"complete": true' in path.read_bytes() for path in out.glob("*/*_metadata.json"))


def all_is_there(out: Path) -> None:
    assert files_are_whole(out) == DOCUMENTS
    for document in range(DOCUMENTS):
        folder = out / f"d{document}"
        found = json.loads((folder / f"d{document}_metadata.json").read_text())
        assert [page["page"] for page in found["pages"]] == [1, 2, 3, 4, 5]
        assert all(page["token_count"] and page["page_box"] for page in found["pages"])
        assert found["total_images"] == len(list(folder.glob("*.webp"))) == PAGES
        assert set(os.listdir(folder)) == {*found["files"], f"d{document}_metadata.json"}
    assert set(os.listdir(out)) == {f"d{number}" for number in range(DOCUMENTS)}


def test_a_run_killed_at_ten_random_moments_leaves_documents_that_become_whole(tmp_path: Path) -> None:
    script, out, table = make_documents(tmp_path / "in"), tmp_path / "out", tmp_path / "r.csv"
    arguments = ["ocr", str(tmp_path / "in"), "-o", str(table), "--no-text", "--resume"]
    arguments += ["--output-dir", str(out), "--format", "markdown,json"]
    moments, seen = random.Random(2026), [0]
    for kill in range(KILLS):
        running = start(script, tmp_path, *arguments)
        end = time.monotonic() + 20
        while kill % 3 and written(out) <= seen[-1] and running.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(moments.random() * (0.05 if kill % 3 else 1.0))  # the others may not have begun
        os.kill(running.pid, signal.SIGKILL)
        running.communicate(timeout=20)
        seen.append(files_are_whole(out))
    assert len(set(seen)) >= 4, "the kills came too early or too late to say anything"
    done = process(script, tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert len(read(table)) == DOCUMENTS * PAGES
    all_is_there(out)


def test_a_full_disk_keeps_whole_files_and_the_run_goes_on_later(tmp_path: Path) -> None:
    script, disk = make_documents(tmp_path / "in"), tmp_path / "disk"
    with small_disk(disk, "100k"):
        arguments = ["ocr", str(tmp_path / "in"), "-o", str(tmp_path / "r.csv"), "--no-text", "--resume"]
        arguments += ["--output-dir", str(disk / "out"), "--format", "markdown,json"]
        done = process(script, tmp_path, *arguments)
        assert done.returncode == 1
        assert "is full" in done.stderr
        assert "Traceback" not in done.stderr
        assert files_are_whole(disk / "out") < DOCUMENTS
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert process(script, tmp_path, *arguments).returncode == 0
        all_is_there(disk / "out")


def test_ctrl_c_leaves_documents_to_the_next_run_and_ends_cleanly(tmp_path: Path) -> None:
    script, out, table = make_documents(tmp_path / "in"), tmp_path / "out", tmp_path / "r.csv"
    arguments = ["ocr", str(tmp_path / "in"), "-o", str(table), "--no-text", "--resume"]
    arguments += ["--output-dir", str(out), "--format", "markdown,json"]
    running = start(script, tmp_path, *arguments)
    end = time.monotonic() + 20
    while not written(out) and time.monotonic() < end:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    said, complained = running.communicate(timeout=20)
    assert running.returncode == 130, complained
    assert "--resume" in said
    assert "Traceback" not in complained
    assert 0 < files_are_whole(out) < DOCUMENTS
    assert process(script, tmp_path, *arguments).returncode == 0
    all_is_there(out)
