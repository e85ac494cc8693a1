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
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from mlx_chandra.documents.opened import OpenDocuments
from mlx_chandra.documents.page import Document, Page
from mlx_chandra.documents.pages import Reading, pages_of
from mlx_chandra.documents.selection import PageSelection
from mlx_chandra.errors import DiskFullError, OutputError
from mlx_chandra.outputs.conversion import convert
from mlx_chandra.outputs.document_files import DocumentFiles, DocumentSettings
from mlx_chandra.outputs.ledger import Ledger, PageFacts
from mlx_chandra.outputs.page_records import PageRecord
from mlx_chandra.outputs.results_csv import ResultsFile
from mlx_chandra.outputs.rows import shown_path

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass
class _Unfinished:
    """A document with pages in work."""

    document: Document
    pages: list[Page]
    left: int


class Follower(Protocol):
    """What a run tells of its pages, and asks at its end."""

    written: int
    unwritten: int
    dropped: int
    first_unwritten: OutputError | None

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
        self.written = self.unwritten = self.dropped = 0
        self.first_unwritten: OutputError | None = None
        self._settings, self._results, self._opened = settings, results, opened
        self._reading, self._stop = reading, stop
        self._ledger = Ledger(settings.folder, settings.making)
        self._wrote: list[str] = []  # names of the folders that this run wrote
        self._found: list[str] = []  # and of those that were there
        self._unfinished: dict[str, _Unfinished] = {}
        self._complete: queue.SimpleQueue[_Unfinished | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._drop = False
        self._thread = threading.Thread(target=self._work, name="assemble", daemon=True)
        self._thread.start()

    def planned(self, document: Document, pages: Sequence[Page], left: int) -> None:
        """Says which pages a document has, and how many of them are to be read yet; in the source's order."""
        known = _Unfinished(document, self._all_pages(document, pages), left)
        files = self._files(document)
        if left:
            self._unfinished[document.path] = known
        elif self._ledger.is_written(document.path, self._settings.how) and files.are_there():
            self._found.append(files.name)
        else:
            self._complete.put(known)

    def record(self, pages: Sequence[PageFacts]) -> None:
        """Remembers how pages were read; comes before their rows are written."""
        self._ledger.add(pages)

    def finished(self, pages: Sequence[Page]) -> None:
        """Says that these pages have their rows."""
        for page in pages:
            known = self._unfinished[page.document.path]
            known.left -= 1
            if not known.left:
                self._complete.put(self._unfinished.pop(page.document.path))

    def check(self) -> None:
        """Raises what ended the writing."""
        if self._error is not None:
            raise self._error

    def close(self, drop: bool = False) -> None:
        """Returns when the files of all complete documents are written, or the run was stopped.

        With `drop`, because of some other trouble, no more are begun; a later run writes them.
        """
        self._drop = drop
        self._complete.put(None)
        self._thread.join()
        try:
            if drop:
                with contextlib.suppress(OutputError):  # there is trouble already
                    self._ledger.be_there()
            else:
                self.check()
                self._ledger.be_there()
                self._count_what_is_gone()
        finally:
            self._ledger.close()

    def _all_pages(self, document: Document, pages: Sequence[Page]) -> list[Page]:
        """Also those that this run passes over: an earlier one may have read them."""
        if pages[0].number is None or self._reading.pages == PageSelection():
            return list(pages)
        every = list(pages_of(document, replace(self._reading, pages=PageSelection())))
        return every if every[0].number is not None else list(pages)  # it could be opened a moment ago

    def _work(self) -> None:
        try:
            while (known := self._complete.get()) is not None:
                if self._drop or self._stop.is_set():
                    self.dropped += 1
                else:
                    self._assemble(known)
        except BaseException as error:
            self._error = error

    def _assemble(self, known: _Unfinished) -> None:
        path = known.document.path
        try:
            files = self._files(known.document)
            files.write(self._records(known.pages))
            self._ledger.set_written(path, self._settings.how)
            self._wrote.append(files.name)
            self.written += 1
        except DiskFullError:
            raise
        except Exception as error:  # of a kind that one document brings with it: the others go on
            self.unwritten += 1
            if not isinstance(error, OutputError):
                what = f"{type(error).__name__}: {error}"
                error = OutputError(f"The files of {shown_path(path)} can't be made: {what}.")
            self.first_unwritten = self.first_unwritten or error

    def _count_what_is_gone(self) -> None:
        """Counts documents as unwritten whose files were taken away after all."""
        gone = self._gone(self._wrote)
        self.written -= gone
        if gone or self._ledger.was_lost:  # else nobody is at work there
            gone += self._gone(self._found)
        if gone:
            self.unwritten += gone
            documents = "a document" if gone == 1 else f"{gone:,} documents"
            self.first_unwritten = OutputError(
                f"While the run went on, the files of {documents} were taken out of {self._settings.folder}."
            )

    def _gone(self, names: Sequence[str]) -> int:
        return sum(not DocumentFiles("", name, self._settings).are_there() for name in names)

    def _records(self, pages: Sequence[Page]) -> Iterator[PageRecord]:
        for page in pages:
            row = self._results.row(page.path)
            if row is None:
                continue  # not asked for, in this run or before
            facts = self._ledger.facts(page.path)

            def opened(page: Page = page) -> "Image":
                return self._opened.page(page)

            scale, size = (facts.box_scale, facts.size) if facts else (None, None)
            converted = convert(row.text, scale, size, self._settings.choices, opened)
            yield PageRecord(page.number, shown_path(page.path), row.status, facts, converted)

    def _files(self, document: Document) -> DocumentFiles:
        name = self._ledger.folder_of(document.path, document.text_stem)
        return DocumentFiles(shown_path(document.path), name, self._settings)
