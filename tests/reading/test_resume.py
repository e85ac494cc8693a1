"""Which pages of the input need a result, found with as few looks at their files as can be."""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlx_chandra.documents.page import Document, Page, PageResult, ReadSettings
from mlx_chandra.documents.pages import Reading
from mlx_chandra.documents.selection import PageSelection
from mlx_chandra.reading import resume as resume_module
from mlx_chandra.reading.loader import Copied
from mlx_chandra.reading.resume import Resume
from mlx_chandra.store.store import Start, Store
from tests.documents.pdf_files import make_pdf

SETTINGS = ReadSettings("test", "fake", {"max_tokens": 9})
OTHER = replace(SETTINGS, settings={"max_tokens": 10})
OLD = 1_600_000_000  # a time in 2020, in seconds


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "r.csv", SETTINGS) as store:
        yield store


@pytest.fixture
def resume(store: Store) -> Resume:
    return Resume(store, Reading())


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were hashed."""
    names: list[str] = []
    content_hash = resume_module.content_hash

    def noted(path: str) -> str | None:
        names.append(os.path.basename(path))
        return content_hash(path)

    monkeypatch.setattr(resume_module, "content_hash", noted)
    return names


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the documents whose pages were looked for."""
    names: list[str] = []
    pages_of = resume_module.pages_of

    def noted(document: Document, reading: Reading) -> Iterator[Page]:
        names.append(os.path.basename(document.path))
        return pages_of(document, reading)

    monkeypatch.setattr(resume_module, "pages_of", noted)
    return names


def make_file(path: Path, content: str, seconds: int = OLD) -> Document:
    path.write_text(content)
    os.utime(path, (seconds, seconds))
    return Document(str(path), "", path.stem)


def make_document(path: Path, *colours: str, seconds: int = OLD) -> Document:
    make_pdf(path, *colours)
    os.utime(path, (seconds, seconds))
    return Document(str(path), "", path.stem)


def keep(store: Store, resume: Resume, *pages: Page, status: str = "ok") -> None:
    """Store results of pages, as a run does."""
    results = [PageResult(page, status, "text", content=resume.content_of(page)) for page in pages]
    store.add(results)
    resume.release(results)


def todo(resume: Resume, document: Document) -> list[Page | Copied]:
    return list(resume.plan(document).todo)


def again(tmp_path: Path, settings: ReadSettings = SETTINGS, reading: Reading | None = None) -> Resume:
    """What a later run decides with; its store is a preview."""
    return Resume(Store.preview(tmp_path / "r.csv", settings), reading or Reading())


def test_a_file_is_hashed_once_as_long_as_its_size_and_time_stay(
    tmp_path: Path, store: Store, resume: Resume, hashed: list[str]
) -> None:
    document = make_file(tmp_path / "a.png", "one")
    (page,) = todo(resume, document)
    assert isinstance(page, Page)
    keep(store, resume, page)
    assert hashed == ["a.png"]
    for _ in range(5):
        assert todo(resume, document) == []
    assert hashed == ["a.png"]
    make_file(tmp_path / "a.png", "two", OLD + 1)
    assert todo(resume, document) == [page]
    assert resume.count(document) == 1
    assert hashed == ["a.png", "a.png"]


def test_a_document_of_many_pages_is_hashed_once_also_when_it_is_brand_new(
    tmp_path: Path, resume: Resume, hashed: list[str]
) -> None:
    make_pdf(tmp_path / "a.pdf", *["1 0 0"] * 50)  # changed just now, so its hash isn't kept for later runs
    assert len(todo(resume, Document(str(tmp_path / "a.pdf"), "", "a"))) == 50
    assert hashed == ["a.pdf"]


