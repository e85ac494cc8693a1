"""Files, folders and patterns on the command line become documents: which, in what order, each once."""

import os
from pathlib import Path

import pytest

from mlx_chandra.documents.named import Named
from mlx_chandra.errors import UsageError
from tests.documents.test_discover import touch


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def found(*paths: str) -> list[str]:
    return [os.path.relpath(document.path) for document in Named.at(paths)]


def below(*paths: str) -> list[str]:
    return [os.path.join(document.below, document.text_stem) for document in Named.at(paths)]


def test_files_and_folders_come_in_the_order_named_and_each_once(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ["in/b.png", "in/a.pdf", "in/sub/c.gif", "z.tif", "notes.scan"]))
    assert found("z.tif", "in", "in/b.png", "notes.scan") == [
        "z.tif", "in/a.pdf", "in/b.png", "in/sub/c.gif", "notes.scan",
    ]  # fmt: skip
    assert found("in/b.png", "in/", "./in/sub/../a.pdf") == ["in/b.png", "in/a.pdf", "in/sub/c.gif"]


def test_a_pattern_gives_documents_and_folders_that_match_in_the_order_of_their_paths(tmp_path: Path) -> None:
    touch(
        *(
            tmp_path / name
            for name in ["in/b.pdf", "in/a.png", "in/a_ocr.txt", "in/sub/c.pdf", "in/x/y/d.pdf"]
        )
    )
    assert found("in/*.pdf") == ["in/b.pdf"]
    assert found("in/*") == ["in/a.png", "in/b.pdf", "in/sub/c.pdf", "in/x/y/d.pdf"]
    assert found("in/**/*.pdf") == ["in/b.pdf", "in/sub/c.pdf", "in/x/y/d.pdf"]
    assert found("**") == ["in/a.png", "in/b.pdf", "in/sub/c.pdf", "in/x/y/d.pdf"]


def test_a_name_that_exists_is_no_pattern(tmp_path: Path) -> None:
    touch(tmp_path / "scan[1].pdf", tmp_path / "scan1.pdf")
    assert found("scan[1].pdf") == ["scan[1].pdf"]


def test_what_leads_nowhere_is_wrong_usage(tmp_path: Path) -> None:
    touch(tmp_path / "a.png")
    with pytest.raises(UsageError, match="There is no file or folder"):
        Named.at(["a.png", "gone.pdf"])
    with pytest.raises(UsageError, match="Nothing matches"):
        Named.at(["*.pdf"])


def test_texts_elsewhere_keep_the_folders_apart(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ["one/a.png", "one/sub/a.png", "two/a.png", "two/a.pdf"]))
    assert below("one") == ["a", "sub/a"]
    assert below("one", "two/a.png") == ["one/a", "one/sub/a", "two/a.png"]
    assert below("two/a.png") == ["a.png"]
    assert below("*/a.png") == ["one/a", "two/a.png"]


def test_it_can_be_asked_again(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "b.pdf")
    source = Named.at(["."])
    assert list(source) == list(source)
    assert len(list(source)) == 2
