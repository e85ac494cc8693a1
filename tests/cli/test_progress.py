"""What people see while a run goes on, and at its end."""

import io
import os
import pty
import subprocess
from pathlib import Path

import pytest

from mlx_chandra.cli.progress import Bar, BatchLines, Lines, observer_for
from mlx_chandra.cli.summary import summary_lines
from mlx_chandra.cli.texts import duration, printable, short
from mlx_chandra.engine.responses import GeneratorStats
from mlx_chandra.reading.progress import Counts, Snapshot, Summary
from tests.cli.program import command, environment, make_page
from tests.fakes import Script


def snapshot(
    pages: int,
    seconds: float,
    total: int | None = 100,
    failed: int = 0,
    tokens: int = 0,
    retried: int = 0,
    in_work: int = 5,
) -> Snapshot:
    stats = GeneratorStats(
        prompt_tokens=pages * 10,
        prompt_time=0.0,
        generation_tokens=tokens,
        generation_time=0.0,
        steps=0,
        slots=8,
        active_slots=in_work,
        waiting=2,
        peak_memory=0,
    )
    counts = Counts(
        ok=pages - failed,
        truncated=failed,
        read=pages,
        retried=retried,
        prompt_tokens=pages * 10,
        generated_tokens=tokens,
    )
    return Snapshot(counts, total, seconds, stats)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_shows_pages_tokens_per_second_and_the_time_left() -> None:
    stream = Terminal()
    bar = Bar(stream)
    bar.update(snapshot(0, 0.1, total=None))
    bar.update(snapshot(25, 10.0, tokens=5000))
    bar.close()
    last = stream.getvalue().rstrip().split("\r")[-1]
    assert " 25%" in last
    assert "25/100 pages, 29.9 s left, 5 in work, 5k tokens, 500/s, 2.5 pages/s" in last


def test_before_the_first_page_is_finished_the_bar_counts_pages_in_work_and_tokens() -> None:
    stream = Terminal()
    bar = Bar(stream)
    for in_work, tokens in ((0, 0), (8, 8), (20, 900)):
        bar.update(snapshot(0, 5.0, total=20, tokens=tokens, in_work=in_work))
    bar.close()
    shown = stream.getvalue()
    assert "0/20 pages, reading pages" in shown
    assert "0/20 pages, 8 in work, 8 tokens, 2/s" in shown
    assert "0/20 pages, 20 in work, 900 tokens, 180/s" in shown


def test_the_bar_never_goes_back() -> None:
    stream = Terminal()
    bar = Bar(stream)
    bar.update(snapshot(50, 10.0, tokens=5000))
    bar.update(snapshot(51, 100.0, tokens=5100))  # much slower than it seemed
    bar.close()
    shares = [int(line[:3]) for line in stream.getvalue().split("\r") if "%" in line]
    assert shares == sorted(shares)


def test_lines_come_every_few_seconds_and_say_what_the_bar_says() -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    for second in range(12):
        lines.update(snapshot(second * 5, float(second), tokens=second * 1000, failed=min(second, 2)))
    assert stream.getvalue().splitlines() == [
        "25/100 pages, 15.0 s left, 5 in work, 2 failed, 5k tokens, 1,000/s, 5.0 pages/s",
        "50/100 pages, 10.0 s left, 5 in work, 2 failed, 10k tokens, 1,000/s, 5.0 pages/s",
    ]


def test_lines_do_without_the_total_while_it_is_not_known() -> None:
    stream = io.StringIO()
    Lines(stream).update(snapshot(10, 5.0, total=None))
    assert stream.getvalue() == "10 pages, 5 in work, reading pages, 2.0 pages/s\n"


def test_a_batch_line_counts_what_came_since_the_last_one() -> None:
    stream = io.StringIO()
    lines = BatchLines(stream)
    lines.update(snapshot(3, 1.0, tokens=100))
    lines.update(snapshot(8, 2.0, tokens=1000))
    lines.update(snapshot(10, 3.0, tokens=1500, failed=1, retried=2))
    lines.close()
    lines.close()
    assert stream.getvalue().splitlines() == [
        "8 of 100 pages: 80 prompt and 1,000 output tokens, 500 tokens/s, 5 of 8 slots in use, 2 waiting, "
        "memory 0.00 GB, 22.9 s left",
        "10 of 100 pages, 1 failed (1 truncated), 2 retried: 20 prompt and 500 output "
        "tokens, 500 tokens/s, 5 of 8 slots in use, 2 waiting, memory 0.00 GB, 26.9 s left",
    ]


def test_a_terminal_gets_a_bar_and_a_file_gets_lines() -> None:
    with observer_for(False, Terminal()) as bar, observer_for(False, io.StringIO()) as lines:
        assert isinstance(bar, Bar)
        assert isinstance(lines, Lines)
    with observer_for(True, Terminal()) as batches:
        assert isinstance(batches, BatchLines)


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_warnings_are_shown(stream: io.StringIO) -> None:
    with observer_for(False, stream) as observer:
        observer.update(snapshot(1, 1.0))
        observer.warn("there is no room")
    assert "Warning: there is no room\n" in stream.getvalue()


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        (
            Summary(Counts(ok=18, error=2), seconds=10.0),
            "18 pages ok, 2 failed in 10.0 s (2.0 pages/s).\n"
            "Failed pages: mlx-chandra status /here/results.csv --failed\n",
        ),
        (
            Summary(Counts(ok=1), skipped=1, seconds=10.0),
            "1 page ok, 0 failed in 10.0 s (0.1 pages/s); 1 was in the results before.",
        ),
        (Summary(skipped=1), "Nothing to do: the one page is in the results already."),
        (Summary(skipped=7), "Nothing to do: all 7 pages are in the results already."),
        (
            Summary(Counts(ok=4, read=4, prompt_tokens=5000, generated_tokens=2000), seconds=10.0),
            "Tokens: 5,000 of prompts, 2,000 of output (200/s), 500 a page.\n",
        ),
        (
            Summary(Counts(18, 1, 1, 2, 1, retried=3, recovered=1), seconds=10.0),
            "18 pages ok, 5 failed (1 empty, 1 truncated, 2 repetition, 1 other) in 10.0 s (2.3 pages/s). "
            "3 pages were retried, 1 of them ok in the end.",
        ),
        (Summary(Counts(ok=2, copied=1)), "1 page has the result of another file with the same content."),
        (Summary(Counts(ok=3), seconds=1.0, stopped=True), "run again with --resume"),
        (Summary(Counts(ok=3), documents=1), "The files of 1 document were written."),
        (Summary(Counts(ok=3), unwritten_documents=3), "Those of 3 documents are missing."),
        (Summary(Counts(ok=3), unwritten_texts=2), "2 text files could not be written."),
    ],
)
def test_the_summary_says_how_it_ended_and_where_the_results_are(summary: Summary, expected: str) -> None:
    lines = "\n".join(summary_lines(summary, "/here/results.csv"))
    assert expected in lines
    assert lines.endswith("\nResults: /here/results.csv")


def test_numbers_of_tokens_are_short() -> None:
    assert [short(n) for n in (0, 950, 9_500, 95_000, 950_000, 9_500_000)] == [
        "0",
        "950",
        "9.5k",
        "95k",
        "950k",
        "9.5M",
    ]


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