def test_a_page_is_current_by_its_bytes_settings_and_status(
    tmp_path: Path, store: Store, resume: Resume
) -> None:
    documents = {name: make_file(tmp_path / f"{name}.png", name) for name in ("read", "failed", "new")}
    for name, status in (("read", "ok"), ("failed", "error:unreadable: torn")):
        (page,) = todo(resume, documents[name])
        assert isinstance(page, Page)
        keep(store, resume, page, status=status)
    needed = {name for name, document in documents.items() if todo(again(tmp_path), document)}
    assert needed == {"new"}
    needed = {name for name, document in documents.items() if todo(again(tmp_path, OTHER), document)}
    assert needed == {"read", "new"}  # one that failed waits to be asked for
    os.utime(documents["read"].path, (OLD + 9, OLD + 9))  # touched
    assert todo(again(tmp_path), documents["read"]) == []
    os.unlink(documents["read"].path)  # what was read of it stays
    assert todo(again(tmp_path, OTHER), documents["read"]) == []


def test_a_copy_waits_for_the_page_in_work_and_later_finds_its_result(
    tmp_path: Path, store: Store, resume: Resume
) -> None:
    first, second, third = (make_file(tmp_path / f"{name}.png", "same") for name in "abc")
    (page,) = todo(resume, first)
    assert page == Page(first)
    assert resume.in_work(first.path)
    assert todo(resume, second) == [Copied(Page(second), first.path)]
    keep(store, resume, Page(first))
    assert not resume.in_work(first.path)
    (copied,) = todo(resume, third)
    assert isinstance(copied, Copied)
    assert (copied.origin, copied.result and copied.result.text) == (first.path, "text")


def test_what_failed_is_nobodys_origin(tmp_path: Path, store: Store, resume: Resume) -> None:
    first, second = (make_file(tmp_path / f"{name}.png", "same") for name in "ab")
    todo(resume, first)
    keep(store, resume, Page(first), status="error:overflow: ...")
    assert todo(resume, second) == [Page(second)]


def test_a_page_that_is_to_be_read_again_is_copied_from_this_runs_pages_alone(tmp_path: Path) -> None:
    documents = [make_file(tmp_path / f"{name}.png", "same") for name in "abc"]
    with Store(tmp_path / "r.csv", SETTINGS) as store:
        before = Resume(store, Reading())
        for document in documents:
            todo(before, document)
            keep(store, before, Page(document))
    named = {documents[1].path, documents[2].path}
    with Store(tmp_path / "r.csv", SETTINGS, Start.RESUME, lambda path, status: path in named, True) as store:
        resume = Resume(store, Reading())
        assert todo(resume, documents[0]) == []
        assert todo(resume, documents[1]) == [Page(documents[1])]
        assert todo(resume, documents[2]) == [Copied(Page(documents[2]), documents[1].path)]
        keep(store, resume, Page(documents[1]))
        (copied,) = todo(resume, documents[2])
        assert isinstance(copied, Copied)
        assert copied.origin == documents[1].path


def test_pages_of_one_number_are_copies_and_others_are_not(tmp_path: Path, resume: Resume) -> None:
    first, second = (make_document(tmp_path / f"{name}.pdf", "1 0 0", "0 1 0") for name in "ab")
    chosen = Resume(resume._memory, Reading(PageSelection.parse("1")))
    assert todo(chosen, first) == [Page(first, 1)]
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()
    assert todo(chosen, second) == [Copied(Page(second, 1), f"{first.path}#page=1")]
    other = Resume(resume._memory, Reading(PageSelection.parse("2")))
    assert todo(other, second) == [Page(second, 2)]


def test_a_file_that_cannot_be_read_is_nobodys_copy(tmp_path: Path, resume: Resume) -> None:
    for name in "ab":
        document = Document(str(tmp_path / f"{name}.png"), "", name)
        (page,) = todo(resume, document)
        assert isinstance(page, Page)
        assert resume.content_of(page) is None


