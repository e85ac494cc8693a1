"""A page from being found to being read: `Document` and `Page` go in, a `PageResult` comes out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlx_chandra.documents.names import page_stem
from mlx_chandra.errors import PageError, PageState, error_status, state_of


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


@dataclass(frozen=True)
class ReadSettings:
    """With what pages are read. Equal settings give equal texts.

    Attributes:
        program: Name and version.
        model: The checkpoint as the user named it.
        settings: Every option that can change a text: prompt, limits, number format, retries.
        checkpoint: The fingerprint of the weights; None while they are not on this machine.
    """

    program: str = ""
    model: str = ""
    settings: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    checkpoint: str | None = None


@dataclass(frozen=True, slots=True)
class PageResult:
    """What came out for one page: all that is kept of it.

    Attributes:
        status: As the CSV says it: `ok`, `error:truncated`, `error:missing: there is no such file`.
        text: The model's text; empty where there is none.
        finish_reason: Why the kept answer ended: stop, length, repetition or error; None where the page never
            came to the model.
        prompt_tokens: Of the picture and the question; 0 where the page never came to the model.
        output_tokens: Of the kept answer.
        generated_tokens: Of all attempts together.
        attempts: How often the model read it; 0 where it never came there.
        seconds: In the engine, all attempts together.
        size: Width and height of its picture in pixels, before any scaling; None where none could be opened.
        box_scale: What the boxes in the text are normalised to; None where that is not known.
        content: SHA-256 of the file's bytes in hexadecimal; None where it was not hashed.
        copy_of: Path of the page whose result this is, because it holds the same bytes; else None.
        settings: With what it was read; None where that is not known.
    """

    page: Page
    status: str
    text: str = ""
    finish_reason: str | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    generated_tokens: int = 0
    attempts: int = 0
    seconds: float = 0.0
    size: tuple[int, int] | None = None
    box_scale: int | None = None
    content: str | None = None
    copy_of: str | None = None
    settings: ReadSettings | None = None

    @classmethod
    def failed(cls, page: Page, error: PageError) -> "PageResult":
        """The result of a page that never came to the model."""
        return cls(page, error_status(error))

    @property
    def state(self) -> PageState:
        """How it ended."""
        return state_of(self.status)
