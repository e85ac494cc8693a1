"""Whatever a PDF is like, its pages come as pictures one by one, or it says why not."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pypdfium2
import pytest
from PIL import Image

from mlx_chandra.documents import pdf as ours
from mlx_chandra.documents.image_files import MAX_PIXELS, open_regular
from mlx_chandra.documents.pdf import PdfFile
from mlx_chandra.errors import PageError
from tests.cli.program import environment
from tests.documents.pdf_files import (
    damaged_pdf,
    form_pdf,
    locked_pdf,
    make_pdf,
    page_of,
    pdf,
    picture_pdf,
)

WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def written(folder: Path, content: bytes, name: str = "a.pdf") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def page(
    path: Path, number: int = 1, password: str | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    with closing(PdfFile(open_regular(path), password, max_pixels)) as opened:
        return opened.page(number)


def error_of(path: Path, number: int = 1, password: str | None = None) -> PageError:
    with pytest.raises(PageError) as caught:
        page(path, number, password)
    return caught.value


def quarters(image: Image.Image) -> list[tuple[int, ...]]:
    """The colours of top left, top right, bottom left and bottom right."""
    assert image.mode == "RGB"
    places = [(x, y) for y in (0.25, 0.75) for x in (0.25, 0.75)]
    return [image.getpixel((int(image.width * x), int(image.height * y))) for x, y in places]  # type: ignore[misc]


def counted(path: Path, password: str | None = None) -> int:
    with closing(PdfFile(open_regular(path), password, MAX_PIXELS)) as opened:
        return opened.count()


def test_pages_are_counted_and_each_is_drawn_in_its_colours(tmp_path: Path) -> None:
    path = make_pdf(tmp_path / "a.pdf", "1 0 0", "0 1 0", "0 0 1")
    assert counted(path) == 3
    assert quarters(page(path, 1)) == [(255, 0, 0), WHITE, WHITE, WHITE]
    assert quarters(page(path, 3)) == [(0, 0, 255), WHITE, WHITE, WHITE]


def test_a_page_has_the_official_clients_resolution(tmp_path: Path) -> None:
    boxes = {"0 0 595 842": (1587, 2246), "0 0 200 300": (1024, 1536), "0 0 300 200": (1536, 1024)}
    for box, size in boxes.items():
        assert page(written(tmp_path, pdf([page_of(box=box)]))).size == size


@pytest.mark.parametrize(("turn", "dark"), [(0, 0), (90, 1), (180, 3), (270, 2)])
def test_a_rotated_page_stands_as_a_reader_sees_it(tmp_path: Path, turn: int, dark: int) -> None:
    image = page(written(tmp_path, pdf([page_of(extra=f"/Rotate {turn}")])))
    assert image.size == ((1536, 1024) if turn in (90, 270) else (1024, 1536))
    assert quarters(image) == [BLACK if place == dark else WHITE for place in range(4)]


def test_what_lies_outside_the_crop_box_is_not_drawn(tmp_path: Path) -> None:
    image = page(written(tmp_path, pdf([page_of(extra="/CropBox [100 0 200 300]")])))
    assert image.size == (1024, 3072)
    assert quarters(image) == [WHITE] * 4


def test_form_fields_are_drawn(tmp_path: Path) -> None:
    for content in (form_pdf(), form_pdf(xfa=True)):
        assert quarters(page(written(tmp_path, content))) == [BLACK, WHITE, WHITE, WHITE]


def test_a_locked_pdf_says_whether_a_password_is_missing_or_wrong(tmp_path: Path) -> None:
    path = written(tmp_path, locked_pdf("hush"))
    for password, said in ((None, "--password"), ("wrong", "doesn't open it")):
        error = error_of(path, password=password)
        assert error.kind == "locked"
        assert said in error.message
    with pytest.raises(PageError, match="locked"):
        counted(path)


def test_a_locked_pdf_opens_with_its_password_and_an_open_one_with_any(tmp_path: Path) -> None:
    path = written(tmp_path, locked_pdf("hush"))
    assert counted(path, "hush") == 1
    assert quarters(page(path, password="hush")) == [BLACK] * 4
    assert counted(make_pdf(tmp_path / "b.pdf", "1 0 0"), "hush") == 1
    assert error_of(path, password="\udcff\u00fc").kind == "locked"


@pytest.mark.parametrize("content", [damaged_pdf(), pdf([page_of()])[:300], b"%PDF-1.7"])
def test_a_damaged_pdf_is_unreadable(tmp_path: Path, content: bytes) -> None:
    error = error_of(written(tmp_path, content))
    assert (error.kind, error.message) == ("unreadable", "the PDF is damaged")


def test_a_pdf_whose_table_is_lost_is_mended(tmp_path: Path) -> None:
    content = pdf([page_of("1 0 0"), page_of("0 1 0")])
    path = written(tmp_path, content[: content.index(b"xref")] + content[content.index(b"trailer") :])
    assert counted(path) == 2
    assert quarters(page(path, 2))[0] == (0, 255, 0)


def test_a_pdf_without_pages_says_so_whatever_was_opened_before(tmp_path: Path) -> None:
    error_of(written(tmp_path, locked_pdf("hush")))  # PDFium remembers the last error
    error = error_of(written(tmp_path, pdf([])))
    assert (error.kind, error.message) == ("no-pages", "the PDF has no pages")


def test_a_page_that_is_counted_but_not_there_is_an_error_of_its_own(tmp_path: Path) -> None:
    path = written(tmp_path, pdf([page_of("1 0 0")]).replace(b"/Count 1", b"/Count 3"))
    assert counted(path) == 3
    assert "this page" in error_of(path, 3).message
    assert quarters(page(path, 1))[0] == (255, 0, 0)


def test_a_huge_page_is_refused_before_it_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pypdfium2.PdfPage, "render", lambda *_, **__: pytest.fail("it was drawn"))
    error = error_of(written(tmp_path, pdf([page_of(box="0 0 14400 14400")])))
    assert error.kind == "too-large"
    assert "200.0 x 200.0 inches" in error.message
    assert "--max-pixels" in error.message


def test_a_page_with_a_huge_picture_is_refused_before_it_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert page(written(tmp_path, picture_pdf(60, 60))).size == (1024, 1536)
    monkeypatch.setattr(pypdfium2.PdfPage, "render", lambda *_, **__: pytest.fail("it was drawn"))
    error = error_of(written(tmp_path, picture_pdf(60_000, 60_000)))
    assert (error.kind, "60,000 x 60,000" in error.message) == ("too-large", True)


@pytest.mark.parametrize(
    ("raised", "kind"), [(MemoryError(), "too-large"), (pypdfium2.PdfiumError("no"), "unreadable")]
)
def test_a_page_that_cannot_be_drawn_is_an_error_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, kind: str
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(pypdfium2.PdfPage, "render", failing)
    assert error_of(make_pdf(tmp_path / "a.pdf", "1 0 0")).kind == kind


def test_the_limit_on_pixels_can_be_set_for_pages(tmp_path: Path) -> None:
    path = make_pdf(tmp_path / "a.pdf", "1 0 0")
    assert page(path, max_pixels=1024 * 1536).size == (1024, 1536)
    with pytest.raises(PageError, match="1,024 x 1,536"):
        page(path, max_pixels=1024 * 1536 - 1)


def test_a_name_that_is_not_utf8_opens(tmp_path: Path) -> None:
    if sys.platform == "darwin":
        pytest.skip("file names are UTF-8 there")
    path = make_pdf(tmp_path / "a.pdf", "1 0 0").rename(tmp_path / os.fsdecode(b"\xff.pdf"))
    assert page(path).size == (1024, 1536)


def test_pdfium_is_called_by_one_thread_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_pdf(tmp_path / "a.pdf", *["1 0 0"] * 8)
    inside: list[int] = [0, 0]  # now, most
    render = pypdfium2.PdfPage.render

    def watching(self: Any, **options: Any) -> Any:
        inside[0] += 1
        inside[1] = max(inside)
        time.sleep(0.005)
        inside[0] -= 1
        return render(self, **options)

    monkeypatch.setattr(pypdfium2.PdfPage, "render", watching)
    with closing(PdfFile(open_regular(path), None, MAX_PIXELS)) as opened:
        threads = [threading.Thread(target=opened.page, args=(n,)) for n in range(1, 9)]
        threads += [threading.Thread(target=lambda: page(path)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert inside == [0, 1]


def test_no_file_and_no_pdfium_object_stays_behind(tmp_path: Path) -> None:
    good = make_pdf(tmp_path / "a.pdf", "1 0 0")
    bad = [damaged_pdf(), pdf([]), locked_pdf("hush"), pdf([page_of(box="0 0 14400 14400")])]
    paths = [written(tmp_path, content, f"{number}.pdf") for number, content in enumerate(bad)]
    before = len(os.listdir("/dev/fd"))
    page(good)
    counted(good)
    for path in paths:
        error_of(path)
    assert len(os.listdir("/dev/fd")) <= before
    assert not [kind for kind, left in pypdfium2.internal.bases.ObjectTracker.items() if left]


def test_a_program_may_end_while_a_thread_draws(tmp_path: Path) -> None:
    path = make_pdf(tmp_path / "a.pdf", *["1 0 0"] * 3)
    program = (
        "import sys, threading, time\n"
        "from mlx_chandra.documents.image_files import open_regular\n"
        "from mlx_chandra.documents.pdf import PdfFile\n"
        "opened = PdfFile(open_regular(sys.argv[1]), None, 10**9)\n"
        "def work():\n"
        "    while True:\n"
        "        opened.page(1)\n"
        "for _ in range(3):\n"
        "    threading.Thread(target=work, daemon=True).start()\n"
        "time.sleep(0.2)\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(autouse=True)
def _free() -> Iterator[None]:
    """After every test, the lock is free."""
    yield
    assert not ours._PDFIUM.locked()
