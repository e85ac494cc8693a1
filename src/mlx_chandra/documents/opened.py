"""A few documents kept open between their pages, so that each page costs its own reading and no more."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from mlx_chandra.documents.frames import FrameFile
from mlx_chandra.documents.image_files import allow_pixels, open_page, open_regular, page_shape
from mlx_chandra.documents.page import Page
from mlx_chandra.documents.pages import Reading
from mlx_chandra.documents.pdf import PdfFile, is_pdf

if TYPE_CHECKING:
    from PIL.Image import Image

_MOST_IDLE = 2  # documents that nobody reads now and that stay open all the same


class _PagedFile(Protocol):
    def page(self, number: int) -> "Image": ...
    def shape(self, number: int) -> tuple[int, int]: ...
    def close(self) -> None: ...


class OpenDocuments:
    """Opens pages. Can be asked by several threads; the pages of one document are decoded one at a time."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._lock = threading.Lock()
        self._most_idle = _MOST_IDLE
        self._shelf: OrderedDict[str, _Shared] = OrderedDict()  # the one asked for last at the end
        allow_pixels(reading.max_pixels)

    def page(self, page: Page) -> "Image":
        """The page as an upright RGB picture. Raises PageError."""
        if page.number is None:
            return open_page(page.document.path, self._reading.max_pixels)
        with self._shared(page.document.path) as shared:
            return shared.page(page.number, self._reading)

    def shape(self, page: Page) -> tuple[int, int]:
        """Height and width that `page` will have, without drawing or decoding it. Raises PageError for what
        shows without that."""
        if page.number is None:
            return page_shape(page.document.path, self._reading.max_pixels)
        with self._shared(page.document.path) as shared:
            return shared.shape(page.number, self._reading)

    def close(self) -> None:
        """Closes what is open and not in use; what is in use is closed when it is given back."""
        self._most_idle = 0
        self._tidy()

    @contextmanager
    def _shared(self, path: str) -> "Iterator[_Shared]":
        shared = self._taken(path)
        try:
            yield shared
        finally:
            self._given_back(shared)

    def _taken(self, path: str) -> "_Shared":
        with self._lock:
            shared = self._shelf.setdefault(path, _Shared(path))
            self._shelf.move_to_end(path)
            shared.users += 1
            return shared

    def _given_back(self, shared: "_Shared") -> None:
        with self._lock:
            shared.users -= 1
        self._tidy()

    def _tidy(self) -> None:
        with self._lock:
            idle = [shared for shared in self._shelf.values() if not shared.users]
            idle = idle[: max(0, len(idle) - self._most_idle)]
            for shared in idle:
                del self._shelf[shared.path]
        for shared in idle:  # nobody finds them any more
            shared.close()


class _Shared:
    """One document, opened for the first that asks for a page of it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.users = 0
        self._lock = threading.Lock()
        self._file: _PagedFile | None = None

    def page(self, number: int, reading: Reading) -> "Image":
        with self._lock:
            return self._open(reading).page(number)

    def shape(self, number: int, reading: Reading) -> tuple[int, int]:
        with self._lock:
            return self._open(reading).shape(number)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _open(self, reading: Reading) -> _PagedFile:
        if self._file is None:
            self._file = _opened(self.path, reading)
        return self._file


def _opened(path: str, reading: Reading) -> _PagedFile:
    with open_regular(path) as file:
        start = file.read(1024)
    if is_pdf(start):
        return PdfFile(path, reading.password, reading.max_pixels)
    return FrameFile(path, reading.max_pixels)
