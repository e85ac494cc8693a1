"""A few documents stay open between their pages; the others are closed."""

import threading
from pathlib import Path

import pytest
from PIL import Image

from mlx_chandra.documents import opened
from mlx_chandra.documents.frames import FrameFile
from mlx_chandra.documents.opened import OpenDocuments
from mlx_chandra.documents.page import Document, Page
from mlx_chandra.documents.pages import Reading, open_paged
from mlx_chandra.documents.pdf import PdfFile
from mlx_chandra.errors import PageError
from tests.documents.pdf_files import make_pdf, page_of, pdf
from tests.documents.test_frames import frames, saved


class Log:
    """Which documents were opened and are open, by name."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.open: list[str] = []
        self.most = 0


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    log = Log()

    def watched(path: str, reading: Reading) -> PdfFile | FrameFile:
        file, name = open_paged(path, reading), Path(path).name
        log.opened.append(name)
        log.open.append(name)
        log.most = max(log.most, len(log.open))
        close = file.close

        def closed() -> None:
            close()
            log.open.remove(name)

        monkeypatch.setattr(file, "close", closed)
        return file

    monkeypatch.setattr(opened, "open_paged", watched)
    return log


def page(path: Path, number: int | None) -> Page:
    return Page(Document(str(path), "", path.stem), number)


def test_a_documents_pages_share_one_opening(tmp_path: Path, log: Log) -> None:
    path = make_pdf(tmp_path / "a.pdf", "1 0 0", "0 1 0", "0 0 1")
    documents = OpenDocuments(Reading())
    colours = [documents.page(page(path, number)).getpixel((9, 9)) for number in (1, 2, 3)]
    assert colours == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert log.opened == ["a.pdf"]
    documents.close()
    assert not log.open


def test_few_of_many_documents_stay_open(tmp_path: Path, log: Log) -> None:
    paths = [make_pdf(tmp_path / f"{number}.pdf", "1 0 0") for number in range(9)]
    documents = OpenDocuments(Reading())
    for path in paths:
        documents.page(page(path, 1))
    assert log.most <= 3
    assert log.open == ["7.pdf", "8.pdf"]


def test_documents_that_are_in_use_are_closed_after_it(tmp_path: Path, log: Log) -> None:
    paths = [make_pdf(tmp_path / f"{number}.pdf", *["1 0 0"] * 4) for number in range(8)]
    documents = OpenDocuments(Reading())
    errors: list[BaseException] = []

    def work(own: int) -> None:
        try:
            for number in range(1, 5):
                for path in paths[own:] + paths[:own]:
                    documents.page(page(path, number))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(own,)) for own in range(4)]
    for thread in threads:
        thread.start()
    documents.close()
    for thread in threads:
        thread.join()
    assert not errors
    assert not log.open


def test_pictures_and_frames_and_pages_are_opened_alike(tmp_path: Path) -> None:
    documents = OpenDocuments(Reading())
    Image.new("RGB", (4, 4), "lime").save(tmp_path / "a.png")
    tiff = saved(tmp_path / "a.tif", frames(3))
    pdf = make_pdf(tmp_path / "a.pdf", "0 1 0")
    for one in (page(tmp_path / "a.png", None), page(tiff, 2), page(pdf, 1)):
        assert documents.page(one).getpixel((1, 1)) == (0, 255, 0)


def test_a_document_that_is_gone_since_it_was_counted_is_an_error_of_the_page(tmp_path: Path) -> None:
    documents = OpenDocuments(Reading())
    with pytest.raises(PageError) as caught:
        documents.page(page(tmp_path / "gone.pdf", 3))
    assert caught.value.kind == "missing"


@pytest.mark.filterwarnings("ignore:Image size")
def test_a_limit_above_pillows_own_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    Image.new("L", (20, 10)).save(tmp_path / "a.png")
    with pytest.raises(PageError, match="--max-pixels"):
        OpenDocuments(Reading(max_pixels=100)).page(page(tmp_path / "a.png", None))
    assert OpenDocuments(Reading(max_pixels=200)).page(page(tmp_path / "a.png", None)).size == (20, 10)


def shape_and_picture(path: Path, number: int | None) -> tuple[tuple[int, int], tuple[int, int]]:
    documents = OpenDocuments(Reading())
    asked = page(path, number)
    shape, picture = documents.shape(asked), documents.page(asked)
    documents.close()
    return shape, (picture.height, picture.width)


@pytest.mark.parametrize("extra", ["", "/Rotate 90", "/Rotate 180", "/UserUnit 2"])
def test_a_pdf_pages_shape_is_known_without_drawing_it(tmp_path: Path, extra: str) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf([page_of(box="0 0 200.5 300"), page_of(box="0 0 700 90", extra=extra)]))
    for number in (1, 2):
        shape, drawn = shape_and_picture(path, number)
        assert shape == drawn


@pytest.mark.parametrize("name", ["a.tif", "a.gif"])
def test_a_frames_shape_is_its_own(tmp_path: Path, name: str) -> None:
    sizes = [(60, 40), (20, 90), (90, 20)] if name == "a.tif" else [(60, 40)] * 3
    path = saved(tmp_path / name, [frames(1, size)[0].rotate(number) for number, size in enumerate(sizes)])
    for number in (1, 3, 2):
        shape, picture = shape_and_picture(path, number)
        assert shape == picture


def test_a_picture_that_lies_on_its_side_has_the_shape_of_the_upright_one(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    assert shape_and_picture(tmp_path / "a.jpg", None) == ((40, 30), (40, 30))


def test_what_is_too_large_has_no_shape(tmp_path: Path) -> None:
    documents = OpenDocuments(Reading(max_pixels=1000))
    pages = [
        page(make_pdf(tmp_path / "a.pdf", "1 0 0"), 1),
        page(saved(tmp_path / "a.tif", frames(2, (90, 80))), 2),
        page(saved(tmp_path / "a.png", frames(1, (90, 80))), None),
    ]
    for asked in pages:
        with pytest.raises(PageError) as caught:
            documents.shape(asked)
        assert caught.value.kind == "too-large"
    documents.close()


def test_asking_for_a_shape_decodes_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.effect_noise((600, 400), 90).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    documents = OpenDocuments(Reading())
    assert documents.shape(page(path, None)) == (400, 600)
    with pytest.raises(PageError):
        documents.page(page(path, None))
