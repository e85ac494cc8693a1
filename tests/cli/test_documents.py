"""`mlx-chandra ocr` on PDFs and image files with several pages: rows, texts, resuming, naming them."""

import io
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.program import here, make_page, process, read, statuses
from tests.documents.pdf_files import damaged_pdf, form_pdf, locked_pdf, make_pdf, page_of, pdf
from tests.fakes import Answer, Script, text_for

REDS = ("0.2 0 0", "0.4 0 0", "0.6 0 0", "0.8 0 0", "1 0 0")  # 330000, 660000, 990000, cc0000, ff0000


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    (tmp_path / "pages").mkdir()
    return tmp_path / "pages"


def ocr(pages: Path, *more: str, script: Script | None = None) -> int:
    return here("ocr", "--images-dir", str(pages), "-o", str(pages.parent / "r.csv"), *more, script=script)


def found(pages: Path) -> dict[str, str]:
    return statuses(pages.parent / "r.csv", pages)


def make_frames(path: Path, count: int) -> None:
    images = [Image.new("RGB", (12, 8), (0, 0, 50 * number)) for number in range(1, count + 1)]
    images[0].save(path, save_all=True, append_images=images[1:])


def test_a_mixed_folder_gives_a_row_and_a_text_for_every_page(pages: Path, tmp_path: Path) -> None:
    make_pdf(pages / "a.pdf", *REDS[:3])
    make_frames(pages / "b.tif", 2)
    make_frames(pages / "c.gif", 2)
    make_frames(pages / "d.tiff", 1)
    make_page(pages / "e.png")
    make_pdf(pages / "sub" / "a.pdf", REDS[0])
    (pages / "xfa.pdf").write_bytes(form_pdf(xfa=True))
    (pages / "damaged.pdf").write_bytes(damaged_pdf())
    (pages / "locked.pdf").write_bytes(locked_pdf("hush"))
    (pages / "empty.pdf").write_bytes(pdf([]))
    done = process(Script(), tmp_path, "ocr", str(pages), "-o", str(tmp_path / "r.csv"), "--workers", "3")
    assert (done.returncode, done.stderr) == (1, "")
    names = ["a.pdf#page=1", "a.pdf#page=2", "a.pdf#page=3", "b.tif#page=1", "b.tif#page=2", "c.gif#page=1"]
    names += ["c.gif#page=2", "d.tiff", "e.png", "sub/a.pdf#page=1", "xfa.pdf#page=1"]
    assert found(pages) == dict.fromkeys(names, "ok") | {
        "damaged.pdf": "error:unreadable: the PDF is damaged",
        "locked.pdf": "error:locked: the PDF is locked with a password; --password takes it",
        "empty.pdf": "error:no-pages: the PDF has no pages",
    }
    texts = sorted(str(path.relative_to(pages)) for path in pages.rglob("*.txt"))
    assert texts == [
        "a_p0001_ocr.txt", "a_p0002_ocr.txt", "a_p0003_ocr.txt", "b_p0001_ocr.txt", "b_p0002_ocr.txt",
        "c_p0001_ocr.txt", "c_p0002_ocr.txt", "d_ocr.txt", "e_ocr.txt", "sub/a_p0001_ocr.txt",
        "xfa_p0001_ocr.txt",
    ]  # fmt: skip
    row = next(row for row in read(tmp_path / "r.csv") if row.path.endswith("a.pdf#page=2"))
    drawn = Image.new("RGB", (1024, 1536), "white")
    drawn.paste("#660000", (0, 0, 512, 768))
    assert row.text == text_for(drawn)
    assert (pages / "a_p0002_ocr.txt").read_text() == row.text
    assert "11 pages ok, 3 failed" in done.stdout


def test_resume_and_retry_work_by_page(pages: Path) -> None:
    make_pdf(pages / "a.pdf", *REDS)
    script = Script(answers={"660000": Answer("so far", "length")})
    assert ocr(pages, "--pages", "1-3", script=script) == 1
    assert found(pages) == {"a.pdf#page=1": "ok", "a.pdf#page=2": "error:truncated", "a.pdf#page=3": "ok"}
    never = Script(answers={"330000": Answer("done twice"), "990000": Answer("done twice")})
    assert ocr(pages, "--resume", script=never) == 0
    assert found(pages)["a.pdf#page=2"] == "error:truncated"
    assert ocr(pages, "--retry-errors", script=never) == 0
    assert found(pages) == {f"a.pdf#page={number}": "ok" for number in range(1, 6)}
    assert "done twice" not in [row.text for row in read(pages.parent / "r.csv")]


def test_a_document_that_was_mended_loses_its_error_row_when_it_is_retried(pages: Path) -> None:
    make_page(pages / "b.png")
    (pages / "a.pdf").write_bytes(damaged_pdf())
    assert ocr(pages) == 1
    make_pdf(pages / "a.pdf", *REDS[:2])
    assert ocr(pages, "--resume") == 0
    assert found(pages) == {"a.pdf": "error:unreadable: the PDF is damaged", "b.png": "ok"}
    assert ocr(pages, "--retry-errors") == 0
    assert found(pages) == {"a.pdf#page=1": "ok", "a.pdf#page=2": "ok", "b.png": "ok"}


