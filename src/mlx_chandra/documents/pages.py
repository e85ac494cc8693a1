"""Finds the pages of a document when it is that document's turn.

Only a file that may hold several pages is opened for that. Its first bytes tell its kind, whatever its name
is. A file with the ending of a picture is one page and isn't opened, so a list of pictures costs nothing.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlx_chandra.documents import image_files
from mlx_chandra.documents.names import PICTURES, suffix_of
from mlx_chandra.documents.page import Document, Page
from mlx_chandra.documents.selection import PageSelection
from mlx_chandra.errors import PageError

if TYPE_CHECKING:
    from mlx_chandra.documents.frames import FrameFile
    from mlx_chandra.documents.pdf import PdfFile


@dataclass(frozen=True)
class Reading:
    """How documents are read."""

    pages: PageSelection = field(default_factory=PageSelection)  # of PDFs, and of files with several
    password: str | None = None  # of locked PDFs
    max_pixels: int = image_files.MAX_PIXELS  # larger pages are refused before they are decoded


def pages_of(document: Document, reading: Reading) -> Iterator[Page]:
    """Yield the pages of a document that are to be read, in its order.

    A picture by itself is one page without a number; so is an image file with one frame. A PDF's pages have
    numbers always. A document that can't be opened, or has none of the pages, is one page with the error.
    """
    if document.error is not None:
        yield Page(document, error=document.error)
        return
    try:
        count = None if suffix_of(document.path) in PICTURES else _count(document.path, reading)
    except PageError as error:
        yield Page(document, error=error)
        return
    if count is None:
        yield Page(document)
        return
    numbers = list(reading.pages.of(count))
    yield from (Page(document, number) for number in numbers)
    if not numbers:
        has = "1 page" if count == 1 else f"{count:,} pages"
        yield Page(document, error=PageError("no-pages", f"it has {has}, none of those that were asked for"))


def _count(path: str, reading: Reading) -> int | None:
    """Return how many pages a file has; None for a picture by itself. Raises PageError."""
    with closing(open_paged(path, reading)) as file:
        return file.count()


def open_paged(path: str, reading: Reading) -> "PdfFile | FrameFile":
    """Open a file that may have several pages, by its first bytes. Raises PageError."""
    from mlx_chandra.documents.frames import FrameFile
    from mlx_chandra.documents.pdf import SEARCHED, PdfFile, is_pdf

    file = image_files.open_regular(path)
    start = file.read(SEARCHED)
    file.seek(0)
    if is_pdf(start):
        return PdfFile(file, reading.password, reading.max_pixels)
    return FrameFile(file, reading.max_pixels)
