"""Reads image files with several pages, TIFF and GIF: counts their frames, and decodes one at a time.

A TIFF's frames are counted by its chain of directories (TIFF 6.0, section 2; BigTIFF has 8-byte offsets).
Pillow's `n_frames` raises for a file that breaks off, which would lose its other pages, and is slow.
"""

import struct
from typing import TYPE_CHECKING, BinaryIO

from mlx_chandra.documents.image_files import (
    check_size,
    identified,
    to_page,
    trouble,
    upright_shape,
)
from mlx_chandra.errors import PageError

if TYPE_CHECKING:
    from PIL.Image import Image

_TIFF_STARTS = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
_SUBFILE_TYPE = 254
_SMALLER_COPY, _MASK = 1, 4  # bits of it


def tiff_pages(file: BinaryIO) -> list[int]:
    """Return the frames of a TIFF, from 0, that are pages. Empty where not even the first can be found.

    Smaller copies and masks of other frames are no pages. A chain that leads out of the file counts one frame
    more than can be read, so that what is missing gets a row.
    """
    order, big = _TIFF_STARTS[file.read(4)]
    pages: list[int] = []
    seen: set[int] = set()
    try:
        offset = _number(file, 8 if big else 4, order, 8 if big else 4)
        while offset and offset not in seen:
            seen.add(offset)
            kind, offset = _directory(file, offset, order, big)
            if not kind & (_SMALLER_COPY | _MASK):
                pages.append(len(seen) - 1)
    except EOFError:
        if len(seen) > 1:  # else the file is damaged from its start, which decoding says better
            pages.append(len(seen) - 1)
    return pages or list(range(len(seen)))


def _directory(file: BinaryIO, offset: int, order: str, big: bool) -> tuple[int, int]:
    """Return a directory's subfile type and the next one's offset. Raises EOFError where the file ends."""
    entries = _number(file, offset, order, 8 if big else 2)
    size = 20 if big else 12
    raw = file.read(entries * size) if entries <= 65_535 else b""
    if len(raw) < entries * size:
        raise EOFError
    kind = 0
    for place in range(0, len(raw), size):
        tag, form = struct.unpack_from(order + "HH", raw, place)
        if tag == _SUBFILE_TYPE:
            value = place + (12 if big else 8)
            kind = struct.unpack_from(order + ("H" if form == 3 else "I"), raw, value)[0]
    after = offset + (8 if big else 2) + len(raw)
    return kind, _number(file, after, order, 8 if big else 4)


def _number(file: BinaryIO, offset: int, order: str, size: int) -> int:
    file.seek(offset)
    raw = file.read(size)
    if len(raw) < size:
        raise EOFError
    number: int = struct.unpack(order + {2: "H", 4: "I", 8: "Q"}[size], raw)[0]
    return number


class FrameFile:
    """A TIFF or GIF, for its pages one after the other. It closes the file. For one thread at a time.

    Raises PageError as `image_files.open_page`.
    """

    def __init__(self, file: BinaryIO, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._image: Image | None = None
        self._file = file
        try:
            with trouble():
                start = self._file.read(6)
                self._file.seek(0)
                self._frames = tiff_pages(self._file) if start[:4] in _TIFF_STARTS else None
                self._is_gif = start in (b"GIF87a", b"GIF89a")
        except BaseException:
            self._file.close()
            raise

    def count(self) -> int | None:
        """Return how many pages the file has; None for a picture by itself. Raises PageError."""
        if self._frames is not None:
            return None if self._frames in ([], [0]) else len(self._frames)
        if not self._is_gif:
            return None
        with trouble():
            self._file.seek(0)
            count = int(getattr(identified(self._file, self._max_pixels), "n_frames", 1))
        return None if count == 1 else count

    def page(self, number: int) -> "Image":
        """Return page `number`, counted from 1, as `image_files.open_page` gives one. Raises PageError."""
        with trouble():
            image = self._turned_to(number)
            image.load()
            page = to_page(image)
            self._image = image
            return page.copy() if page is image else page

    def shape(self, number: int) -> tuple[int, int]:
        """Return height and width of page `number`; decodes nothing of a TIFF. Raises PageError."""
        with trouble():
            image = self._turned_to(number)
            self._image = image
            return upright_shape(image)

    def _turned_to(self, number: int) -> "Image":
        """Return Pillow's object at page `number`. It isn't kept after an error, which leaves it unusable."""
        image, self._image = self._image, None
        if image is None:
            self._file.seek(0)
            image = identified(self._file, self._max_pixels)
        try:
            image.seek(number - 1 if self._frames is None else self._frames[number - 1])
        except EOFError as error:
            raise PageError("unreadable", "the file is damaged: this page isn't in it") from error
        check_size(image, self._max_pixels)
        return image

    def close(self) -> None:
        self._file.close()
