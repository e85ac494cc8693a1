"""Exports many documents: `Exports` one after the other, `Exporter` on a thread of its own beside a run."""

import errno
import fcntl
import os
import queue
import threading
from collections.abc import Callable, Iterable

from mlx_chandra.documents.page import Document, PageResult
from mlx_chandra.errors import DiskFullError, MlxChandraError, OutputBusyError, OutputError
from mlx_chandra.export.conversion import OpenPage
from mlx_chandra.export.document import Exported, export_document
from mlx_chandra.export.folders import Folders, metadata_name, stored_digest
from mlx_chandra.export.records import digest_of
from mlx_chandra.export.settings import ExportSettings
from mlx_chandra.files.disk import disk_errors
from mlx_chandra.files.paths import shown_path

PagesOf = Callable[[str], Iterable[PageResult]]  # a document's path -> its results, in the order of its pages


class Exports:
    """Exports documents from the stored results of their pages into one folder, locked until it is closed.

    Passes over documents whose files were made of these results in this way.

    Raises (when it is made):
        OutputBusyError: Another run writes to the folder.
        OutputError: There can't be a folder.
    """

    def __init__(self, settings: ExportSettings, pages_of: PagesOf, open_page: OpenPage) -> None:
        self.written = self.current = self.failed = 0  # documents
        self.first_error: OutputError | None = None  # why the first of the failed couldn't be written
        self.plain: list[str] = []  # paths of pages that were written as plain text
        self._settings, self._pages_of, self._open_page = settings, pages_of, open_page
        self._names: dict[str, bool] = {}  # of the folders, and whether they were written by this run
        self._lock = _locked(settings.folder)
        self._folders = Folders(settings.folder)

    def reserve(self, document: Document) -> None:
        """Name the document's folder now, so that names follow the order of the input."""
        self._folders.name_of(document.path, document.text_stem)

    def export(self, document: Document) -> Exported | OutputError | None:
        """Export one document; return what became of it, None where its files are current.

        Counts and returns an error that only concerns this document. Raises DiskFullError.
        """
        try:
            return self._export(document)
        except DiskFullError:
            raise
        except Exception as problem:
            what = problem if isinstance(problem, MlxChandraError) else f"{type(problem).__name__}: {problem}"
            said = f"The files of {shown_path(document.path)} can't be made: {what}."
            error = problem if isinstance(problem, OutputError) else OutputError(said)
            self.failed += 1
            self.first_error = self.first_error or error
            return error

    def close(self) -> None:
        """Let others write to the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def count_missing(self) -> None:
        """Count documents as failed whose files were taken away after all."""
        place = self._settings.folder
        gone = [n for n in self._names if not os.path.exists(os.path.join(place, n, metadata_name(n)))]
        self.written -= sum(self._names[name] for name in gone)
        self.failed += len(gone)
        if gone and self.first_error is None:
            documents = "a document" if len(gone) == 1 else f"{len(gone):,} documents"
            said = f"While the run went on, the files of {documents} were taken out of {place}."
            self.first_error = OutputError(said)

    def _export(self, document: Document) -> Exported | None:
        path, stem, settings = document.path, document.text_stem, self._settings
        name = self._folders.name_of(path, stem)
        stored = stored_digest(path, name, settings.how, settings.folder)
        if stored is not None and stored == digest_of(self._pages_of(path)):
            self.current += 1
            self._names[name] = False
            return None
        pages = self._pages_of(path)
        exported = export_document(path, stem, pages, settings, self._open_page, self._folders)
        self.written += 1
        self.plain += exported.plain
        self._names[name] = True
        return exported


class Exporter:
    """Exports documents on a thread of its own, as they are put. Can be used by several threads.

    Begins no more documents when `stop` is set. `exports` has the counts.
    """

    def __init__(
        self,
        settings: ExportSettings,
        pages_of: PagesOf,
        open_page: OpenPage,
        stop: threading.Event | None = None,
    ) -> None:
        self.exports = Exports(settings, pages_of, open_page)
        self.dropped = 0  # documents that were put and not begun
        self._stop = stop or threading.Event()
        self._waiting: queue.SimpleQueue[Document | None] = queue.SimpleQueue()
        self._drop = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="export", daemon=True)
        self._thread.start()

    def reserve(self, document: Document) -> None:
        """Name the document's folder now; see `Exports.reserve`."""
        self.exports.reserve(document)

    def put(self, document: Document) -> None:
        """Have the document exported, all of whose results are stored; return at once."""
        self._waiting.put(document)

    def check(self) -> None:
        """Raise what ended the exporting: DiskFullError, or a mistake of this program."""
        if self._error is not None:
            raise self._error

    def close(self, drop: bool = False) -> None:
        """Return when all documents that were put are exported; with `drop`, begin no more of them.

        Raises as `check`, without `drop`.
        """
        self._drop = drop
        self._waiting.put(None)
        self._thread.join()
        self.exports.close()
        if not drop:
            self.check()
            self.exports.count_missing()

    def _work(self) -> None:
        try:
            while (document := self._waiting.get()) is not None:
                if self._drop or self._stop.is_set():
                    self.dropped += 1
                else:
                    self.exports.export(document)
        except BaseException as error:
            self._error = error


def _locked(folder: str) -> int | None:
    """Make the folder and lock it; return its file descriptor, None where the file system has no locks."""
    with disk_errors(folder):
        os.makedirs(folder, exist_ok=True)
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(number)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise OutputBusyError(
                f"Another run is writing to {folder}.",
                "Wait for it to end, or give this run another --output-dir.",
            ) from error
        return None
    return number
