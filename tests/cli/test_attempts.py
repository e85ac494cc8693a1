"""The options for pages that don't read well, through the program."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlx_chandra.cli.reader import EngineReader
from mlx_chandra.engine.sampler import Sampling
from mlx_chandra.processing.prompt import ModelFamily
from tests.cli.program import here, make_page, read
from tests.fakes import Answer, Script

CIRCLES = Answer("<p>words</p>" + "<td></td>" * 60, "repetition")


def folder_of(tmp_path: Path) -> Path:
    for number in range(4):
        make_page(tmp_path / "pages" / f"{number}.png", number)
    return tmp_path / "pages"


def ocr(tmp_path: Path, script: Script, *options: str) -> int:
    arguments = ["ocr", str(folder_of(tmp_path)), "-o", str(tmp_path / "r.csv"), "--no-text", *options]
    return here(*arguments, script=script)


def status_of(tmp_path: Path, name: str) -> str:
    return {Path(row.path).name: row.status for row in read(tmp_path / "r.csv")}[name]


MENDED = Script(answers={"000001": CIRCLES}, again={"000001": [CIRCLES, CIRCLES, Answer("well")]})


@pytest.mark.parametrize(("options", "status"), [([], "ok"), (["--retries", "2"], "error:repetition")])
def test_a_page_in_circles_is_read_again_three_times_or_as_often_as_was_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], status: str
) -> None:
    assert ocr(tmp_path, MENDED, *options) == (0 if status == "ok" else 1)
    assert status_of(tmp_path, "1.png") == status
    said = capsys.readouterr().out
    assert f"1 page was read more than once, {int(status == 'ok')} of them ok in the end." in said
    assert ("1 failed (1 repetition)" in said) is (status != "ok")


def test_no_retries_are_said_where_there_were_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ocr(tmp_path, MENDED, "--retries", "0") == 1
    assert "more than once" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("choice", "status"), [("keep", "error:truncated"), ("retry", "ok"), (None, "error:truncated")]
)
def test_a_truncated_page_is_kept_or_read_again_as_was_said(
    tmp_path: Path, choice: str | None, status: str
) -> None:
    script = Script(answers={"000002": Answer("wor", "length")}, again={"000002": [Answer("words")]})
    ocr(tmp_path, script, *(["--on-truncation", choice] if choice else []))
    assert status_of(tmp_path, "2.png") == status


def test_verbose_lines_count_the_pages_that_were_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ocr(tmp_path, MENDED, "--retries", "1", "--verbose")
    said = capsys.readouterr().err
    assert "4 of 4 pages, 1 failed (1 repetition), 1 read more than once: " in said


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


def test_the_engine_gets_a_retry_with_the_models_sampling_and_the_pages_seed() -> None:
    inserted: list[tuple[Sequence[object], Sampling]] = []

    class Generator:
        def insert(self, pages: Sequence[object], sampling: Sampling) -> list[int]:
            inserted.append((pages, sampling))
            return [41 + len(inserted)]

    page = object()
    for family in ModelFamily:
        reader = EngineReader(SimpleNamespace(family=family), Generator(), "prompt", None)  # type: ignore[arg-type]
        reader.retry(page, 2, 77)  # type: ignore[arg-type]
    assert inserted == [([page], Sampling(0.3, 0.95, 77)), ([page], Sampling(0.4, 0.95, 77))]
