"""The whole program with the demo checkpoint: the example pages become the texts that stand on them."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from tests.cli.program import ROOT, Row, environment, read
from tools.demo_model.score import plain_text, score_page

EXAMPLES = ROOT / "examples" / "pages"
PICTURES = sorted(path for path in EXAMPLES.rglob("*") if path.is_file() and path.suffix != ".txt")
SMALL = ["sign.bmp", "label.png"]
RATE, WORST_PAGE = 0.01, 0.05  # character error rates: of all pages together, and of any one


@dataclass(frozen=True)
class Run:
    """A finished run over a copy of the example pages."""

    pages: Path
    table: Path
    status: int
    said: str
    complained: str

    @property
    def rows(self) -> dict[str, Row]:
        return {os.path.relpath(row.path, self.pages): row for row in read(self.table)}


def ocr(pages: Path, table: Path, *more: str) -> Run:
    command = [sys.executable, "-m", "mlx_chandra", "ocr", "--images-dir", str(pages), "-o", str(table)]
    done = subprocess.run(
        [*command, "--model", "demo", *more], env=environment(), capture_output=True, text=True, timeout=600
    )
    return Run(pages, table, done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("demo")
    for path in PICTURES:
        target = folder / "pages" / path.relative_to(EXAMPLES)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    documents = ["--output-dir", str(folder / "out"), "--format", "markdown,json,text"]
    return ocr(folder / "pages", folder / "results.csv", "--verbose", *documents)


@pytest.fixture
def small_pages(tmp_path: Path) -> Path:
    (tmp_path / "pages").mkdir()
    for name in SMALL:
        shutil.copy(EXAMPLES / name, tmp_path / "pages")
    return tmp_path / "pages"


def test_every_example_page_is_ok(run: Run) -> None:
    assert run.status == 0, run.complained
    assert {name: row.status for name, row in run.rows.items()} == {
        str(path.relative_to(EXAMPLES)): "ok" for path in PICTURES
    }
    assert f"{len(PICTURES)} pages ok, 0 failed" in run.said
    assert "slots in use" in run.complained


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_the_text_is_what_stands_on_the_page(run: Run, picture: Path) -> None:
    answer = run.rows[str(picture.relative_to(EXAMPLES))].text
    truth = picture.with_suffix(".txt").read_text(encoding="utf-8")
    assert score_page(answer, truth).rate <= WORST_PAGE, f"{plain_text(answer)!r} not {plain_text(truth)!r}"
    assert "data-bbox=" in answer
    assert "data-label=" in answer


def test_all_pages_together_are_read_at_the_rate_that_the_model_card_promises(run: Run) -> None:
    scores = [
        score_page(row.text, (EXAMPLES / name).with_suffix(".txt").read_text(encoding="utf-8"))
        for name, row in run.rows.items()
    ]
    assert len(scores) == len(PICTURES)
    assert sum(score.edits for score in scores) <= RATE * sum(score.characters for score in scores)


def test_each_page_has_its_text_file(run: Run) -> None:
    for name, row in run.rows.items():
        path = run.pages / name
        assert path.with_name(path.stem + "_ocr.txt").read_text(encoding="utf-8") == row.text


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_the_text_of_each_document_is_what_stands_on_its_page(run: Run, picture: Path) -> None:
    written = (run.table.parent / "out" / picture.stem / f"{picture.stem}.txt").read_text(encoding="utf-8")
    truth = picture.with_suffix(".txt").read_text(encoding="utf-8")
    assert score_page(written, truth).rate <= WORST_PAGE


def test_blocks_stand_where_the_words_are_on_the_page(run: Run) -> None:
    folder = run.table.parent / "out" / "label"
    (page,) = json.loads((folder / "label.json").read_text(encoding="utf-8"))["pages"]
    with Image.open(EXAMPLES / "label.png") as image:
        assert (page["width"], page["height"]) == image.size
        ink = ImageOps.invert(image.convert("L")).point(lambda value: 255 if value > 128 else 0)
    for block in page["blocks"]:
        assert ink.crop(block["bbox"]).getbbox() is not None
    said = re.findall(r'data-bbox="([^"]*)"', run.rows["label.png"].text)  # the demo speaks as Chandra 2
    assert [block["bbox_fractions"] for block in page["blocks"]] == [
        [int(number) / 1000 for number in box.split()] for box in said
    ]
    assert (page["model"], page["finish_reason"]) == ("demo", "stop")
    assert page["generated_tokens"] > 20


def test_a_second_run_with_resume_does_nothing_and_loads_no_model(run: Run) -> None:
    before, began = run.table.read_bytes(), time.monotonic()
    again = ocr(run.pages, run.table, "--resume")
    assert again.status == 0
    assert f"Nothing to do: all {len(PICTURES)} pages" in again.said
    assert run.table.read_bytes() == before
    assert time.monotonic() - began < 5


def test_show_prints_each_page_with_its_first_words(run: Run) -> None:
    command = [sys.executable, "-m", "mlx_chandra", "show", str(run.table)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert set(lines) == {str(path.relative_to(EXAMPLES)) for path in PICTURES}
    for name in SMALL:
        first_word = plain_text((EXAMPLES / name).with_suffix(".txt").read_text(encoding="utf-8")).split()[0]
        assert first_word in lines[name]


def test_the_plain_prompt_gives_html_without_layout(small_pages: Path, tmp_path: Path) -> None:
    run = ocr(small_pages, tmp_path / "r.csv", "--prompt-type", "ocr", "--batch-size", "1", "--no-text")
    assert run.status == 0, run.complained
    for name, row in run.rows.items():
        assert "data-bbox" not in row.text
        truth = (EXAMPLES / name).with_suffix(".txt").read_text(encoding="utf-8")
        assert score_page(row.text, truth).rate <= RATE


def test_an_answer_that_is_cut_short_says_so_and_is_kept(small_pages: Path, tmp_path: Path) -> None:
    run = ocr(small_pages, tmp_path / "r.csv", "--max-tokens", "6")
    assert run.status == 1
    for row in run.rows.values():
        assert row.status == "error:truncated"
        assert row.text
    assert f"0 pages ok, {len(SMALL)} failed" in run.said


def test_retries_read_a_page_anew_and_give_the_same_text_at_every_batch_size(
    small_pages: Path, tmp_path: Path
) -> None:
    options = ["--max-tokens", "40", "--on-truncation", "retry", "--retries", "2", "--no-text"]
    alone = ocr(small_pages, tmp_path / "1.csv", *options, "--batch-size", "1")
    crowd = ocr(small_pages, tmp_path / "8.csv", *options, "--batch-size", "8")
    assert alone.rows == crowd.rows
    cut = [row for row in alone.rows.values() if row.status == "error:truncated"]
    assert f"{len(cut)} failed ({len(cut)} truncated)" in alone.said
    assert f"{len(cut)} pages were retried, 0 of them ok in the end." in alone.said
    assert len(cut) > 1
