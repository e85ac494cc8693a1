"""A page from being found to being read: `Document` and `Page` go in, a `PageResult` comes out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlx_chandra.documents.names import page_stem
from mlx_chandra.errors import PageError, PageState, error_status, state_of


@dataclass(frozen=True, slots=True)
class Document:
    """One file to be read: a picture, or a document with pages."""

    path: str  # full; bytes that aren't UTF-8 stand in it as Python's surrogate escapes
    below: str  # its folder seen from the top of its source, such as `letters/1998`; empty at the top
    text_stem: str  # what the names of its text files start with: `a`, or `a.png` where `a` isn't unique
    error: PageError | None = None  # why it can't be read, where that shows without opening it


@dataclass(frozen=True, slots=True)
class Page:
    """One page to be read.

    `number` counts from 1. It is None for a picture by itself, and for the one row of a document that can't
    be read at all.
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


@dataclass(frozen=True)
class ReadSettings:
    """With what pages are read: every option that can change a text. Equal settings give equal texts."""

    program: str = ""  # name and version
    model: str = ""  # the checkpoint as the user named it
    settings: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    checkpoint: str | None = None  # the fingerprint of the weights; None while they are not on this machine


@dataclass(frozen=True, slots=True)
class PageResult:
    """What came out for one page: all that is kept of it. What isn't known is None."""

    page: Page
    status: str  # as the CSV says it: `ok`, `error:truncated`, `error:missing: there is no such file`
    text: str = ""
    finish_reason: str | None = None  # of the kept answer: stop, length, repetition or error
    prompt_tokens: int = 0  # of the picture and the question
    output_tokens: int = 0  # of the kept answer
    generated_tokens: int = 0  # of all attempts together
    attempts: int = 0  # how often the model read it
    seconds: float = 0.0  # in the engine, all attempts together
    size: tuple[int, int] | None = None  # width and height of its picture in pixels, before any scaling
    box_scale: int | None = None  # what the boxes in the text are normalised to
    content: str | None = None  # SHA-256 of the file's bytes in hexadecimal
    copy_of: str | None = None  # path of the page whose result this is, because it holds the same bytes
    settings: ReadSettings | None = None

    @classmethod
    def failed(cls, page: Page, error: PageError) -> "PageResult":
        """The result of a page that never came to the model."""
        return cls(page, error_status(error))

    @property
    def state(self) -> PageState:
        """How it ended."""
        return state_of(self.status)
