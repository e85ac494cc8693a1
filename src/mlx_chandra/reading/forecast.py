"""Says what a run would do, for `--dry-run`: plans documents as a run does, and draws or decodes nothing."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mlx_chandra.documents.names import suffix_of
from mlx_chandra.documents.opened import OpenDocuments
from mlx_chandra.documents.page import Document, Page
from mlx_chandra.documents.pages import Reading
from mlx_chandra.errors import PageError, error_status
from mlx_chandra.reading.loader import Copied
from mlx_chandra.reading.resume import Resume

Shape = tuple[int, int]  # height, width

_KINDS = {"jpg": "JPEG", "tif": "TIFF", "webp": "WebP"}


@dataclass(frozen=True)
class DocumentForecast:
    """What a run would do with one document.

    Attributes:
        document: Which one.
        kind: What its name says it is: PDF, PNG, ...
        pages: That were asked for.
        stored: Of these, how many have a current result.
        shapes: Of each page that would be read, its path, height and width.
        copies: Pages that would get another one's result.
        failures: Path and status of pages that can be seen not to be readable.
    """

    document: Document
    kind: str
    pages: int
    stored: int
    shapes: Sequence[tuple[str, Shape]]
    copies: Sequence[Copied]
    failures: Sequence[tuple[str, str]]


def forecast(source: Iterable[Document], resume: Resume, reading: Reading) -> Iterator[DocumentForecast]:
    """Look at each document in turn. Of pages, headers alone are read."""
    opened = OpenDocuments(reading)
    try:
        for document in source:
            yield _forecast(document, resume, opened)
    finally:
        opened.close()


def _forecast(document: Document, resume: Resume, opened: OpenDocuments) -> DocumentForecast:
    plan = resume.plan(document)
    shapes: list[tuple[str, Shape]] = []
    failures: list[tuple[str, str]] = []
    for page in plan.todo:
        if isinstance(page, Copied):
            continue
        try:
            shapes.append((page.path, _shape(page, opened)))
        except PageError as error:
            failures.append((page.path, error_status(error)))
    copies = [item for item in plan.todo if isinstance(item, Copied)]
    stored = len(plan.pages) - len(plan.todo)
    return DocumentForecast(document, _kind(document), len(plan.pages), stored, shapes, copies, failures)


def _shape(page: Page, opened: OpenDocuments) -> Shape:
    if page.error is not None:
        raise page.error
    return opened.shape(page)


def _kind(document: Document) -> str:
    suffix = suffix_of(document.path).removeprefix(".").lower()
    return _KINDS.get(suffix, suffix.upper()) or "file"
