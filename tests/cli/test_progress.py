"""What people see while a run goes on, and at its end."""

import io
import os
import pty
import subprocess
from pathlib import Path

import pytest

from mlx_chandra.cli.progress import (
    Bar,
    BatchLines,
    PlainLines,
    duration,
    observer_for,
    printable,
    summary_line,
)
from mlx_chandra.engine.responses import GeneratorStats
from mlx_chandra.keeper import Endings, Work
from mlx_chandra.pipeline import Snapshot, Summary
from tests.cli.program import command, environment, make_page
from tests.fakes import Script


def snapshot(
    pages: int,
    seconds: float,
    total: int | None = 100,
    failed: int = 0,
    tokens: int = 0,
    endings: Endings | None = None,
) -> Snapshot:
    stats = GeneratorStats(
        prompt_tokens=pages * 10,
        prompt_time=0.0,
        generation_tokens=tokens,
        generation_time=0.0,
        steps=0,
        slots=8,
        active_slots=5,
        waiting=2,
        peak_memory=0,
    )
    work = Work(pages, pages * 10, tokens)
    return Snapshot(pages - failed, failed, total, seconds, stats, endings or Endings(), work)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_shows_pages_tokens_per_second_and_the_time_left() -> None:
    stream = Terminal()
    bar = Bar(stream)
    bar.update(snapshot(0, 0.1, total=None))
    bar.update(snapshot(25, 10.0, tokens=5000, failed=3))
    bar.close()
    last = stream.getvalue().rstrip().split("\r")[-1]
    assert " 25%" in last
    assert "25/100 pages" in last
    assert "2.5 pages/s" in last
    assert "500 tokens/s, 3 failed, 29.9 s left" in last


def test_lines_come_every_few_seconds_and_say_what_the_bar_says() -> None:
    stream = io.StringIO()
    lines = PlainLines(stream)
    for second in range(12):
        lines.update(snapshot(second * 5, float(second), tokens=second * 1000, failed=min(second, 2)))
    assert stream.getvalue().splitlines() == [
        "25 of 100 pages, 5.0 pages/s, 1,000 tokens/s (and 50 read), 2 failed, 15.0 s left",
        "50 of 100 pages, 5.0 pages/s, 1,000 tokens/s (and 50 read), 2 failed, 10.0 s left",
    ]


def test_while_the_first_pages_are_read_the_line_says_so() -> None:
    stream = io.StringIO()
    PlainLines(stream).update(snapshot(0, 5.0))
    assert stream.getvalue() == "0 of 100 pages, 0.0 pages/s, reading pages\n"
    terminal = Terminal()
    bar = Bar(terminal)
    bar.update(snapshot(0, 5.0))
    bar.close()
    assert "reading pages" in terminal.getvalue()


def test_lines_do_without_the_total_while_it_is_not_known() -> None:
    stream = io.StringIO()
    PlainLines(stream).update(snapshot(10, 5.0, total=None))
    assert stream.getvalue() == "10 pages, 2.0 pages/s, 0 tokens/s (and 20 read)\n"


def test_a_batch_line_counts_what_came_since_the_last_one() -> None:
    stream = io.StringIO()
    lines = BatchLines(stream)
    lines.update(snapshot(3, 1.0, tokens=100))
    lines.update(snapshot(8, 2.0, tokens=1000))
    lines.update(snapshot(10, 3.0, tokens=1500, failed=1, endings=Endings(truncated=1, retried=2, mended=1)))
    lines.close()
    lines.close()
    assert stream.getvalue().splitlines() == [
        "8 of 100 pages: 80 prompt and 1,000 generated tokens, 500 tokens/s, 5 of 8 slots in use, 2 waiting, "
        "memory 0.00 GB, 22.9 s left",
        "10 of 100 pages, 1 failed (1 truncated), 2 read more than once: 20 prompt and 500 generated "
        "tokens, 500 tokens/s, 5 of 8 slots in use, 2 waiting, memory 0.00 GB, 26.9 s left",
    ]


