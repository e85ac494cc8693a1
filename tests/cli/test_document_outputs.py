"""`mlx-chandra ocr --output-dir`: each document's files, whole and in order, over any number of runs."""

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from mlx_chandra.export import conversion
from mlx_chandra.export.settings import ExportSettings, Format
from mlx_chandra.export.writer import Exports
from tests.cli.program import here, make_page, process, read
from tests.documents.pdf_files import damaged_pdf, make_pdf
from tests.fakes import Answer, Script

REDS = ("0.2 0 0", "0.4 0 0", "0.6 0 0", "0.8 0 0", "1 0 0")
KEYS = ("330000", "660000", "990000", "cc0000", "ff0000")


def said(number: int, more: str = "") -> str:
    return f'<div data-bbox="0 0 500 500" data-label="Text"><p>page {number}</p></div>{more}'


PAGES = Script(answers={key: Answer(said(number)) for number, key in enumerate(KEYS, start=1)})


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    (tmp_path / "pages").mkdir()
    return tmp_path / "pages"


def ocr(pages: Path, *more: str, script: Script = PAGES) -> int:
    top = pages.parent
    base = ["--images-dir", str(pages), "-o", str(top / "r.csv"), "--no-text"]
    return here("ocr", *base, "--output-dir", str(top / "out"), *more, script=script)


def out(pages: Path, name: str = "") -> Path:
    return pages.parent / "out" / name


def metadata(pages: Path, name: str = "a") -> dict[str, object]:
    found: dict[str, object] = json.loads((out(pages, name) / f"{name}_metadata.json").read_text())
    return found


def test_a_mixed_folder_gives_each_document_its_files(pages: Path, tmp_path: Path) -> None:
    make_pdf(pages / "a.pdf", *REDS)
    make_page(pages / "b.png", 1)
    (pages / "broken.pdf").write_bytes(damaged_pdf())
    arguments = ["ocr", str(pages), "-o", str(tmp_path / "r.csv"), "--no-text"]
    arguments += ["--output-dir", str(out(pages)), "--format", "html,markdown,json,text,parquet"]
    done = process(PAGES, tmp_path, *arguments)
    assert (done.returncode, done.stderr) == (1, "")
    assert "The files of 3 documents were written." in done.stdout
    assert f"Documents: {out(pages)}" in done.stdout
    for name in ("a", "b", "broken"):
        ends = (".html", ".json", ".md", ".parquet", ".txt", "_metadata.json")
        assert sorted(os.listdir(out(pages, name))) == sorted(name + end for end in ends)
    assert (out(pages, "a") / "a.md").read_text() == "\n\n".join(f"page {n}" for n in range(1, 6))
    assert "12 x 8" in (out(pages, "b") / "b.txt").read_text()
    found = json.loads((out(pages, "broken") / "broken.json").read_text())
    assert found["pages"][0]["status"] == "error:unreadable: the PDF is damaged"


def test_the_officials_default_files_and_choices_are_the_defaults(pages: Path) -> None:
    make_pdf(pages / "a.pdf", REDS[0])
    header = '<div data-bbox="0 0 900 90" data-label="Page-Header">head</div>'
    figure = '<div data-bbox="0 0 500 500" data-label="Figure"><img alt="fig"/></div>'
    script = Script(answers={KEYS[0]: Answer(said(1, header + figure))})
    assert ocr(pages, script=script) == 0
    (picture,) = out(pages, "a").glob("*.webp")
    assert sorted(os.listdir(out(pages, "a"))) == sorted(["a.html", "a.md", "a_metadata.json", picture.name])
    cut = Image.open(picture).convert("RGB")
    assert cut.size == (512, 768)  # the page is 1024 x 1536, and its top left quarter is red
    assert cut.getpixel((200, 200))[0] > 40 > cut.getpixel((200, 200))[1]  # type: ignore[index]
    assert (out(pages, "a") / "a.md").read_text() == f"page 1\n\n![fig]({picture.name})"
    assert ocr(pages, "--resume", "--headers", "--no-images", script=script) == 0
    assert (out(pages, "a") / "a.md").read_text() == "page 1\n\nhead"
    assert not list(out(pages, "a").glob("*.webp"))
    assert ocr(pages, "--resume", "--include-headers-footers", "--include-images", script=script) == 0
    assert len(list(out(pages, "a").glob("*.webp"))) == 1


def test_chandra_1s_boxes_come_out_where_they_are(pages: Path) -> None:
    make_pdf(pages / "a.pdf", REDS[0])
    answer = '<div data-bbox="[0, 512, 1024, 1024]" data-label="Text">a</div>'
    script = Script(answers={KEYS[0]: Answer(answer)}, box_scale=1024)
    assert ocr(pages, "--format", "json", script=script) == 0
    (page,) = json.loads((out(pages, "a") / "a.json").read_text())["pages"]
    assert page["blocks"][0]["bbox"] == [0, 768, 1024, 1536]
    assert page["blocks"][0]["bbox_fractions"] == [0.0, 0.5, 1.0, 1.0]
    assert page["prompt_tokens"] == 100
    assert page["generated_tokens"] == len(answer) + 1
    assert page["model"] == "mlx-community/chandra-bf16"
    assert page["settings"]["max_tokens"] == 8192


