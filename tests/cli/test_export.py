"""`mlx-chandra export`: documents' files from stored results, at any time, and without a model."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path
from types import ModuleType

import pytest

from mlx_chandra.cli.main import main
from mlx_chandra.documents.page import Document, Page, PageResult, ReadSettings
from tests.cli.program import make_page

FIGURE = '<div data-bbox="0 0 1000 1000" data-label="Figure"><img alt="fig"/></div>'


class Start(Enum):
    """As the store has it."""

    RESUME = "resume"


class Store:
    """The store's answers to an export, from what a test gives it."""

    warnings: Iterable[str] = ()
    results: Mapping[str, list[PageResult]] = {}

    @classmethod
    def preview(
        cls, path: str, settings: ReadSettings, start: Start, again: None, any_settings: bool
    ) -> "Store":
        assert (start, again, any_settings) == (Start.RESUME, None, True)
        return cls()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def documents(self) -> Iterator[str]:
        return iter(self.results)

    def document(self, path: str) -> Iterator[PageResult]:
        return iter(self.results[path])


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CSV of two documents: a picture that is there, and three pages of a PDF that isn't."""
    picture = make_page(tmp_path / "in" / "b.png", 0xFF0000, (40, 20))
    read = ReadSettings("mlx-chandra 1", "demo", {"max_tokens": 9})
    page = Page(Document(str(picture), "", "b"))
    first = PageResult(page, "ok", FIGURE, "stop", 5, 7, size=(40, 20), box_scale=1000, settings=read)
    paged = Document(str(tmp_path / "in" / "a.pdf"), "", "a")
    others = [replace(first, page=Page(paged, n), text=f"<h1>{n}</h1>", size=None) for n in (1, 2, 3)]
    module = ModuleType("mlx_chandra.store.store")
    vars(module).update(Start=Start, Store=Store)
    monkeypatch.setattr(Store, "results", {str(picture): [first], paged.path: others})
    monkeypatch.setitem(sys.modules, "mlx_chandra.store", ModuleType("mlx_chandra.store"))
    monkeypatch.setitem(sys.modules, "mlx_chandra.store.store", module)
    path = tmp_path / "r.csv"
    path.write_text("image_path,status,ocr_text\r\n")
    return path


def export(table: Path, *options: str) -> int:
    return main(["export", str(table), "--output-dir", str(table.parent / "out"), *options])


def out(table: Path, name: str) -> Path:
    return table.parent / "out" / name


def test_each_document_gets_its_files_and_those_that_are_current_are_passed_over(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(table, "--format", "html,markdown,json,text,parquet") == 0
    said = f"2 documents written, 0 current, 0 failed. Documents: {table.parent / 'out'}\n"
    assert capsys.readouterr() == (said, "")
    assert out(table, "a/a.md").read_text() == "# 1\n\n# 2\n\n# 3"
    assert len(list(out(table, "b").glob("*.webp"))) == 1
    assert json.loads(out(table, "b/b.json").read_text())["pages"][0]["model"] == "demo"
    assert export(table, "--format", "html,markdown,json,text,parquet") == 0
    assert capsys.readouterr().out.startswith("0 documents written, 2 current, 0 failed.")
    assert export(table, "--format", "text", "--no-images") == 0
    assert capsys.readouterr().out.startswith("2 documents written")
    assert not list(out(table, "b").glob("*.webp"))


@pytest.mark.parametrize("pattern", ["a.pdf", "*.pdf", "*/in/a*"])
def test_only_some_documents_are_exported(table: Path, pattern: str) -> None:
    assert export(table, "--only", pattern) == 0
    assert os.listdir(out(table, "")) == ["a"]


def test_pages_that_cannot_be_converted_are_counted_and_named(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, pages = next((path, pages) for path, pages in Store.results.items() if len(pages) == 3)
    Store.results[path][1] = replace(pages[1], text=f"<p>odd</p>{'<a ' * 9000}")  # type: ignore[index]
    assert export(table) == 0
    said = f"1 page written as plain text ({path}#page=2)"
    assert said in capsys.readouterr().out
    assert export(table, "--verbose", "--paginate") == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"written  {path} -> a" in lines
    problems = [line for line in lines if line.startswith(f"         {path}#page=2: ")]
    assert any("couldn't be converted" in line for line in problems)
    assert export(table, "--verbose", "--paginate") == 0
    assert f"current  {path}" in capsys.readouterr().out.splitlines()


def test_a_document_that_cannot_be_written_is_said_and_the_others_are(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(table) == 0
    out(table, "b/b.html").unlink()
    out(table, "b/b.html").mkdir()
    assert export(table, "--paginate") == 1
    found = capsys.readouterr()
    assert "1 document written, 0 current, 1 failed." in found.out
    assert "can't be written" in found.err
    assert "<!-- Page 2 -->" in out(table, "a/a.html").read_text()


def test_warnings_of_the_store_are_said(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Store, "warnings", ["It was edited."])
    assert export(table) == 0
    assert capsys.readouterr().err == "Warning: It was edited.\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no.csv", "--output-dir", "o"], "no results file 'no.csv'"),
        (["r.csv"], "--output-dir DIR"),
        (["r.csv", "--output-dir", "o", "--format", "docx"], "'docx' is no format"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(
    arguments: list[str], words: str, table: Path, monkeypatch: pytest.MonkeyPatch, capfd: object
) -> None:
    monkeypatch.chdir(table.parent)
    assert main(["export", *arguments]) == 2
    assert words in capfd.readouterr().err  # type: ignore[attr-defined]
    assert not (table.parent / "o").exists()


def test_ctrl_c_ends_it_with_130_and_no_half_file(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Store, path: str) -> Iterator[PageResult]:
        yield self.results[path][0]
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "document", interrupted)
    assert export(table) == 130
    (folder,) = out(table, "").iterdir()
    assert [path.suffix for path in folder.iterdir() if path.suffix != ".webp"] == [".json"]