def test_a_file_that_an_older_csv_has_by_its_path_is_done(pages: Path, tmp_path: Path) -> None:
    make_frames(pages / "a.tif", 3)
    (tmp_path / "r.csv").write_text(f"image_path,status,ocr_text\r\n{pages / 'a.tif'},ok,text\r\n")
    assert ocr(pages, "--resume") == 0
    assert found(pages) == {"a.tif": "ok"}


def test_chosen_pages_alone_are_read(pages: Path) -> None:
    make_pdf(pages / "a.pdf", *REDS)
    make_pdf(pages / "b.pdf", *REDS[:2])
    make_page(pages / "c.png")
    assert ocr(pages, "--pages", "1,-2-") == 0
    assert found(pages) == {
        "a.pdf#page=1": "ok", "a.pdf#page=4": "ok", "a.pdf#page=5": "ok",
        "b.pdf#page=1": "ok", "b.pdf#page=2": "ok", "c.png": "ok",
    }  # fmt: skip
    assert ocr(pages, "--overwrite", "--pages=-1") == 0
    assert sorted(found(pages)) == ["a.pdf#page=5", "b.pdf#page=2", "c.png"]


def test_the_password_opens_locked_files(pages: Path) -> None:
    (pages / "a.pdf").write_bytes(locked_pdf("hush"))
    assert ocr(pages, "--password", "hush") == 0
    assert found(pages) == {"a.pdf#page=1": "ok"}


def test_the_limit_on_pixels_refuses_pages_and_pictures(pages: Path) -> None:
    (pages / "a.pdf").write_bytes(pdf([page_of(), page_of(box="0 0 400 400"), page_of()]))
    make_page(pages / "b.png", size=(2000, 1000))
    assert ocr(pages, "--max-pixels", str(1024 * 1536)) == 1
    kinds = {name: status.split(":")[1] for name, status in found(pages).items() if status != "ok"}
    assert kinds == {"b.png": "too-large"}
    assert ocr(pages, "--max-pixels", str(1200 * 1200), "--overwrite") == 1
    bad = sorted(name for name, status in found(pages).items() if status != "ok")
    assert bad == ["a.pdf#page=1", "a.pdf#page=3", "b.png"]


def test_files_folders_and_patterns_are_named_side_by_side(pages: Path, tmp_path: Path) -> None:
    make_pdf(pages / "one" / "a.pdf", *REDS[:2])
    make_page(pages / "two" / "b.png", 1)
    make_page(pages / "two" / "c.png", 2)
    make_page(pages / "d.jpg", 3)
    arguments = [str(pages / "d.jpg"), str(pages / "one"), str(pages / "two" / "b*"), str(pages / "d.jpg")]
    texts = ["--text-dir", str(tmp_path / "texts")]
    assert here("ocr", *arguments, "-o", str(tmp_path / "r.csv"), *texts) == 0
    assert sorted(found(pages)) == ["d.jpg", "one/a.pdf#page=1", "one/a.pdf#page=2", "two/b.png"]
    written = sorted(str(p.relative_to(tmp_path / "texts")) for p in (tmp_path / "texts").rglob("*.txt"))
    assert written == ["d_ocr.txt", "one/a_p0001_ocr.txt", "one/a_p0002_ocr.txt", "two/b_ocr.txt"]


def test_a_manifest_comes_through_standard_input(
    pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pdf(pages / "a.pdf", *REDS[:2])
    make_page(pages / "b.png")
    monkeypatch.chdir(pages)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"b.png\ngone.pdf\na.pdf\n")))
    assert here("ocr", "--manifest", "-", "-o", str(tmp_path / "r.csv")) == 1
    assert found(pages) == {
        "b.png": "ok",
        "gone.pdf": "error:missing: there is no such file",
        "a.pdf#page=1": "ok",
        "a.pdf#page=2": "ok",
    }
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    assert here("ocr", "--manifest", "-", "-o", str(tmp_path / "r2.csv")) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Nothing to read was named"),
        (["--images-dir", ".", "--manifest", "x"], "--images-dir and --manifest don't go together"),
        (["a.png", "--images-dir", "."], "PATH and --images-dir don't go together"),
        (["a.png", "--manifest", "-"], "PATH and --manifest don't go together"),
        (["gone"], "There is no file or folder 'gone'"),
        (["gone*"], "Nothing matches 'gone*'"),
        (["."], "There are no documents in '.'"),
        (["--images-dir", "."], "There are no documents in '.'"),
        (["--images-dir", ".", "--pages", "5-3"], "'5-3' ends before it begins"),
        (["--images-dir", ".", "--pages", "0"], "There is no page 0"),
        (["--images-dir", ".", "--max-pixels", "0"], "not a whole number from 1 on"),
    ],
)
def test_inputs_that_make_no_sense_are_wrong_usage(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: object
) -> None:
    monkeypatch.chdir(tmp_path)
    assert here("ocr", *arguments, "-o", "r.csv") == 2
    assert said in capfd.readouterr().err  # type: ignore[attr-defined]
    assert os.listdir(tmp_path) == []
