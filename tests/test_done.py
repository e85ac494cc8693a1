"""Which pages are done is told with as few looks at their files as can be."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_chandra import done as done_module
from mlx_chandra.documents.page import Document, Page
from mlx_chandra.done import ByContent, Origin
from mlx_chandra.outputs.journal import Journal, JournalPage
from mlx_chandra.outputs.making import Making
from mlx_chandra.outputs.results_csv import ResultsFile, Row

MAKING = Making("mlx-chandra 1", "demo", {}, "f00d")
OLD = 1_600_000_000  # a time in 2020, in seconds


@pytest.fixture
def results(tmp_path: Path) -> Iterator[ResultsFile]:
    with ResultsFile(tmp_path / "r.csv") as results:
        yield results


@pytest.fixture
def done(results: ResultsFile) -> Iterator[ByContent]:
    with Journal(results.path, MAKING) as journal:
        yield ByContent(results, journal)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were hashed."""
    names: list[str] = []
    content_hash = done_module.content_hash

    def noted(path: str) -> str | None:
        names.append(os.path.basename(path))
        return content_hash(path)

    monkeypatch.setattr(done_module, "content_hash", noted)
    return names


def make_file(path: Path, content: str, seconds: int = OLD) -> Document:
    path.write_text(content)
    os.utime(path, (seconds, seconds))
    return Document(str(path), "", path.stem)


def keep(results: ResultsFile, done: ByContent, page: Page) -> None:
    results.append([Row(page.path, "ok", "text")])
    done.keep([JournalPage(page.path, None, page.number or 0, "ok")])


def test_a_file_is_hashed_once_as_long_as_its_size_and_time_stay(
    tmp_path: Path, results: ResultsFile, done: ByContent, hashed: list[str]
) -> None:
    page = Page(make_file(tmp_path / "a.png", "one"))
    assert done.origin(page, again=False) is None
    keep(results, done, page)
    assert hashed == ["a.png"]
    for _ in range(5):
        assert done.is_current(page)
    assert hashed == ["a.png"]
    make_file(tmp_path / "a.png", "two", OLD + 1)
    assert not done.is_current(page)
    assert not done.is_current(page)
    assert hashed == ["a.png", "a.png"]


def test_a_document_of_many_pages_is_hashed_once_also_when_it_is_brand_new(
    tmp_path: Path, done: ByContent, hashed: list[str]
) -> None:
    path = tmp_path / "a.pdf"
    path.write_text("new")
    document = Document(str(path), "", "a")
    for number in range(1, 200):
        assert done.origin(Page(document, number), again=False) is None
    assert hashed == ["a.pdf"]


def test_a_copy_waits_for_the_page_that_is_being_read_and_later_finds_its_row(
    tmp_path: Path, results: ResultsFile, done: ByContent
) -> None:
    first, second, third = (Page(make_file(tmp_path / f"{name}.png", "same")) for name in "abc")
    assert done.origin(first, again=False) is None
    assert done.origin(second, again=False) == Origin(first.path, in_work=True)
    keep(results, done, first)
    for again in (False, True):  # it is of this run
        assert done.origin(third, again) == Origin(first.path, in_work=False)


def test_pages_of_one_number_are_copies_and_others_are_not(tmp_path: Path, done: ByContent) -> None:
    first, second = make_file(tmp_path / "a.pdf", "same"), make_file(tmp_path / "b.pdf", "same")
    assert done.origin(Page(first, 1), again=False) is None
    assert done.origin(Page(second, 2), again=False) is None
    assert done.origin(Page(second, 1), again=False) == Origin(f"{first.path}#page=1", in_work=True)


def test_a_file_that_cannot_be_read_is_nobodys_copy(tmp_path: Path, done: ByContent) -> None:
    for name in "ab":
        assert done.origin(Page(Document(str(tmp_path / name), "", name)), again=False) is None


def test_a_row_that_the_journal_does_not_know_counts_and_its_file_is_not_looked_at(
    tmp_path: Path, done: ByContent, hashed: list[str]
) -> None:
    assert done.is_current(Page(make_file(tmp_path / "a.png", "one")))
    assert hashed == []
