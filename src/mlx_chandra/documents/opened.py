"""Keeps a few documents open between their pages, so that each page costs its own reading and no more."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlx_chandra.documents.image_files import allow_pixels, open_page, page_shape
from mlx_chandra.documents.page import Page
from mlx_chandra.documents.pages import Reading, open_paged

if TYPE_CHECKING:
    from PIL.Image import Image

    from mlx_chandra.documents.frames import FrameFile
    from mlx_chandra.documents.pdf import PdfFile

_MOST_IDLE = 2  # documents that stay open though nobody reads them now


@dataclass
class _Shared:
    """A document, how many threads use it, and the file once the first of them has opened it."""

    users: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    file: "PdfFile | FrameFile | None" = None


class OpenDocuments:
    """Opens pages. Can be used by several threads; the pages of one document are decoded one at a time."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._lock = threading.Lock()
        self._most_idle = _MOST_IDLE
        self._documents: OrderedDict[str, _Shared] = OrderedDict()  # the one used last at the end
        allow_pixels(reading.max_pixels)

    def page(self, page: Page) -> "Image":
        """The page as an upright RGB picture. Raises PageError."""
        if page.number is None:
            return open_page(page.document.path, self._reading.max_pixels)
        with self._file(page.document.path) as file:
            return file.page(page.number)

    def shape(self, page: Page) -> tuple[int, int]:
        """Height and width that `page` will have, without decoding it. Raises PageError."""
        if page.number is None:
            return page_shape(page.document.path, self._reading.max_pixels)
        with self._file(page.document.path) as file:
            return file.shape(page.number)

    def close(self) -> None:
        """Closes what is open and not in use. What is in use is closed by its last user."""
        self._most_idle = 0
        self._close_idle()

    @contextmanager
    def _file(self, path: str) -> Iterator["PdfFile | FrameFile"]:
        """The open document, for one thread."""
        with self._lock:
            shared = self._documents.setdefault(path, _Shared())
            self._documents.move_to_end(path)
            shared.users += 1
        try:
            with shared.lock:
                shared.file = shared.file or open_paged(path, self._reading)
                yield shared.file
        finally:
            with self._lock:
                shared.users -= 1
            self._close_idle()

    def _close_idle(self) -> None:
        """Closes the documents that were used longest ago, but for a few."""
        with self._lock:
            idle = [path for path, shared in self._documents.items() if not shared.users]
            taken_out = [self._documents.pop(path) for path in idle[: max(0, len(idle) - self._most_idle)]]
        for shared in taken_out:
            if shared.file is not None:
                shared.file.close()