def test_pages_that_did_not_end_well_are_said(pages: Path) -> None:
    make_pdf(pages / "a.pdf", *REDS[:4])
    answers = {
        KEYS[0]: Answer("<p>so f", "length"),
        KEYS[1]: Answer(""),
        KEYS[2]: Answer("<p>a a a", "repetition"),
    }
    assert ocr(pages, script=Script(answers=answers, refused=[KEYS[3]])) == 1
    found = [(p["page"], p["status"], p["finish_reason"]) for p in metadata(pages)["pages"]]  # type: ignore[attr-defined]
    assert found == [
        (1, "error:truncated", "length"),
        (2, "error:empty", "stop"),
        (3, "error:repetition", "repetition"),
        (4, "error:too-long: the prompt is longer than a slot", None),
    ]
    assert metadata(pages)["num_failed_pages"] == 4
    assert (out(pages, "a") / "a.md").read_text() == "so f\n\na a a"


def test_a_script_on_a_page_is_in_the_csv_alone(pages: Path) -> None:
    make_pdf(pages / "a.pdf", REDS[0])
    bad = '<script>alert("x")</script><p onclick="alert(1)">p</p>'
    script = Script(answers={KEYS[0]: Answer(f'<div data-bbox="0 0 9 9" data-label="Text">{bad}</div>')})
    assert ocr(pages, "--format", "html,markdown,json,text,parquet", script=script) == 0
    assert bad in read(pages.parent / "r.csv")[0].text
    for path in out(pages, "a").iterdir():
        assert b"<script" not in path.read_bytes(), path
        assert b"onclick" not in path.read_bytes(), path


def test_documents_with_one_stem_have_folders_of_their_own_in_every_run(pages: Path) -> None:
    make_page(pages / "x" / "a.png", 1)
    make_page(pages / "y" / "a.png", 2)
    make_page(pages / "y" / "b.png", 3)
    make_pdf(pages / "y" / "b.pdf", REDS[0])

    def sources() -> dict[str, str]:
        found = out(pages).glob("*/*_metadata.json")
        return {path.parent.name: json.loads(path.read_text())["source"] for path in found}

    assert ocr(pages) == 0
    before = sources()
    assert before["a"] == str(pages / "x" / "a.png")
    assert {"b.pdf", "b.png"} < set(before)
    assert len(set(before.values())) == len(before) == 4
    make_page(pages / "a.png", 9)  # comes first now
    assert ocr(pages, "--resume") == 0
    assert before.items() < sources().items()
    assert ocr(pages, "--overwrite") == 0
    assert before.items() < sources().items()
    assert len(sources()) == 5


@pytest.mark.parametrize("stored", [True, False])
def test_a_csv_of_an_earlier_run_gets_its_documents_without_a_model(
    pages: Path, tmp_path: Path, stored: bool
) -> None:
    make_pdf(pages / "a.pdf", *REDS)
    base = ["ocr", "--images-dir", str(pages), "-o", str(tmp_path / "r.csv"), "--no-text"]
    assert here(*base, script=PAGES) == 0
    table = (tmp_path / "r.csv").read_bytes()
    if not stored:  # the CSV is all there is
        (tmp_path / "r.csv.journal.sqlite").unlink()
    none = Script(answers={key: Answer("read twice") for key in KEYS})
    assert ocr(pages, "--resume", "--format", "json", script=none) == 0
    assert (tmp_path / "r.csv").read_bytes() == table
    found = json.loads((out(pages, "a") / "a.json").read_text())["pages"]
    assert [page["blocks"][0]["content"] for page in found] == [f"<p>page {n}</p>" for n in range(1, 6)]
    assert found[0]["blocks"][0]["bbox"] == [0, 0, 512, 768]  # from the store, or of the page
    assert found[0]["generated_tokens"] == (len(said(1)) + 1 if stored else None)


def test_files_that_are_up_to_date_are_not_written_again(
    pages: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_pdf(pages / "a.pdf", *REDS)
    make_page(pages / "b.png", 1)
    assert ocr(pages) == 0
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "read_answer", lambda *_: pytest.fail("a page was converted again"))
        capsys.readouterr()
        assert ocr(pages, "--resume") == 0
        assert "documents were written" not in capsys.readouterr().out
    shutil.rmtree(out(pages, "a"))
    assert ocr(pages, "--resume") == 0
    assert "The files of 1 document were written." in capsys.readouterr().out
    assert ocr(pages, "--resume", "--format", "text") == 0
    assert (out(pages, "a") / "a.txt").read_text().startswith("page 1\n\fpage 2\n")


