"""What travels from the sources to the engine: a file that was found, and one page of it."""

from dataclasses import dataclass

from mlx_chandra.documents.names import page_stem
from mlx_chandra.errors import PageError


@dataclass(frozen=True, slots=True)
class Document:
    """One file to be read: a picture, or a document with pages.

    Attributes:
        path: The full path. Bytes that aren't UTF-8 stand in it as Python's surrogate escapes.
        below: The file's folder seen from the top of its source, such as `letters/1998`; empty at the top.
        text_stem: What the names of its text files start with: `a`, or `a.png` where `a` isn't unique.
        error: Set when it is already known that this file can't be read.
    """

    path: str
    below: str
    text_stem: str
    error: PageError | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page to be read.

    Attributes:
        document: The file that it is in.
        number: Which of the document's pages it is, counted from 1; None for a picture by itself, and for
            the one row that a document gets which can't be read at all.
        error: Set when it is already known that this page can't be read.
    """

    document: Document
    number: int | None = None
    error: PageError | None = None

    @property
    def path(self) -> str:
        """The page as the results name it: the file's path, with `#page=3` behind it for one of several."""
        return self.document.path if self.number is None else f"{self.document.path}#page={self.number}"

    @property
    def below(self) -> str:
        """The file's folder seen from the top of its source."""
        return self.document.below

    @property
    def text_stem(self) -> str:
        """What the name of its text file starts with: `a`, or `a_p0003` for one page of several."""
        stem = self.document.text_stem
        return stem if self.number is None else page_stem(stem, self.number)
