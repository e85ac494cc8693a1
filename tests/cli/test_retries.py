"""The options for pages that don't read well at once, through the program."""

from pathlib import Path

import pytest

from tests.cli.program import here, make_page, read
from tests.fakes import Answer, Script

LOOP = Answer("<p>words</p>" + "<td></td>" * 60, "repetition")
RECOVERS = Script(answers={"000001": LOOP}, again={"000001": [LOOP, LOOP, Answer("well")]})


def ocr(tmp_path: Path, script: Script, *options: str) -> int:
    for number in range(4):
        make_page(tmp_path / "pages" / f"{number}.png", number)
    folder, output = str(tmp_path / "pages"), str(tmp_path / "r.csv")
    return here("ocr", folder, "-o", output, "--no-text", *options, script=script)


def status_of(tmp_path: Path, name: str) -> str:
    return {Path(row.path).name: row.status for row in read(tmp_path / "r.csv")}[name]


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ([], "ok", "1 page was retried, 1 of them ok in the end."),
        (["--retries", "2"], "error:repetition", "1 page was retried, 0 of them ok in the end."),
        (["--retries", "0"], "error:repetition", ""),
    ],
)
def test_a_page_that_repeats_itself_is_retried_three_times_or_as_often_as_was_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], status: str, said: str
) -> None:
    assert ocr(tmp_path, RECOVERS, *options) == (0 if status == "ok" else 1)
    assert status_of(tmp_path, "1.png") == status
    found = capsys.readouterr().out
    assert said in found
    assert ("retried" in found) is (said != "")
    assert ("1 failed (1 repetition)" in found) is (status != "ok")


@pytest.mark.parametrize(
    ("choice", "status"),
    [(["--on-truncation", "keep"], "error:truncated"), (["--on-truncation", "retry"], "ok"),
     ([], "error:truncated")],
)  # fmt: skip
def test_a_truncated_page_is_kept_or_retried_as_was_said(
    tmp_path: Path, choice: list[str], status: str
) -> None:
    script = Script(answers={"000002": Answer("wor", "length")}, again={"000002": [Answer("words")]})
    ocr(tmp_path, script, *choice)
    assert status_of(tmp_path, "2.png") == status


def test_verbose_lines_count_the_pages_that_were_retried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ocr(tmp_path, RECOVERS, "--retries", "1", "--verbose")
    assert "4 of 4 pages, 1 failed (1 repetition), 1 retried: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--retries", "-1"], "'-1' is not a whole number from 0 on"),
        (["--retries", "few"], "'few' is not a whole number from 0 on"),
        (["--on-truncation", "drop"], "invalid choice: 'drop'"),
        (["--on-truncation", "retry", "--retries", "0"], "--on-truncation retry needs retries."),
    ],
)
def test_retries_that_make_no_sense_are_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], complaint: str
) -> None:
    assert ocr(tmp_path, Script(), *options) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "r.csv").exists()
