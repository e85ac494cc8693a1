"""`mlx-chandra show` prints one line a page that fits the screen."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_chandra.cli.main import main
from mlx_chandra.cli.show import first_words
from tests.cli.program import environment


def table(path: Path, rows: list[list[str]]) -> str:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["image_path", "status", "ocr_text"], *rows])
    return str(path)


def test_each_page_is_a_line_with_its_status_and_first_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        ["/in/a.png", "ok", '<div data-bbox="0 0 9 9"><h1>Dear &amp; beloved</h1>\n<p>friend</p></div>'],
        ["/in/sub/b.png", "error:empty", ""],
    ]
    assert main(["show", table(tmp_path / "r.csv", rows)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a.png      ok           Dear & beloved friend",
        "sub/b.png  error:empty",
    ]


def test_no_line_is_wider_than_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        ["/in/" + "long-name-" * 20 + "end.png", "ok", "<p>" + "word " * 100 + "</p>"],
        ["/in/b.png", "error:unreadable: " + "why " * 50, ""],
        ["/in/漢字.png", "ok", "漢字" * 100],
        ["/in/new\nline.png", "ok", "tab\t\x1b[31mred"],
    ]
    assert main(["show", table(tmp_path / "r.csv", rows)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(len(line) <= 100 for line in lines)
    assert "end.png" in lines[0]
    assert lines[0].endswith("…")
    assert "\x1b" not in lines[3]


def test_tags_and_entities_are_not_words() -> None:
    assert first_words("<p>a &lt;b&gt;</p><br/>c\n\n d") == "a <b> c d"


def test_an_empty_table_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", table(tmp_path / "r.csv", [])]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [None, "a,b\n1,2\n", ""])
def test_a_file_that_is_no_table_of_results_is_wrong_usage(
    tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.csv"
    if content is not None:
        path.write_text(content)
    assert main(["show", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_a_long_table_is_printed_line_by_line_and_may_be_cut_off(tmp_path: Path) -> None:
    rows = [[f"/in/{number:06}.png", "ok", "<p>" + "word " * 400 + "</p>"] for number in range(20_000)]
    rows.append(["/elsewhere/at-the-end.png", "error:missing: there is no such file", ""])
    path = table(tmp_path / "r.csv", rows)
    measured = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run([sys.executable, '-m', 'mlx_chandra', 'show', sys.argv[1]], stdout=-1)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
        "print(done.stdout.count(b'\\n'), used >> (20 if sys.platform == 'darwin' else 10))\n"
    )
    whole = subprocess.run(
        [sys.executable, "-c", measured, path], env=environment(), capture_output=True, text=True, check=True
    )
    lines, megabytes = map(int, whole.stdout.split())
    assert (lines, megabytes < 40) == (20_001, True)
    shell = f"'{sys.executable}' -m mlx_chandra show '{path}' | head -1; echo ${{PIPESTATUS[0]}}"
    cut = subprocess.run(["bash", "-c", shell], env=environment(), capture_output=True, text=True, check=True)
    assert cut.stdout.splitlines() == [cut.stdout.splitlines()[0], "0"]
    assert cut.stdout.startswith("000000.png  ok  word word")
    assert cut.stderr == ""
