"""`ocr --dry-run` says what would be done and what that takes, and does nothing of it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mlx_chandra.cli.main import main
from mlx_chandra.cli.model import ModelOptions
from mlx_chandra.engine.service import Service
from tests.cli.program import here, make_page
from tests.documents.pdf_files import locked_pdf, make_pdf

DEMO = ["--model", "demo"]


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def no_service(options: ModelOptions) -> Service:
    raise AssertionError("a model was loaded")


def dry(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["ocr", "in", "-o", "r.csv", "--dry-run", *arguments], no_service) == 0
    return capsys.readouterr().out.splitlines()


def test_documents_pages_and_tokens_are_counted_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_pdf(tmp_path / "in" / "a.pdf", "1 0 0", "0 1 0")
    make_page(tmp_path / "in" / "b.png", size=(96, 64))
    make_page(tmp_path / "in" / "c.png", 1, size=(96, 64))
    lines = dry(capsys, *DEMO, "--output-dir", "out", "--log-file", "log.jsonl")
    assert lines[0] == "Documents: 3 (2 PNG, 1 PDF)"
    assert lines[1] == "Pages: 4: 4 to read"
    assert "4,000 of output (1,000 a page, assumed)" in lines[2]
    assert "Time: not known" in lines[3]
    assert "mlx-chandra bench" in lines[3]
    assert lines[-1] == "Nothing was read or written."
    assert os.listdir(tmp_path) == ["in"]


def test_prompts_are_counted_as_the_processor_makes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlx_chandra.demo import checkpoint_folder
    from mlx_chandra.processing.processor import Processor
    from mlx_chandra.processing.prompt import PromptType

    processor = Processor.from_folder(checkpoint_folder())
    total = 0
    for number, size in enumerate([(96, 64), (500, 1200), (1200, 500), (30, 30)]):
        path = make_page(tmp_path / "in" / f"{number}.png", number, size)
        with Image.open(path) as picture:
            total += len(processor.prepare(picture, PromptType.OCR, 700).token_ids)
    lines = dry(capsys, *DEMO, "--prompt-type", "ocr", "--max-size", "700")
    assert lines[2].startswith(f"Tokens: about {total:,} of prompts and ")


def test_pages_that_cannot_be_read_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_page(tmp_path / "in" / "a.png")
    for number in range(12):
        (tmp_path / "in" / f"bad{number:02}.png").write_bytes(b"")
    make_page(tmp_path / "in" / "thin.png", size=(1, 5000))
    (tmp_path / "in" / "z.pdf").write_bytes(locked_pdf("secret"))
    lines = dry(capsys, *DEMO)
    assert "Pages: 15: 14 that can't be read, 1 to read" in lines
    assert f"  {tmp_path}/in/bad00.png: error:unreadable: the file is empty" in lines
    assert "  and 4 more; --verbose lists all" in lines
    verbose = "\n".join(dry(capsys, *DEMO, "--verbose"))
    assert "thin.png: PNG, 1 page, error:shape: The picture is 1x5000 pixels" in verbose
    assert "z.pdf: PDF, 1 page, error:locked" in verbose
    assert "a.png: PNG, 1 page, " in verbose
    opened = "\n".join(dry(capsys, *DEMO, "--verbose", "--password", "secret"))
    assert "z.pdf: PDF, 1 page, 1," in opened


def test_what_resume_and_retry_would_skip_is_done_already(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        make_page(tmp_path / "in" / f"{number}.png", number)
    (tmp_path / "in" / "3.png").write_bytes(b"")
    assert here("ocr", "in", "-o", "r.csv", *DEMO) == 1
    make_page(tmp_path / "in" / "3.png", 3)
    make_page(tmp_path / "in" / "4.png", 4)
    before = (tmp_path / "r.csv").read_bytes()
    capsys.readouterr()
    resumed = dry(capsys, *DEMO, "--resume")
    assert resumed[1] == "Pages: 5: 4 read before, 1 to read"
    assert resumed[2].endswith("as in 3 pages of these results)")
    assert dry(capsys, *DEMO, "--retry-errors")[1] == "Pages: 5: 3 read before, 2 to read"
    assert dry(capsys, *DEMO, "--overwrite")[1] == "Pages: 5: 5 to read"
    assert main(["ocr", "in", "-o", "r.csv", "--dry-run", *DEMO], no_service) == 2
    assert "already holds the results of 4 pages" in capsys.readouterr().err
    assert (tmp_path / "r.csv").read_bytes() == before


def test_when_all_is_done_nothing_is_foreseen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_page(tmp_path / "in" / "a.png")
    assert here("ocr", "in", "-o", "r.csv", *DEMO) == 0
    capsys.readouterr()
    assert dry(capsys, *DEMO, "--resume") == [
        "Documents: 1 (1 PNG)", "Pages: 1: 1 read before, 0 to read", "Nothing was read or written.",
    ]  # fmt: skip


def test_a_model_that_is_not_here_is_not_fetched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_page(tmp_path / "in" / "a.png", size=(736, 1024))
    lines = dry(capsys)
    assert "(by Chandra 1's rule; the model isn't on this machine)" in lines[2]
    tokens = int(lines[2].split()[2].replace(",", ""))
    assert tokens > 736 * 1024 // 32**2


def test_output_and_time_are_those_of_the_runs_in_these_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(6):
        make_page(tmp_path / "in" / f"{number}.png", number, (96, 64))
    limits = ["--max-tokens", "8", "--retries", "0", "--no-text"]
    assert main(["ocr", "in", "-o", "r.csv", *DEMO, *limits]) == 1
    make_page(tmp_path / "in" / "7.png", 7, (96, 64))
    capsys.readouterr()
    lines = dry(capsys, *DEMO, *limits, "--resume")
    assert "8 of output (8 a page, as in 6 pages of these results)" in lines[2]
    assert lines[3].startswith("Time: about ")
    assert "at the speed of these results' runs" in lines[3]


def test_it_refuses_what_a_run_would_refuse(tmp_path: Path) -> None:
    make_page(tmp_path / "in" / "a.png")
    wrong = [["--format", "html"], ["--pages", "0"], ["--overwrite", "--retry-errors"]]
    for more in wrong:
        assert main(["ocr", "in", "-o", "r.csv", "--dry-run", *more], no_service) == 2
    assert main(["ocr", "gone", "-o", "r.csv", "--dry-run"], no_service) == 2
    assert main(["ocr", "in", "--dry-run"], no_service) == 2


def test_files_that_a_manifest_names_and_that_are_missing_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_page(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png\ngone.png\n")
    assert main(["ocr", "--manifest", "list.txt", "-o", "r.csv", "--dry-run", *DEMO], no_service) == 0
    said = capsys.readouterr().out
    assert "Pages: 2: 1 that can't be read, 1 to read" in said
    assert "gone.png: error:missing: there is no such file" in said


def test_pages_that_a_run_would_read_again_for_their_settings_or_content_are_not_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        make_page(tmp_path / "in" / f"{number}.png", number)
    (tmp_path / "in" / "3.png").write_bytes(b"")
    assert here("ocr", "in", "-o", "r.csv", *DEMO) == 1
    assert here("ocr", "in", "-o", "r.csv", "--resume", *DEMO) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    capsys.readouterr()
    assert dry(capsys, *DEMO, "--resume")[1] == "Pages: 4: 4 read before, 0 to read"
    other = ["--max-tokens", "77"]
    assert dry(capsys, *DEMO, "--resume", *other)[1] == "Pages: 4: 1 read before, 3 to read"
    named = dry(capsys, *DEMO, "--rerun", "path=1.png", *other)
    assert named[1] == "Pages: 4: 3 read before, 1 to read"
    make_page(tmp_path / "in" / "2.png", 99)
    assert dry(capsys, *DEMO, "--resume")[1] == "Pages: 4: 3 read before, 1 to read"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def renumber(pages: Path) -> None:
    for number in range(1, 4):
        (pages / f"{number}.png").rename(pages / f"{number - 1}.png")


def replace_a_moved_one(pages: Path) -> None:
    for name in ("0 was.png", "x.png"):
        shutil.copy(pages / "0.png", pages / name)
    make_page(pages / "0.png", 77)


def take_pages_from_a_document(pages: Path) -> None:
    (pages / "a.pdf").rename(pages / "b.pdf")
    shutil.copy(pages / "b.pdf", pages / "c.pdf")
    make_pdf(pages / "a.pdf", "0 0 1")


def change_many(pages: Path) -> None:
    (pages / "3.png").rename(pages / "moved.png")
    shutil.copy(pages / "broken.png", pages / "broken too.png")
    shutil.copy(pages / "copies" / "1.png", pages / "another.png")
    for name in ("new.png", "new too.png", "new as well.png"):
        make_page(pages / name, 88)
    for name in ("long.png", "long too.png"):
        make_page(pages / name, 5, size=(1, 5000))


@pytest.mark.parametrize("change", [renumber, replace_a_moved_one, take_pages_from_a_document, change_many])
@pytest.mark.parametrize(
    "options",
    [["--resume"], ["--resume", "--max-tokens", "77"], ["--rerun", "path=1.png"], ["--retry-errors"],
     ["--overwrite"]],
    ids=" ".join,
)  # fmt: skip
def test_where_files_were_moved_and_copied_it_says_what_the_run_then_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None], options: list[str]
) -> None:
    pages = tmp_path / "in"
    for number in range(4):
        make_page(pages / f"{number}.png", number)
        make_page(pages / "copies" / f"{number}.png", number % 2)
    make_pdf(pages / "a.pdf", "1 0 0", "0 1 0")
    (pages / "broken.png").write_bytes(b"no picture")
    assert here("ocr", "in", "-o", "r.csv", "--no-text", *DEMO) == 1
    change(pages)
    capsys.readouterr()
    foreseen = numbers(dry(capsys, *DEMO, *options)[1])
    here("ocr", "in", "-o", "r.csv", "--no-text", "--log-file", "log", "--workers", "1", *DEMO, *options)
    log = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    pages_done = [event for event in log if event["event"] == "page_finished"]
    failed = [event for event in pages_done if event["status"].startswith("error:")]
    well = len(pages_done) - len(failed)
    assert foreseen["read before"] == log[-1]["skipped"]
    assert foreseen["that can't be read"] == len(failed)
    assert foreseen["to read"] + foreseen["with the same content as others"] == well
    # a row that is replaced a moment too early is read rather than copied
    assert foreseen["with the same content as others"] >= log[-1]["copied"] - sum(map(is_copy, failed))


def is_copy(event: dict[str, object]) -> bool:
    return event["copy_of"] is not None


def numbers(line: str) -> dict[str, int]:
    """`Pages: 9: 5 read before, 4 to read`, with zeros for what isn't said."""
    said = dict.fromkeys(
        ["read before", "with the same content as others", "that can't be read", "to read"], 0
    )
    for part in line.split(": ")[2].split(", "):
        number, _, what = part.partition(" ")
        said[what] = int(number)
    return said