def test_a_terminal_gets_a_bar_and_a_file_gets_lines() -> None:
    with observer_for(False, Terminal()) as bar, observer_for(False, io.StringIO()) as lines:
        assert isinstance(bar, Bar)
        assert isinstance(lines, PlainLines)
    with observer_for(True, Terminal()) as batches:
        assert isinstance(batches, BatchLines)


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_warnings_are_shown(stream: io.StringIO) -> None:
    with observer_for(False, stream) as observer:
        observer.update(snapshot(1, 1.0))
        observer.warn("there is no room")
    assert "Warning: there is no room\n" in stream.getvalue()


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        (
            Summary(18, 2, 0, 0, 10.0, False),
            "18 pages ok, 2 failed in 10.0 s (2.0 pages/s).\n"
            "Failed pages: mlx-chandra status /here/results.csv --failed\n",
        ),
        (Summary(1, 0, 1, 0, 10.0, False), "1 page ok, 0 failed in 10.0 s (0.1 pages/s); 1 was done before."),
        (Summary(0, 0, 1, 0, 0.0, False), "Nothing to do: the one page is in the results already."),
        (
            Summary(4, 0, 0, 0, 10.0, False, work=Work(4, 5000, 2000)),
            "Tokens: 5,000 read, 2,000 written (200 tokens/s), 500 a page.\n",
        ),
        (
            Summary(20, 0, 5, 0, 10.0, False),
            "20 pages ok, 0 failed in 10.0 s (2.0 pages/s); 5 were done before.",
        ),
        (
            Summary(18, 5, 0, 0, 10.0, False, endings=Endings(1, 1, 2, 1, retried=3, mended=1)),
            "18 pages ok, 5 failed (1 empty, 1 truncated, 2 repetition, 1 other) in 10.0 s (2.3 pages/s). "
            "3 pages were read more than once, 1 of them ok in the end.",
        ),
        (
            Summary(18, 1, 0, 0, 10.0, False, endings=Endings(error=1, retried=1, mended=1)),
            "18 pages ok, 1 failed in 10.0 s (1.9 pages/s). 1 page was read more than once, 1 of them ok",
        ),
        (Summary(0, 0, 7, 0, 0.0, False), "Nothing to do: all 7 pages are in the results already."),
        (Summary(3, 0, 0, 0, 1.0, True), "run again with --resume"),
        (Summary(3, 0, 0, 0, 1.0, False, 1), "The files of 1 document were written."),
        (Summary(3, 0, 0, 0, 1.0, False, 2000, 3), "Those of 3 documents are missing."),
        (Summary(3, 0, 0, 2, 1.0, False), "2 text files could not be written."),
    ],
)
def test_the_summary_says_how_it_ended_and_where_the_results_are(summary: Summary, said: str) -> None:
    line = summary_line(summary, "/here/results.csv")
    assert said in line
    assert line.endswith("\nResults: /here/results.csv")


def test_durations_and_odd_paths_are_readable() -> None:
    assert [duration(s) for s in (1.25, 59.9, 65, 3661)] == ["1.2 s", "59.9 s", "1 min 05 s", "1 h 01 min"]
    assert printable("a\nb\udcff\x1b[31m") == "a\\nb\\udcff\\x1b[31m"


def test_a_terminal_that_gives_no_size_shows_the_bar(tmp_path: Path) -> None:
    make_page(tmp_path / "pages" / "a.png")
    ours, its = pty.openpty()  # 0 by 0, until somebody sets it
    arguments = ["ocr", "--images-dir", str(tmp_path / "pages"), "-o", str(tmp_path / "r.csv")]
    environ = {key: value for key, value in environment().items() if key not in ("COLUMNS", "LINES")}
    done = subprocess.run(
        command(Script(), tmp_path, *arguments), env=environ, stdout=subprocess.PIPE, stderr=its, timeout=60
    )
    os.close(its)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "100%" in shown
    assert "1/1 pages" in shown
