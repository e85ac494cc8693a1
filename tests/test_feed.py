"""The pages to do are found as they are asked for, and documents are opened when it is their turn."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_chandra.documents import pages as document_pages
from mlx_chandra.documents.page import Document, Page
from mlx_chandra.documents.pages import Reading
from mlx_chandra.feed import Todo, Total
from mlx_chandra.outputs.results_csv import ResultsFile, Row, Start


class Many:
    """A source of documents that notes how far it was asked."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.given = 0

    def __iter__(self) -> Iterator[Document]:
        for number in range(self.count):
            self.given = number + 1
            yield Document(f"/in/{number}.pdf", "", str(number))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The documents that were opened for their pages; each has three."""
    names: list[str] = []

    def three(document: Document, reading: Reading) -> Iterator[Page]:
        names.append(document.path)
        yield from (Page(document, number) for number in (1, 2, 3))

    monkeypatch.setattr(document_pages, "pages_of", three)
    return names


def counted(total: Total) -> int:
    end = time.monotonic() + 10
    while total.count is None and time.monotonic() < end:
        time.sleep(0.001)
    assert total.count is not None
    return total.count


def test_a_document_is_opened_when_its_first_page_is_asked_for(tmp_path: Path, opened: list[str]) -> None:
    source = Many(200_000)
    with ResultsFile(tmp_path / "r.csv") as results:
        todo = Todo(source, results, Reading())
        assert (source.given, opened) == (1, ["/in/0.pdf"])
        pages = [todo.next() for _ in range(4)]
    assert [page.path for page in pages if page] == [
        "/in/0.pdf#page=1", "/in/0.pdf#page=2", "/in/0.pdf#page=3", "/in/1.pdf#page=1",
    ]  # fmt: skip
    assert opened == ["/in/0.pdf", "/in/1.pdf"]


def test_pages_that_are_done_are_skipped_and_not_counted(tmp_path: Path, opened: list[str]) -> None:
    with ResultsFile(tmp_path / "r.csv") as results:
        results.append([Row("/in/0.pdf#page=2", "ok", ""), Row("/in/1.pdf", "error:locked: ...", "")])
    with ResultsFile(tmp_path / "r.csv", Start.RESUME) as results:
        todo = Todo(Many(3), results, Reading())
        paths = []
        while (page := todo.next()) is not None:
            paths.append(page.path)
        assert paths == [f"/in/{n}.pdf#page={p}" for n, p in ((0, 1), (0, 3), (2, 1), (2, 2), (2, 3))]
        assert todo.skipped == 2
        assert "/in/1.pdf" not in opened
        assert counted(Total(Many(3), results, Reading())) == 5


def test_of_each_document_it_is_said_how_many_pages_it_has_and_how_many_are_left(
    tmp_path: Path, opened: list[str]
) -> None:
    said: list[tuple[str, int, int]] = []
    with ResultsFile(tmp_path / "r.csv") as results:
        results.append([Row("/in/0.pdf#page=2", "ok", ""), Row("/in/1.pdf", "error:locked: ...", "")])
        results.append([Row(f"/in/2.pdf#page={page}", "ok", "") for page in (1, 2, 3)])
        todo = Todo(
            Many(4), results, Reading(), lambda d, pages, left: said.append((d.path, len(pages), left))
        )
        assert said == [("/in/0.pdf", 3, 2)]  # before its first page is given out, and no other
        while todo.next() is not None:
            pass
    assert said == [("/in/0.pdf", 3, 2), ("/in/1.pdf", 1, 0), ("/in/2.pdf", 3, 0), ("/in/3.pdf", 3, 3)]


def test_counting_stops_when_it_is_told_to(tmp_path: Path, opened: list[str]) -> None:
    with ResultsFile(tmp_path / "r.csv") as results:
        source = Many(10_000_000)
        total = Total(source, results, Reading())
        total.stop()
        time.sleep(0.05)
        given = source.given
        time.sleep(0.05)
    assert source.given == given < source.count
    assert total.count is None
