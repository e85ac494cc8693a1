"""`mlx-chandra show` prints one line a page that fits the screen."""

import csv
from pathlib import Path

import pytest

from mlx_chandra.cli.main import main
from mlx_chandra.cli.show import first_words


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
