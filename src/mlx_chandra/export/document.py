"""A document's files: those that the authors' own client writes, and others made of the same pages.

In a folder of the document's own, `<name>`: `<name>.md`, `<name>.html`, `<name>.json`, `<name>.txt` and
`<name>.parquet` as they were asked for, the figures cut out of its pages, and `<name>_metadata.json`. Each is
there whole or not at all. The metadata is written twice: first it says whose folder this is, and last how the
files were made, and of what.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mlx_chandra.documents.page import PageResult
from mlx_chandra.export.conversion import OpenPage, convert
from mlx_chandra.export.folders import Folders, file_names, metadata_name, read_metadata, stored_digest
from mlx_chandra.export.formats import ENDINGS, FormatWriter, format_writer, json_text
from mlx_chandra.export.records import PageRecord, digest_row, document_metadata, page_metadata
from mlx_chandra.export.settings import ExportSettings
from mlx_chandra.files.disk import cleaned, disk_errors, sync_folder, whole_file, write_whole
from mlx_chandra.files.paths import shown_path

_PICTURE = "_img.webp"  # what the names of figures end with, in the package


@dataclass(frozen=True)
class Exported:
    """What became of one document.

    Attributes:
        name: Its folder's name.
        plain: The pages, as the results name them, that were written as plain text.
        problems: What couldn't be done with a page, in sentences that begin with its name.
    """

    name: str
    plain: tuple[str, ...]
    problems: tuple[str, ...]


def is_current(source: str, text_stem: str, digest: str, settings: ExportSettings) -> bool:
    """Return whether a document's files are there and were made in this way of pages with this digest."""
    return stored_digest(source, text_stem, settings.how, settings.folder) == digest


def export_document(
    source: str,
    text_stem: str,
    pages: Iterable[PageResult],
    settings: ExportSettings,
    open_page: OpenPage,
    folders: Folders | None = None,
) -> Exported:
    """Write the files of one document; return once they are on the disk.

    Args:
        source: Full path of its file.
        text_stem: What its folder is called where that name is free.
        pages: Its results, in the order of its pages. Taken one by one.
        settings: What is made.
        open_page: Gives the picture of a page. Raises PageError.
        folders: The names of all folders, where many documents are written.

    Raises:
        OutputError: A file can't be written (DiskFullError: for want of room).
        MlxChandraError: A package that makes the files is missing.
    """
    name = (folders or Folders(settings.folder)).name_of(source, text_stem)
    return _DocumentFolder(shown_path(source), name, settings).write(pages, open_page)


class _DocumentFolder:
    """Writes the files of one document. `source` is its shown path, `name` its folder's name."""

    def __init__(self, source: str, name: str, settings: ExportSettings) -> None:
        self._source, self._name, self._settings = source, name, settings
        self._folder = os.path.join(settings.folder, name)
        self._figures: list[str] = []  # written by now
        self._digest = hashlib.sha256()

    def write(self, pages: Iterable[PageResult], open_page: OpenPage) -> Exported:
        before = read_metadata(self._settings.folder, self._name)
        self._write_metadata({**before, "source": self._source, "complete": False})
        files = [self._name + ENDINGS[form] for form in sorted(self._settings.formats)]
        with contextlib.ExitStack() as stack:
            entries, exported = self._write_pages(pages, open_page, self._writers(stack))
        stamp = {"complete": True, "how": self._settings.how, "digest": self._digest.hexdigest()}
        files = [*self._figures, *files]
        self._write_metadata(document_metadata(self._source, entries, files) | stamp)
        self._remove({n for n in file_names(before) if n.endswith(_PICTURE)} - set(files))
        for folder in (self._folder, self._settings.folder):
            with disk_errors(folder):
                sync_folder(folder)
        return exported

    def _writers(self, stack: contextlib.ExitStack) -> list[tuple[str, FormatWriter]]:
        writers = []
        for form in sorted(self._settings.formats):
            path = os.path.join(self._folder, self._name + ENDINGS[form])
            file = stack.enter_context(whole_file(path, self._settings.folder))
            writers.append((path, format_writer(form, file, self._source, self._settings.paginate, stack)))
        return writers

    def _write_pages(
        self, pages: Iterable[PageResult], open_page: OpenPage, writers: Sequence[tuple[str, FormatWriter]]
    ) -> tuple[list[dict[str, object]], Exported]:
        entries: list[dict[str, object]] = []
        plain: list[str] = []
        problems: list[str] = []
        for result in pages:
            self._digest.update(digest_row(result))
            page = self._record(result, open_page)
            for path, writer in writers:
                with disk_errors(path):
                    writer.add(page)
            entries.append(page_metadata(len(entries), page))
            shown = shown_path(result.page.path)
            plain += [shown] * page.converted.is_plain
            problems += [f"{shown}: {problem}" for problem in page.converted.problems]
        for path, writer in writers:
            with disk_errors(path):
                writer.end()
        return entries, Exported(self._name, tuple(plain), tuple(problems))

    def _record(self, result: PageResult, open_page: OpenPage) -> PageRecord:
        result = replace(result, text=cleaned(result.text), status=cleaned(result.status))

        def save(name: str, figure: bytes) -> str:
            return self._save_figure(name, figure, result.page.number or 1)

        return PageRecord(result, convert(result, self._settings.choices, open_page, save))

    def _save_figure(self, name: str, figure: bytes, number: int) -> str:
        """Write a figure, under another name where an earlier page has this one.

        The package makes a name from the page's text, and two pages with a photograph each may say the same.
        """
        if name in self._figures:
            name = name.removesuffix(_PICTURE) + f"_p{number:04}{_PICTURE}"
        write_whole(os.path.join(self._folder, name), figure, self._settings.folder)
        self._figures.append(name)
        return name

    def _write_metadata(self, record: object) -> None:
        content = cleaned(json_text(record)).encode() + b"\n"
        write_whole(os.path.join(self._folder, metadata_name(self._name)), content, self._settings.folder)

    def _remove(self, names: Iterable[str]) -> None:
        """Remove figures that an earlier writing of these files left."""
        for name in names:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._folder, name))
