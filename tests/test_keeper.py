"""What is kept of a page: one result, and the table and the documents are told of the same."""

from collections.abc import Sequence
from pathlib import Path

from mlx_chandra.assembly import NoDocuments
from mlx_chandra.attempts import PageResult, judged, refused, result_of
from mlx_chandra.documents.page import Document, Page
from mlx_chandra.errors import PageError
from mlx_chandra.keeper import Endings, Keeper
from mlx_chandra.outputs.layout import Size
from mlx_chandra.outputs.ledger import PageFacts
from mlx_chandra.outputs.results_csv import ResultsFile


class Listener(NoDocuments):
    """Documents that remember what they were told."""

    def __init__(self) -> None:
        super().__init__()
        self.facts: list[PageFacts] = []

    def record(self, pages: Sequence[PageFacts]) -> None:
        self.facts.extend(pages)


def page(folder: Path, name: str, number: int | None = None) -> Page:
    return Page(Document(str(folder / name), "", Path(name).stem), number)


def read(page: Page, *answers: str, reason: str = "stop") -> PageResult:
    """A page that was answered so; one answer for each attempt."""

    def decode(ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    attempts = [judged(decode, [ord(c) for c in text], reason, 1.5) for text in answers]
    return result_of(page, Size(30, 40), 7, attempts)


def test_the_table_and_the_documents_are_told_the_same_of_a_page(tmp_path: Path) -> None:
    listener = Listener()
    whole, cut, torn = page(tmp_path, "a.pdf", 2), page(tmp_path, "b.png"), page(tmp_path, "c.png")
    with ResultsFile(tmp_path / "r.csv") as results:
        keeper = Keeper(results, 1024, True, str(tmp_path / "texts"), listener)
        keeper.keep(read(whole, "words"))
        keeper.keep(read(cut, "wor", reason="length"))
        keeper.keep(refused(torn, PageError("unreadable", "the file is empty")))
        keeper.close()
        rows = [results.row(facts.page) for facts in listener.facts]
    assert [(row.status, row.text) for row in rows if row] == [
        ("ok", "words"),
        ("error:truncated", "wor"),
        ("error:unreadable: the file is empty", ""),
    ]
    assert listener.facts == [
        PageFacts(str(tmp_path / "a.pdf"), whole.path, Size(30, 40), "stop", 7, 5, 1024),
        PageFacts(str(tmp_path / "b.png"), cut.path, Size(30, 40), "length", 7, 3, 1024),
        PageFacts(str(tmp_path / "c.png"), torn.path, None, None, 0, 0, 1024),
    ]
    assert (tmp_path / "texts" / "a_p0002_ocr.txt").read_text() == "words"
    assert sorted(path.name for path in (tmp_path / "texts").iterdir()) == ["a_p0002_ocr.txt", "b_ocr.txt"]


def test_each_page_is_counted_by_how_it_ended_and_whether_it_was_read_again(tmp_path: Path) -> None:
    circles = "again " * 20
    with ResultsFile(tmp_path / "r.csv") as results:
        keeper = Keeper(results, 1024, False, None, NoDocuments())
        keeper.keep(read(page(tmp_path, "1.png"), "words"))
        keeper.keep(read(page(tmp_path, "2.png"), circles, "words"))
        keeper.keep(read(page(tmp_path, "3.png"), circles, circles))
        keeper.keep(read(page(tmp_path, "4.png"), ""))
        keeper.keep(read(page(tmp_path, "5.png"), "wor", reason="length"))
        keeper.keep(refused(page(tmp_path, "6.png"), PageError("unreadable", "the file is empty")))
        keeper.close()
    assert (keeper.ok, keeper.failed) == (2, 4)
    assert keeper.endings == Endings(empty=1, truncated=1, repetition=1, error=1, retried=2, mended=1)


def test_documents_are_told_the_tokens_of_the_answer_that_is_kept(tmp_path: Path) -> None:
    listener = Listener()
    with ResultsFile(tmp_path / "r.csv") as results:
        keeper = Keeper(results, 1024, False, None, listener)
        keeper.keep(read(page(tmp_path, "a.png"), "again " * 20, "words"))
        keeper.close()
    assert [facts.generated_tokens for facts in listener.facts] == [5]
