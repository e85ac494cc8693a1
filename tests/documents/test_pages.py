"""Documents become pages when it is their turn: numbered or not, chosen or not, or one page with an error."""

from pathlib import Path

import pytest
from PIL import Image

from mlx_chandra.documents import image_files
from mlx_chandra.documents.page import Document, Page
from mlx_chandra.documents.pages import Reading, pages_of
from mlx_chandra.documents.selection import PageSelection
from mlx_chandra.errors import PageError, UsageError
from tests.documents.pdf_files import damaged_pdf, locked_pdf, make_pdf, pdf
from tests.documents.test_frames import frames, saved


def pages(path: Path, chosen: str = "1-", password: str | None = None) -> list[Page]:
    document = Document(str(path), "", path.stem)
    return list(pages_of(document, Reading(PageSelection.parse(chosen), password)))


def names(path: Path, chosen: str = "1-") -> list[str]:
    return [page.path.removeprefix(f"{path.parent}/") for page in pages(path, chosen)]


def error_of(path: Path, chosen: str = "1-") -> PageError:
    (page,) = pages(path, chosen)
    assert page.path == str(path)
    assert page.error is not None
    return page.error


def test_a_pdfs_pages_have_numbers_even_if_there_is_only_one(tmp_path: Path) -> None:
    assert names(make_pdf(tmp_path / "a.pdf", "1 0 0", "0 1 0")) == ["a.pdf#page=1", "a.pdf#page=2"]
    assert names(make_pdf(tmp_path / "b.pdf", "1 0 0")) == ["b.pdf#page=1"]


@pytest.mark.parametrize("name", ["a.tif", "a.gif"])
def test_frames_have_numbers_only_if_there_are_several(tmp_path: Path, name: str) -> None:
    assert names(saved(tmp_path / name, frames(3))) == [f"{name}#page={number}" for number in (1, 2, 3)]
    assert names(saved(tmp_path / name, frames(1))) == [name]


def test_the_texts_of_pages_are_named_after_their_numbers(tmp_path: Path) -> None:
    found = pages(saved(tmp_path / "a.tif", frames(2)))
    assert [page.text_stem for page in found] == ["a_p0001", "a_p0002"]
    assert Page(Document("/a.pdf", "", "a"), 12345).text_stem == "a_p12345"
    assert Page(Document("/a.png", "", "a")).text_stem == "a"


def test_a_picture_is_one_page_and_not_opened_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "open_regular", lambda path: pytest.fail("it was opened"))
    assert [names(tmp_path / name) for name in ("a.png", "b.JPG", "c.webp")] == [
        ["a.png"],
        ["b.JPG"],
        ["c.webp"],
    ]


def test_the_content_decides_what_a_file_with_another_name_is(tmp_path: Path) -> None:
    assert names(make_pdf(tmp_path / "a.scan", "1 0 0")) == ["a.scan#page=1"]
    assert names(make_pdf(tmp_path / "b.tif", "1 0 0")) == ["b.tif#page=1"]
    Image.new("RGB", (9, 9)).save(tmp_path / "c.pdf", format="PNG")
    assert names(tmp_path / "c.pdf") == ["c.pdf"]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (damaged_pdf(), "unreadable"),
        (locked_pdf("hush"), "locked"),
        (pdf([]), "no-pages"),
        (b"", "unreadable"),
    ],
)
def test_a_document_that_cannot_be_opened_is_one_page_with_the_error(
    tmp_path: Path, content: bytes, kind: str
) -> None:
    (tmp_path / "a.pdf").write_bytes(content)
    assert error_of(tmp_path / "a.pdf").kind == kind


def test_a_missing_document_and_one_with_an_error_are_one_page_with_it(tmp_path: Path) -> None:
    assert error_of(tmp_path / "gone.pdf").kind == "missing"
    error = PageError("broken-link", "it leads nowhere")
    (page,) = pages_of(Document("/a.pdf", "", "a", error), Reading())
    assert (page.path, page.error) == ("/a.pdf", error)


def test_the_password_opens_what_is_locked(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(locked_pdf("hush"))
    assert [page.number for page in pages(tmp_path / "a.pdf", password="hush")] == [1]


def test_chosen_pages_are_counted_in_each_document(tmp_path: Path) -> None:
    path = make_pdf(tmp_path / "a.pdf", *["1 0 0"] * 4)
    assert names(path, "2,-1") == ["a.pdf#page=2", "a.pdf#page=4"]
    assert names(saved(tmp_path / "b.tif", frames(3)), "2,-1") == ["b.tif#page=2", "b.tif#page=3"]


def test_a_choice_that_leaves_nothing_of_a_document_says_so_and_spares_single_pictures(
    tmp_path: Path,
) -> None:
    error = error_of(make_pdf(tmp_path / "a.pdf", "1 0 0"), "7-")
    assert (error.kind, error.message) == ("no-pages", "it has 1 page, none of those that were asked for")
    assert names(saved(tmp_path / "a.tif", frames(1)), "7-") == ["a.tif"]


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("1-5,7,-2-", 12, [1, 2, 3, 4, 5, 7, 11, 12]),
        ("1-5,7,-2-", 3, [1, 2, 3]),
        ("3", 9, [3]),
        ("-1", 9, [9]),
        ("-3--2", 9, [7, 8]),
        ("8-", 9, [8, 9]),
        ("2--2", 5, [2, 3, 4]),
        ("-9-", 3, [1, 2, 3]),
        ("-9", 3, []),
        ("5,1, 5", 9, [1, 5]),
    ],
)
def test_ranges_name_pages_from_the_front_and_from_the_end(
    text: str, count: int, expected: list[int]
) -> None:
    assert list(PageSelection.parse(text).of(count)) == expected


@pytest.mark.parametrize(
    "text", ["", "a", "1,,2", "1-2-3", "0", "0-3", "1-0", "5-3", "-2--5", "--2", "1.5", "²"]
)
def test_ranges_that_make_no_sense_are_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError):
        PageSelection.parse(text)
