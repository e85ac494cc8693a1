"""What is kept of a page: one result, and the table and the documents are told of the same."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from mlx_chandra.assembly import NoDocuments
from mlx_chandra.documents.document import Document, Page
from mlx_chandra.errors import PageError
from mlx_chandra.feed import Refused
from mlx_chandra.keeper import Answered, Keeper
from mlx_chandra.outputs.layout import Size
from mlx_chandra.outputs.ledger import PageFacts
from mlx_chandra.outputs.results_csv import ResultsFile


class Decoder:
    box_scale = 1024

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


class Listener(NoDocuments):
    """Documents that remember what they were told."""

    def __init__(self) -> None:
        super().__init__()
        self.facts: list[PageFacts] = []

    def record(self, pages: Sequence[PageFacts]) -> None:
        self.facts.extend(pages)


def page(folder: Path, name: str, number: int | None = None) -> Page:
    return Page(Document(str(folder / name), "", Path(name).stem), number)


def answered(page: Page, text: str, reason: str, error: PageError | None = None) -> Answered:
    return Answered(page, (30, 40), 7, [ord(c) for c in text], reason, 1.5, error)


def test_the_table_and_the_documents_are_told_the_same_of_a_page(tmp_path: Path) -> None:
    listener = Listener()
    read, cut = page(tmp_path, "a.pdf", 2), page(tmp_path, "b.png")
    with ResultsFile(tmp_path / "r.csv") as results:
        keeper = Keeper(results, Decoder(), True, str(tmp_path / "texts"), listener)
        keeper.keep(answered(read, "words", "stop"))
        keeper.keep(answered(cut, "wor", "length"))
        keeper.keep(Refused(page(tmp_path, "c.png"), PageError("unreadable", "the file is empty")))
        keeper.close()
        rows = [results.row(facts.page) for facts in listener.facts]
    assert [(row.status, row.text) for row in rows if row] == [
        ("ok", "words"),
        ("error:truncated", "wor"),
        ("error:unreadable: the file is empty", ""),
    ]
    assert (keeper.ok, keeper.failed) == (1, 2)
    assert listener.facts == [
        PageFacts(str(tmp_path / "a.pdf"), read.path, Size(30, 40), "stop", 7, 5, 1024),
        PageFacts(str(tmp_path / "b.png"), cut.path, Size(30, 40), "length", 7, 3, 1024),
        PageFacts(str(tmp_path / "c.png"), str(tmp_path / "c.png"), None, None, 0, 0, 1024),
    ]
    assert (tmp_path / "texts" / "a_p0002_ocr.txt").read_text() == "words"
    assert sorted(path.name for path in (tmp_path / "texts").iterdir()) == ["a_p0002_ocr.txt", "b_ocr.txt"]


@pytest.mark.parametrize("reason", ["length", "repetition"])
def test_a_page_that_did_not_come_to_its_end_is_never_ok(tmp_path: Path, reason: str) -> None:
    with ResultsFile(tmp_path / "r.csv") as results:
        keeper = Keeper(results, Decoder(), False, None, NoDocuments())
        keeper.keep(answered(page(tmp_path, "a.png"), "", reason))
        keeper.close()
    assert (keeper.ok, keeper.failed) == (0, 1)
