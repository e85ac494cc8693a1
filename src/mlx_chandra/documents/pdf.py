"""Draws PDF pages with PDFium, at 192 dpi or more, as the authors' client does (`chandra.input`).

PDFium may be called from one thread at a time in the whole process, so every call of it is under one lock.
Its objects are closed by hand, because Python's garbage collector would close them on any thread.
"""

import atexit
import math
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO

from mlx_chandra.documents.image_files import too_large
from mlx_chandra.errors import PageError

if TYPE_CHECKING:
    from PIL.Image import Image

DPI = 192
SHORT_SIDE = 1024  # pixels, at least
_POINTS_PER_INCH = 72
SEARCHED = 1024  # bytes at a file's start in which a PDF may begin

SECONDS_TO_LEAVE = 10.0  # for a page that is being drawn when the program ends

_PDFIUM = threading.Lock()


def is_pdf(start: bytes) -> bool:
    """Whether a file that begins with these bytes is a PDF."""
    return b"%PDF-" in start[:SEARCHED]


class PdfFile:
    """A PDF that is kept open, for its pages one after the other. Can be used by several threads.

    Raises:
        PageError: `locked` (a password is needed, or another one), `no-pages`, or `unreadable` for a file
            that is damaged or can't be opened.
    """

    def __init__(self, file: BinaryIO, password: str | None, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._file = file
        try:
            with _pdfium() as pdfium:
                self._document = _loaded(pdfium, self._file, password)
        except BaseException:
            self._file.close()
            raise

    def count(self) -> int:
        """Return how many pages it has, at least one."""
        with _pdfium():
            return len(self._document)

    def page(self, number: int) -> "Image":
        """Return page `number`, counted from 1, in mode RGB. Raises PageError: `unreadable`, `too-large`."""
        with _pdfium() as pdfium, _damage(pdfium), closing(self._document[number - 1]) as page:
            return _drawn(pdfium, page, self._max_pixels)

    def shape(self, number: int) -> tuple[int, int]:
        """Return height and width that page `number` will have in pixels. Raises PageError."""
        with _pdfium() as pdfium, _damage(pdfium):
            width, height = self._document.get_page_size(number - 1)
        _, across, down = _resolution(width, height, self._max_pixels)
        return down, across

    def close(self) -> None:
        with _pdfium():
            self._document.close()
        self._file.close()


@contextmanager
def _pdfium() -> Iterator[Any]:
    """The library, for the one thread that may call it now."""
    with _PDFIUM:
        import pypdfium2

        yield pypdfium2


@cache
def _end_behind_the_lock() -> None:
    """Take the lock at exit before the library does anything there.

    Functions run at exit in the reverse order of their registration. Importing the library and opening a
    document both register some, so this is called with a document open.
    """
    atexit.register(_hold_the_lock)


def _hold_the_lock() -> None:
    """Take the lock for good. End the program where a page is drawn without end."""
    with suppress(KeyboardInterrupt):
        if _PDFIUM.acquire(timeout=SECONDS_TO_LEAVE):
            return
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(1)  # a stopped run has ended with its own status before


def _loaded(pdfium: Any, file: BinaryIO, password: str | None) -> Any:
    """Return PDFium's document, which reads the file as it needs it. Under the lock, like all its uses."""
    raw = pdfium.raw
    raw.FPDF_LoadDocument(b"", None)  # fails: a PDF without pages leaves the error that was there before
    try:
        document = pdfium.PdfDocument(file, password)
    except UnicodeEncodeError as error:
        raise PageError("locked", "the password given isn't text in UTF-8") from error
    except pdfium.PdfiumError as error:
        raise _refusal(raw, error.err_code, password is not None) from error
    _end_behind_the_lock()
    with suppress(pdfium.PdfiumError):  # without its form fields, a page is still worth reading
        document.init_forms()
    return document


def _refusal(raw: Any, code: int, with_password: bool) -> PageError:
    if code == raw.FPDF_ERR_FILE:  # of the file without a name, so this one was loaded
        return PageError("no-pages", "the PDF has no pages")
    if code == raw.FPDF_ERR_PASSWORD and with_password:
        return PageError("locked", "the PDF is locked, and the password given doesn't open it")
    if code == raw.FPDF_ERR_PASSWORD:
        return PageError("locked", "the PDF is locked with a password; --password takes it")
    if code == raw.FPDF_ERR_SECURITY:
        return PageError("locked", "the PDF is locked in a way that can't be opened here")
    return PageError("unreadable", "the PDF is damaged")


@contextmanager
def _damage(pdfium: Any) -> Iterator[None]:
    """Turns what PDFium raises for a page into a PageError."""
    try:
        yield
    except pdfium.PdfiumError as error:
        raise PageError("unreadable", f"the PDF is damaged, this page can't be drawn: {error}") from error
    except MemoryError as error:
        raise PageError("too-large", "there is not enough memory to draw it") from error


def _drawn(pdfium: Any, page: Any, max_pixels: int) -> "Image":
    width, height = page.get_size()
    scale, _, _ = _resolution(width, height, max_pixels)
    for picture in page.get_objects(filter=[pdfium.raw.FPDF_PAGEOBJ_IMAGE]):
        across, down = picture.get_px_size()
        if across * down > max_pixels:
            raise too_large(f"a picture on it is {across:,} x {down:,}, more than {max_pixels:,} pixels")
    with closing(page.render(scale=scale, may_draw_forms=True, rev_byteorder=True)) as bitmap:
        return bitmap.to_pil()  # type: ignore[no-any-return]


def _resolution(width: float, height: float, max_pixels: int) -> tuple[float, int, int]:
    """Return the scale to draw a page at, and its pixels across and down. Raises PageError.

    Width and height are in points, of the page as it stands upright.
    """
    if min(width, height) <= 0:
        raise PageError("unreadable", "the PDF is damaged: this page has no size")
    scale = max(DPI / _POINTS_PER_INCH, SHORT_SIDE / min(width, height))
    across, down = math.ceil(width * scale), math.ceil(height * scale)
    if across * down > max_pixels:
        size = f"{width / _POINTS_PER_INCH:,.1f} x {height / _POINTS_PER_INCH:,.1f} inches"
        raise too_large(
            f"the page of {size} would have {across:,} x {down:,}, more than {max_pixels:,} pixels"
        )
    return scale, across, down
