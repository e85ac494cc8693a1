"""Ctrl-C and SIGTERM when the main thread is somewhere else than in the reading of pages."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.program import command, environment, make_page, popen, read, start
from tests.documents.pdf_files import make_pdf
from tests.fakes import Answer, Script

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@BOTH
def test_waiting_for_a_list_on_standard_input_is_stopped_with_nothing_begun(
    tmp_path: Path, number: signal.Signals
) -> None:
    arguments = ["ocr", "--manifest", "-", "-o", str(tmp_path / "r.csv")]
    ours, its = os.pipe()  # our end stays open: the list doesn't come to its end
    running = subprocess.Popen(
        command(Script(), tmp_path, *arguments),
        env=environment(),
        stdin=ours,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(1.5)  # for Python to start; there is no sign of its waiting
    assert running.poll() is None
    running.send_signal(number)
    _, complained = running.communicate(timeout=10)
    os.close(its)
    os.close(ours)
    assert running.returncode == 130
    assert complained.strip() == "mlx-chandra: stopped."
    assert not (tmp_path / "r.csv").exists()


@pytest.mark.parametrize("gently", [False, True])
def test_the_second_signal_ends_a_program_that_hears_nothing(gently: bool) -> None:
    deaf = (
        "import hashlib\n"
        "from mlx_chandra.cli.stopping import Stopping\n"
        "stopping = Stopping()\n"
        "with stopping.on_signals():\n"
        f"    {gently} and stopping.gently()\n"
        "    print('ready', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 1_000_000_000)\n"  # minutes, and Python waits for it
    )
    running = popen([sys.executable, "-c", deaf])
    assert running.stdout is not None
    running.stdout.readline()
    time.sleep(0.3)
    running.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert running.poll() is None
    began = time.monotonic()
    running.send_signal(signal.SIGINT)
    _, complained = running.communicate(timeout=20)
    assert running.returncode == 130
    assert time.monotonic() - began < 2
    assert ("Once more stops at once." in complained) is gently


@BOTH
def test_two_signals_one_after_the_other_leave_whole_rows_and_texts(
    tmp_path: Path, number: signal.Signals
) -> None:
    pages, table = tmp_path / "pages", tmp_path / "r.csv"
    for page in range(40):
        make_page(pages / f"{page:02}.png", page)
    circles = {f"{page:06x}": Answer("<p>x" + "<td></td>" * 30, "repetition") for page in range(0, 40, 3)}
    script = Script(answers=circles, step=0.01)
    arguments = ["ocr", str(pages), "-o", str(table), "--resume"]
    running = start(script, tmp_path, *arguments)
    end = time.monotonic() + 20
    while (not table.exists() or table.read_bytes().count(b",ok,") < 5) and time.monotonic() < end:
        time.sleep(0.01)
    running.send_signal(number)
    running.send_signal(number)
    running.communicate(timeout=10)
    assert running.returncode == 130
    kept = read(table)
    assert 5 <= len(kept) < 40
    for row in kept:
        assert Path(row.path).with_name(Path(row.path).stem + "_ocr.txt").read_text() == row.text
    rest = start(Script(slots=16), tmp_path, *arguments)
    rest.communicate(timeout=30)
    assert rest.returncode == 0
    assert len(read(table)) == 40


def test_a_terminal_that_is_gone_does_not_keep_the_second_signal_from_being_heard(tmp_path: Path) -> None:
    for page in range(20):
        make_page(tmp_path / "pages" / f"{page:02}.png", page)
    running = start(Script(step=5.0), tmp_path, "ocr", str(tmp_path / "pages"), "-o", str(tmp_path / "r.csv"))
    assert running.stderr is not None
    running.stderr.close()
    while not (tmp_path / "r.csv").exists():
        time.sleep(0.02)
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert running.poll() is None
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=2) == 130


@pytest.mark.parametrize(("signals", "limit"), [(1, 1.0), (2, 60.0)])
def test_a_stopped_program_ends_though_a_page_is_drawn_without_end(
    tmp_path: Path, signals: int, limit: float
) -> None:
    path = make_pdf(tmp_path / "a.pdf", "1 0 0")
    drawing = (
        "import sys, threading, time\n"
        "from mlx_chandra.cli import stopping as module\n"
        "from mlx_chandra.documents import pdf\n"
        "from mlx_chandra.documents.image_files import open_regular\n"
        "module.SECONDS_TO_LEAVE = float(sys.argv[2])\n"
        "opened = pdf.PdfFile(open_regular(sys.argv[1]), None, 10**9)\n"
        "def without_end():\n"
        "    with pdf._PDFIUM:\n"
        "        time.sleep(600)\n"
        "stopping = module.Stopping()\n"
        "with stopping.on_signals():\n"
        "    stopping.gently()\n"
        "    threading.Thread(target=without_end, daemon=True).start()\n"
        "    print('ready', flush=True)\n"
        "    stopping.event.wait()\n"
        "    print('the summary')\n"
        "raise SystemExit(130)\n"
    )
    running = popen([sys.executable, "-c", drawing, str(path), str(limit)])
    assert running.stdout is not None
    running.stdout.readline()
    for _ in range(signals):
        running.send_signal(signal.SIGINT)
        time.sleep(0.5)
    said, complained = running.communicate(timeout=30)
    assert (running.returncode, said) == (130, "the summary\n")
    assert complained.strip().startswith("Stopping:")
    assert "Traceback" not in complained


def test_a_program_that_ends_with_an_error_does_not_wait_for_a_page_that_is_drawn_without_end(
    tmp_path: Path,
) -> None:
    path = make_pdf(tmp_path / "a.pdf", "1 0 0")
    drawing = (
        "import sys, threading, time\n"
        "from mlx_chandra.documents import pdf\n"
        "from mlx_chandra.documents.image_files import open_regular\n"
        "pdf.SECONDS_TO_LEAVE = 0.3\n"
        "opened = pdf.PdfFile(open_regular(sys.argv[1]), None, 10**9)\n"
        "threading.Thread(target=lambda: pdf._PDFIUM.acquire() and time.sleep(600), daemon=True).start()\n"
        "print('the summary')\n"
        "raise SystemExit(1)\n"
    )
    running = popen([sys.executable, "-c", drawing, str(path)])
    assert running.communicate(timeout=30) == ("the summary\n", "")
    assert running.returncode == 1
