"""Writes a document's folder: its files, the figures cut out of its pages, and `<name>_metadata.json`.

Each file is there whole or not at all. The metadata is written twice: first it says whose folder this is, and
last how the files were made, and of what.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from mlx_chandra.documents.page import PageResult
from mlx_chandra.export.conversion import ConvertedPage, OpenPage, convert
from mlx_chandra.export.folders import Folders, file_names, metadata_name, read_metadata
from mlx_chandra.export.formats import ENDINGS, AddPage, format_writer, json_text
from mlx_chandra.export.records import Record, digest_row, document_metadata, page_metadata, page_record
from mlx_chandra.export.settings import ExportSettings, Format
from mlx_chandra.files.disk import cleaned, disk_errors, sync_folder, whole_file, write_whole
from mlx_chandra.files.paths import shown_path

_PICTURE = "_img.webp"  # what the names of figures end with, in the package


@dataclass(frozen=True)
class Exported:
    """What became of one document."""

    name: str  # its folder's
    plain: tuple[str, ...]  # the paths of pages that were written as plain text
    problems: tuple[str, ...]  # sentences that begin with a page's path


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
        folders: The names of all folders, where many documents are written.

    Raises:
        OutputError: A file can't be written (DiskFullError: for want of room).
        MlxChandraError: A package that makes the files is missing.
    """
    name = (folders or Folders(settings.folder)).name_of(source, text_stem)
    return _DocumentFolder(shown_path(source), name, settings, open_page).write(pages)


class _DocumentFolder:
    """Writes the files of one document. `source` is its shown path, `name` its folder's name."""

    def __init__(self, source: str, name: str, settings: ExportSettings, open_page: OpenPage) -> None:
        self._source, self._name, self._settings, self._open_page = source, name, settings, open_page
        self._folder = os.path.join(settings.folder, name)
        self._figures: list[str] = []  # written by now
        self._entries: list[Record] = []  # of the metadata, one a page
        self._plain: list[str] = []
        self._problems: list[str] = []

    def write(self, pages: Iterable[PageResult]) -> Exported:
        before = read_metadata(self._settings.folder, self._name)
        self._write_metadata({**before, "source": self._source, "complete": False})
        paths = {form: self._name + ENDINGS[form] for form in sorted(self._settings.formats)}
        digest = hashlib.sha256()
        with contextlib.ExitStack() as stack:
            writers = [stack.enter_context(self._writer(form, name)) for form, name in paths.items()]
            for result in pages:
                digest.update(digest_row(result))
                self._add(result, writers)
        stamp = {"complete": True, "how": self._settings.how, "digest": digest.hexdigest()}
        files = [*self._figures, *paths.values()]
        self._write_metadata(document_metadata(self._source, self._entries, files) | stamp)
        for name in {n for n in file_names(before) if n.endswith(_PICTURE)} - set(files):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._folder, name))
        for folder in (self._folder, self._settings.folder):
            with disk_errors(folder):
                sync_folder(folder)
        return Exported(self._name, tuple(self._plain), tuple(self._problems))

    @contextlib.contextmanager
    def _writer(self, form: Format, name: str) -> Iterator[AddPage]:
        path, settings = os.path.join(self._folder, name), self._settings

        def add_page(record: Record, page: ConvertedPage) -> None:
            with disk_errors(path):
                add(record, page)

        with (
            whole_file(path, settings.folder) as file,
            format_writer(form, file, self._source, settings.paginate) as add,
        ):
            yield add_page

    def _add(self, result: PageResult, writers: Sequence[AddPage]) -> None:
        result = replace(result, text=cleaned(result.text), status=cleaned(result.status))

        def save(name: str, figure: bytes) -> str:
            return self._save_figure(name, figure, result.page.number or 1)

        page = convert(result, self._settings.choices, self._open_page, save)
        record = page_record(result, page)
        for add in writers:
            add(record, page)
        self._entries.append(page_metadata(len(self._entries), record))
        self._plain += [record["path"]] * page.is_plain
        self._problems += [f"{record['path']}: {problem}" for problem in page.problems]

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
