"""Documents put together of their pages: in their order, whenever these are finished, and across runs.

The texts of the pages are in the table, and how they were read is in the ledger of the documents' folder; so
a document can be put together at any time, also in a later run that reads nothing at all. It is, on a thread
of its own, when the last of its pages has its row, or when all of them had one from the beginning and its
files aren't there or were made in another way. Pictures are cut out of the page, which is opened again for
that.

Somebody may take the folder away, or some of it, while a run goes on. What is written after that goes into a
new one, and at the end it is counted what is gone, for the next run to write.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from mlx_chandra.documents.opened import OpenDocuments
from mlx_chandra.documents.page import Document, Page, PageResult, ReadSettings
from mlx_chandra.documents.pages import Reading, pages_of
from mlx_chandra.documents.selection import PageSelection
from mlx_chandra.errors import OutputError
from mlx_chandra.export.settings import ExportSettings, Format
from mlx_chandra.export.writer import Exporter
from mlx_chandra.outputs.ledger import Ledger, PageFacts
from mlx_chandra.outputs.making import Making
from mlx_chandra.outputs.results_csv import ResultsFile


@dataclass(frozen=True)
class DocumentSettings:
    """What documents are made into, and with what this run reads pages."""

    export: ExportSettings
    making: Making

    @property
    def folder(self) -> str:
        return self.export.folder

    @property
    def formats(self) -> frozenset[Format]:
        return self.export.formats


@dataclass
class _Unfinished:
    """A document with pages in work."""

    document: Document
    pages: list[Page]
    left: int


class Follower(Protocol):
    """What a run tells of its pages, and asks at its end."""

    @property
    def written(self) -> int: ...
    @property
    def unwritten(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def first_unwritten(self) -> OutputError | None: ...

    def planned(self, document: Document, pages: Sequence[Page], left: int) -> None: ...
    def record(self, pages: Sequence[PageFacts]) -> None: ...
    def finished(self, pages: Sequence[Page]) -> None: ...
    def check(self) -> None: ...
    def close(self, drop: bool = False) -> None: ...


def follower_for(
    settings: DocumentSettings | None,
    results: ResultsFile,
    opened: OpenDocuments,
    reading: Reading,
    stop: threading.Event,
) -> Follower:
    """What puts the run's documents together; without settings, what does nothing."""
    return NoDocuments() if settings is None else Assembly(settings, results, opened, reading, stop)


class NoDocuments:
    """The follower of a run that writes no documents."""

    def __init__(self) -> None:
        self.written = self.unwritten = self.dropped = 0
        self.first_unwritten: OutputError | None = None

    def planned(self, document: Document, pages: Sequence[Page], left: int) -> None:
        """Not wanted."""

    def record(self, pages: Sequence[PageFacts]) -> None:
        """Not wanted."""

    def finished(self, pages: Sequence[Page]) -> None:
        """Not wanted."""

    def check(self) -> None:
        """Nothing can go wrong."""

    def close(self, drop: bool = False) -> None:
        """Nothing to end."""


class Assembly:
    """Follows the pages of a run, and writes the files of each document when it is complete.

    `planned` is called by workers, `record` and `finished` by the thread that keeps the results.
    """

    def __init__(
        self,
        settings: DocumentSettings,
        results: ResultsFile,
        opened: OpenDocuments,
        reading: Reading,
        stop: threading.Event,
    ) -> None:
        self._results, self._reading = results, reading
        self._ledger = Ledger(settings.folder, settings.making)
        try:
            self._exporter = Exporter(settings.export, self._pages, opened.page, stop)
        except BaseException:
            self._ledger.close()
            raise
        self._planned: dict[str, list[Page]] = {}
        self._unfinished: dict[str, _Unfinished] = {}

    @property
    def written(self) -> int:
        return self._exporter.exports.written

    @property
    def unwritten(self) -> int:
        return self._exporter.exports.failed

    @property
    def dropped(self) -> int:
        return self._exporter.dropped

    @property
    def first_unwritten(self) -> OutputError | None:
        return self._exporter.exports.first_error

    def planned(self, document: Document, pages: Sequence[Page], left: int) -> None:
        """Says which pages a document has, and how many of them are to be read yet; in the source's order."""
        known = _Unfinished(document, self._all_pages(document, pages), left)
        self._planned[document.path] = known.pages
        self._exporter.reserve(document)
        if left:
            self._unfinished[document.path] = known
        else:
            self._exporter.put(document)

    def record(self, pages: Sequence[PageFacts]) -> None:
        """Remembers how pages were read; comes before their rows are written."""
        self._ledger.add(pages)

    def finished(self, pages: Sequence[Page]) -> None:
        """Says that these pages have their rows."""
        for page in pages:
            known = self._unfinished[page.document.path]
            known.left -= 1
            if not known.left:
                self._exporter.put(self._unfinished.pop(page.document.path).document)

    def check(self) -> None:
        """Raises what ended the writing."""
        self._exporter.check()

    def close(self, drop: bool = False) -> None:
        """Returns when the files of all complete documents are written, or the run was stopped.

        With `drop`, because of some other trouble, no more are begun; a later run writes them.
        """
        try:
            with contextlib.suppress(OutputError):
                self._ledger.be_there()
            self._exporter.close(drop)
        finally:
            self._ledger.close()

    def _all_pages(self, document: Document, pages: Sequence[Page]) -> list[Page]:
        """Also those that this run passes over: an earlier one may have read them."""
        if pages[0].number is None or self._reading.pages == PageSelection():
            return list(pages)
        every = list(pages_of(document, replace(self._reading, pages=PageSelection())))
        return every if every[0].number is not None else list(pages)  # it could be opened a moment ago

    def _pages(self, path: str) -> Iterator[PageResult]:
        for page in self._planned[path]:
            row = self._results.row(page.path)
            if row is None:
                continue  # not asked for, in this run or before
            facts = self._ledger.facts(page.path)
            if facts is None or facts.making is None:
                yield PageResult(page, row.status, row.text)
                continue
            made = facts.making
            yield PageResult(
                page,
                row.status,
                row.text,
                finish_reason=facts.finish_reason,
                prompt_tokens=facts.prompt_tokens,
                output_tokens=facts.generated_tokens,
                size=facts.size.size if facts.size else None,
                box_scale=facts.box_scale,
                settings=ReadSettings(made.program, made.model, made.settings, made.checkpoint),
            )