def test_a_document_that_is_stored_under_its_own_path_is_neither_opened_nor_hashed(
    tmp_path: Path, hashed: list[str], opened: list[str]
) -> None:
    (tmp_path / "r.csv").write_text(
        f"image_path,status,ocr_text\r\n{tmp_path}/a.png,ok,text\r\n{tmp_path}/b.pdf,error:locked: ...,\r\n"
    )
    documents = [make_file(tmp_path / "a.png", "one"), make_file(tmp_path / "b.pdf", "no PDF")]
    resume = again(tmp_path, OTHER)
    plans = [resume.plan(document) for document in documents]
    assert [(len(plan.pages), list(plan.todo)) for plan in plans] == [(1, []), (1, [])]
    assert (hashed[1:], opened) == ([], [])


def test_of_a_document_only_pages_without_a_result_are_left_and_counted(
    tmp_path: Path, store: Store, resume: Resume
) -> None:
    document = make_document(tmp_path / "a.pdf", "1 0 0", "0 1 0", "0 0 1")
    assert resume.count(document) == 3
    todo(resume, document)
    keep(store, resume, Page(document, 2))
    assert resume.count(document) == 3  # one that this run has read counts too
    later = again(tmp_path)
    plan = later.plan(document)
    assert [page.number for page in plan.pages] == [1, 2, 3]
    assert [page.path for page in plan.todo if isinstance(page, Page)] == [
        f"{document.path}#page={number}" for number in (1, 3)
    ]
    assert later.count(document) == 2


def test_stored_pages_that_a_document_has_no_more_are_named_unless_only_some_were_asked_for(
    tmp_path: Path, store: Store, resume: Resume
) -> None:
    document = make_document(tmp_path / "a.pdf", "1 0 0", "0 1 0", "0 0 1")
    todo(resume, document)
    keep(store, resume, *(Page(document, number) for number in (1, 2, 3)))
    make_document(tmp_path / "a.pdf", "1 0 0", seconds=OLD + 1)
    assert resume.plan(document).vanished == [f"{document.path}#page={number}" for number in (2, 3)]
    some = again(tmp_path, reading=Reading(PageSelection.parse("1")))
    assert some.plan(document).vanished == []


def test_no_file_waits_for_another_one_that_is_being_hashed(
    tmp_path: Path, resume: Resume, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, quick = make_file(tmp_path / "slow.png", "slow"), make_file(tmp_path / "quick.png", "quick")
    begun, let_go = threading.Event(), threading.Event()
    content_hash = resume_module.content_hash

    def waiting(path: str) -> str | None:
        if path == slow.path:
            begun.set()
            let_go.wait(20)
        return content_hash(path)

    monkeypatch.setattr(resume_module, "content_hash", waiting)
    thread = threading.Thread(target=resume.plan, args=(slow,))
    thread.start()
    assert begun.wait(10)
    quickly = threading.Thread(target=resume.plan, args=(quick,))
    quickly.start()
    quickly.join(10)
    is_held_up = quickly.is_alive()
    let_go.set()
    thread.join(10)
    quickly.join(10)
    assert not is_held_up


def test_pages_that_are_stored_under_their_resolved_paths_are_met_through_links_too(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "link").symlink_to("scans")
    make_file(tmp_path / "scans" / "a.png", "one")
    make_document(tmp_path / "scans" / "b.pdf", "1 0 0", "0 1 0")
    rows = [f"{tmp_path}/scans/a.png,ok,one", f"{tmp_path}/scans/b.pdf#page=1,ok,first"]
    (tmp_path / "r.csv").write_text("\r\n".join(["image_path,status,ocr_text", *rows, ""]))
    resume = again(tmp_path)
    plans = [resume.plan(Document(str(tmp_path / "link" / name), "", name)) for name in ("a.png", "b.pdf")]
    assert [len(plan.todo) for plan in plans] == [0, 1]
    assert plans[1].document.path == str(tmp_path / "scans" / "b.pdf")
    (page,) = plans[1].todo
    assert isinstance(page, Page)
    assert page.path == f"{tmp_path}/scans/b.pdf#page=2"  # the row stands beside that of page 1
