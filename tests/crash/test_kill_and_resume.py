"""Killed at any moment, a run leaves what --resume goes on with."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from mlx_chandra.errors import UsageError
from mlx_chandra.store.status import statistics
from tests.cli.program import make_page, process, read, start
from tests.documents.pdf_files import make_pdf
from tests.fakes import Answer, Script

PAGES = 120
KILLS = 20
# Every fifth page repeats itself when it is read first, so that kills come between attempts too.
LOOPS = {f"{number:06x}": Answer("<p>half" + "<td></td>" * 9, "repetition") for number in range(0, PAGES, 5)}


def texts_are_whole(pages: Path) -> None:
    """No text file is half: each is what its page says, to the end."""
    for path in pages.rglob("*_ocr.txt"):
        assert path.read_text().endswith("</p>"), path


def pages_read(table: Path) -> int:
    """Pages that are stored as ok, asked as `mlx-chandra status` asks, while a run writes or after a kill."""
    try:
        return statistics(str(table), 0).states.get("ok", 0)
    except UsageError:  # there is no CSV yet
        return 0


def wait_for_progress(running: "subprocess.Popen[str]", table: Path, before: int) -> None:
    end = time.monotonic() + 20
    while pages_read(table) <= before and running.poll() is None and time.monotonic() < end:
        time.sleep(0.005)


@pytest.mark.parametrize("retry", [False, True])
def test_a_run_killed_at_twenty_random_moments_loses_nothing_and_reads_nothing_twice(
    tmp_path: Path, retry: bool
) -> None:
    pages, table = tmp_path / "pages", tmp_path / "r.csv"
    for number in range(PAGES):
        make_page(pages / f"sub{number % 3}" / f"{number:03}.png", number)
    arguments = ["ocr", "--images-dir", str(pages), "-o", str(table)]
    if retry:  # every page has an error row to begin with, and is read again
        failing = Script(
            answers={f"{number:06x}": Answer("<p>half", "length") for number in range(PAGES)}, slots=16
        )
        assert process(failing, tmp_path, *arguments, "--no-text").returncode == 1
        arguments.append("--retry-errors")
    else:
        arguments.append("--resume")
    well = {colour: [answer, Answer("<p>well</p>")] for colour, answer in LOOPS.items()}
    moments, finished = random.Random(2026), [0]
    for kill in range(KILLS):
        running = start(Script(answers=LOOPS, again=well, step=0.01), tmp_path, *arguments)
        if kill % 3:  # the others may be killed before they have begun
            wait_for_progress(running, table, finished[-1])
        time.sleep(moments.random() * 0.15)
        os.kill(running.pid, signal.SIGKILL)
        running.communicate(timeout=20)
        assert running.returncode in (-signal.SIGKILL, 0)
        texts_are_whole(pages)
        finished.append(pages_read(table))
        assert finished[-1] >= finished[-2]
        if retry:
            assert len(read(table)) == PAGES
    assert len(set(finished)) >= 8, "the kills came too early or too late to say anything"
    done = process(Script(answers=LOOPS, again=well, slots=16), tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    rows = read(table)
    assert sorted(row.path for row in rows) == sorted(str(path) for path in pages.rglob("*.png"))
    assert {row.status for row in rows} == {"ok"}
    assert sum(row.text == "<p>well</p>" for row in rows) == len(LOOPS)
    for row in rows:
        assert row.text.endswith("</p>")
        assert Path(row.path).with_name(Path(row.path).stem + "_ocr.txt").read_text() == row.text
    assert sorted(os.listdir(tmp_path)) == ["pages", "r.csv", "r.csv.journal.sqlite", "script.json"]
    assert not list(pages.rglob(".*"))


def test_a_run_over_one_document_that_is_killed_goes_on_with_its_next_pages(tmp_path: Path) -> None:
    make_pdf(tmp_path / "in" / "a.pdf", *[f"{number / 40} 0 0" for number in range(40)])
    table = tmp_path / "r.csv"
    arguments = ["ocr", str(tmp_path / "in"), "-o", str(table), "--resume"]
    finished = [0]
    for _ in range(4):
        running = start(Script(step=0.01), tmp_path, *arguments)
        wait_for_progress(running, table, finished[-1])
        os.kill(running.pid, signal.SIGKILL)
        running.communicate(timeout=20)
        finished.append(pages_read(table))
    assert finished[0] < finished[1] < finished[-1] < 40
    assert process(Script(slots=16), tmp_path, *arguments).returncode == 0
    names = {f"a.pdf#page={number}" for number in range(1, 41)}
    assert {os.path.basename(row.path) for row in read(table)} == names
    texts_are_whole(tmp_path / "in")
    assert len(list((tmp_path / "in").glob("a_p00??_ocr.txt"))) == 40


def test_runs_with_other_settings_that_are_killed_come_to_an_end_with_copies_and_all(tmp_path: Path) -> None:
    pages, table = tmp_path / "pages", tmp_path / "r.csv"
    for number in range(PAGES):
        make_page(pages / f"{number:02}.png", number // 2)  # each is there twice
    arguments = ["ocr", "--images-dir", str(pages), "-o", str(table)]
    old = Script(answers={f"{number:06x}": Answer("<p>old</p>") for number in range(PAGES)}, slots=16)
    assert process(old, tmp_path, *arguments).returncode == 0
    moments, finished = random.Random(2027), [0]

    def read_anew() -> int:
        return sum((pages / f"{n:02}_ocr.txt").read_text() != "<p>old</p>" for n in range(PAGES))

    for kill in range(KILLS // 2):
        running = start(Script(step=0.02), tmp_path, *arguments, "--resume", "--max-tokens", "77")
        end = time.monotonic() + 20
        while kill % 3 and read_anew() <= finished[-1] and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(moments.random() * 0.1)
        os.kill(running.pid, signal.SIGKILL)
        running.communicate(timeout=20)
        texts_are_whole(pages)
        assert len(read(table)) == PAGES  # each has its old row or its new one
        finished.append(read_anew())
    assert finished == sorted(finished)
    assert len(set(finished)) >= 2, "the kills came too early or too late to say anything"
    done = process(Script(slots=16), tmp_path, *arguments, "--resume", "--max-tokens", "77")
    assert done.returncode == 0, done.stderr
    rows = read(table)
    assert len(rows) == PAGES
    assert all("<p>page " in row.text for row in rows)
    again = process(Script(loading=60), tmp_path, *arguments, "--resume", "--max-tokens", "77")
    assert "Nothing to do" in again.stdout  # so no reader was opened


@pytest.mark.parametrize("torn", [b'"/half, a', b'"/page.png",ok,"<p>half a te', b"/x.png,ok,text\r"])
def test_a_torn_last_row_is_completed(tmp_path: Path, torn: bytes) -> None:
    pages, table = tmp_path / "pages", tmp_path / "r.csv"
    for number in range(5):
        make_page(pages / f"{number}.png", number)
    arguments = ["ocr", "--images-dir", str(pages), "-o", str(table)]
    assert process(Script(), tmp_path, *arguments).returncode == 0
    whole = table.read_bytes()
    last = whole.rstrip().rfind(b"\r\n") + 2
    table.write_bytes(whole[:last] + torn)
    assert process(Script(), tmp_path, *arguments, "--resume").returncode == 0
    assert sorted(table.read_bytes().splitlines()) == sorted(whole.splitlines())