def test_a_page_that_is_read_again_changes_its_documents_files(pages: Path) -> None:
    make_pdf(pages / "a.pdf", *REDS[:3])
    half = Script(answers={**PAGES.answers, KEYS[1]: Answer("<p>ha", "length")})
    assert ocr(pages, script=half) == 1
    assert (out(pages, "a") / "a.md").read_text() == "page 1\n\nha\n\npage 3"
    assert ocr(pages, "--retry-errors") == 0
    assert (out(pages, "a") / "a.md").read_text() == "page 1\n\npage 2\n\npage 3"
    assert metadata(pages)["num_failed_pages"] == 0
    assert all(page["token_count"] for page in metadata(pages)["pages"])  # type: ignore[attr-defined]


def test_pages_that_several_runs_chose_come_together(pages: Path) -> None:
    make_pdf(pages / "a.pdf", *REDS)
    assert ocr(pages, "--pages", "2,5") == 0
    assert (out(pages, "a") / "a.md").read_text() == "page 2\n\npage 5"
    assert ocr(pages, "--resume", "--pages", "1,4") == 0
    assert (out(pages, "a") / "a.md").read_text() == "page 1\n\npage 2\n\npage 4\n\npage 5"
    assert [page["page"] for page in metadata(pages)["pages"]] == [1, 2, 4, 5]  # type: ignore[attr-defined]


def test_a_document_that_cannot_be_written_is_said_and_the_others_are(
    pages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_page(pages / "a.png", 1)
    make_page(pages / "b.png", 2)
    assert ocr(pages) == 0
    (out(pages, "a") / "a.md").unlink()
    (out(pages, "a") / "a.md").mkdir()
    assert ocr(pages, "--resume", "--paginate") == 1
    found = capsys.readouterr()
    assert "Those of 1 document are missing." in found.out
    assert "can't be written" in found.err
    assert [row.status for row in read(pages.parent / "r.csv")] == ["ok", "ok"]
    (out(pages, "a") / "a.md").rmdir()
    assert ocr(pages, "--resume", "--paginate") == 0
    assert (out(pages, "a") / "a.md").read_text()


def test_a_page_that_cannot_be_converted_stands_as_its_text(
    pages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pdf(pages / "a.pdf", *REDS[:2])
    real = conversion.read_answer

    def stumbling(text: str, scale: int | None) -> object:
        if "page 1" in text:
            raise KeyError("odd")
        return real(text, scale)

    monkeypatch.setattr(conversion, "read_answer", stumbling)
    assert ocr(pages) == 0
    assert (out(pages, "a") / "a.md").read_text() == "page 1\n\npage 2"
    assert "KeyError: 'odd'" in metadata(pages)["pages"][0]["problems"][0]  # type: ignore[index]


@pytest.mark.parametrize("figure", [False, True])
def test_a_source_that_is_gone_keeps_its_documents_text(pages: Path, tmp_path: Path, figure: bool) -> None:
    more = '<div data-bbox="0 0 500 500" data-label="Figure"><img alt="fig"/></div>' if figure else ""
    make_page(pages / "a.png", 1)
    (tmp_path / "list.txt").write_text("pages/a.png\n")
    base = ["ocr", "--manifest", str(tmp_path / "list.txt"), "-o", str(tmp_path / "r.csv"), "--no-text"]
    assert here(*base, script=Script(answers={"000001": Answer(said(1, more))})) == 0
    (pages / "a.png").unlink()
    assert here(*base, "--resume", "--output-dir", str(out(pages))) == 0
    assert (out(pages, "a") / "a.md").read_text().startswith("page 1")
    (page,) = metadata(pages)["pages"]  # type: ignore[misc]
    assert ["couldn't be opened again" in problem for problem in page["problems"]] == [True] * figure  # type: ignore[has-type]


def test_two_runs_with_one_folder_of_documents_do_not_meet(
    pages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_page(pages / "a.png", 1)
    settings = ExportSettings(str(out(pages)), frozenset({Format.TEXT}))
    with contextlib.closing(Exports(settings, lambda _: iter(()), lambda _: pytest.fail("opened"))):
        assert ocr(pages) == 1
        assert "Another run" in capsys.readouterr().err
    assert ocr(pages, "--resume") == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "html"], "--output-dir DIR"),
        (["--headers"], "--output-dir DIR"),
        (["--no-images"], "--output-dir DIR"),
        (["--paginate"], "--output-dir DIR"),
        (["--output-dir", "o", "--format", "html,docx"], "'docx' is no format"),
        (["--output-dir", "o", "--headers", "--no-headers"], "not allowed with"),
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: object
) -> None:
    make_page(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    assert here("ocr", "a.png", "-o", "r.csv", *arguments) == 2
    assert words in capfd.readouterr().err  # type: ignore[attr-defined]
    assert os.listdir(tmp_path) == ["a.png"]


def test_parquet_without_its_package_is_said_before_anything_is_read(
    pages: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_page(pages / "a.png")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert ocr(pages, "--format", "parquet") == 1
    assert "mlx-chandra[parquet]" in capsys.readouterr().err
    assert not (pages.parent / "r.csv").exists()
