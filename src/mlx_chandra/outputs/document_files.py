"""A document's files: those that the authors' own client writes, and others made of the same pages.

In a folder of the document's own, `<name>`: `<name>.md`, `<name>.html`, `<name>.json`, `<name>.txt` and
`<name>.parquet` as they were asked for, the pictures cut out of its pages, and `<name>_metadata.json`. Each
is there whole or not at all, and the metadata comes last.
"""

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from mlx_chandra.outputs.conversion import Choices, ConvertedPage
from mlx_chandra.outputs.disk import cleaned, disk_trouble, sync_folder, write_whole
from mlx_chandra.outputs.making import Making
from mlx_chandra.outputs.page_records import PageRecord, document_record, metadata_record

_PICTURE = "_img.webp"  # what the names of cut out pictures end with, in the package
_HTML_START = '<meta charset="utf-8">\n'  # so that a browser doesn't have to guess


class Format(StrEnum):
    """What a document can be written as."""

    HTML = "html"
    MARKDOWN = "markdown"
    JSON = "json"
    TEXT = "text"
    PARQUET = "parquet"


_ENDINGS = {
    Format.HTML: ".html",
    Format.MARKDOWN: ".md",
    Format.JSON: ".json",
    Format.TEXT: ".txt",
    Format.PARQUET: ".parquet",
}


@dataclass(frozen=True)
class DocumentSettings:
    """What documents are made into.

    Attributes:
        folder: Where their folders go.
        formats: Which files each of them gets.
        choices: What of a page is left in.
        paginate: Mark in HTML and Markdown where a page begins.
        making: With what this run reads pages.
    """

    folder: str
    formats: frozenset[Format]
    choices: Choices
    paginate: bool
    making: Making

    @property
    def how(self) -> str:
        """All that changes the files of given pages, as a word to compare."""
        words = [*sorted(self.formats), "headers" * self.choices.headers]
        words += ["pictures" * self.choices.pictures, "paginated" * self.paginate]
        return ",".join(word for word in words if word)


class DocumentFiles:
    """Writes the files of one document. `source` is its path as people see it, `name` its folder's."""

    def __init__(self, source: str, name: str, settings: DocumentSettings) -> None:
        self.name = name
        self._source, self._settings = source, settings
        self._folder = os.path.join(settings.folder, name)
        self._files: list[str] = []

    def are_there(self) -> bool:
        """Whether they were written once; nobody knows whether they are up to date."""
        return os.path.exists(self._metadata_path)

    @property
    def _metadata_path(self) -> str:
        return os.path.join(self._folder, f"{self.name}_metadata.json")

    def write(self, pages: Iterable[PageRecord]) -> None:
        """Writes all of them from the document's pages in their order; returns once they are on the disk.

        Raises:
            OutputError: One can't be written (DiskFullError: for want of room).
        """
        records: list[PageRecord] = []
        written: set[str] = set()
        for page in pages:
            own = _with_names_of_its_own(page, written)
            for name, content in own.converted.pictures.items():
                self._write(name, content)
                written.add(name)
            records.append(_with_names_alone(own))
        for form in sorted(self._settings.formats):
            self._write(self.name + _ENDINGS[form], self._content(form, records))
        metadata = metadata_record(self._source, records, self._files)
        before = self._pictures_before()
        self._write(os.path.basename(self._metadata_path), _json(metadata))
        for name in before - written:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._folder, name))
        for folder in (self._folder, self._settings.folder):
            with disk_trouble(folder):
                sync_folder(folder)

    def _write(self, name: str, content: bytes) -> None:
        write_whole(os.path.join(self._folder, name), content, self._settings.folder)
        self._files.append(name)

    def _content(self, form: Format, records: list[PageRecord]) -> bytes:
        if form is Format.JSON:
            return _json(document_record(self._source, records))
        if form is Format.PARQUET:
            from mlx_chandra.outputs.parquet import parquet_file

            return parquet_file(self._source, records)
        pages = [record.converted for record in records]
        joined = {Format.HTML: self._html, Format.MARKDOWN: self._markdown, Format.TEXT: _text}[form](pages)
        return cleaned(joined).encode()

    def _html(self, pages: list[ConvertedPage]) -> str:
        if not self._settings.paginate:
            return _HTML_START + "\n".join(page.html for page in pages if page.html)
        marks = [f"\n\n<!-- Page {number} -->\n\n" for number in range(2, len(pages) + 1)]
        return _HTML_START + "".join(m + p.html for m, p in zip(["", *marks], pages, strict=True))

    def _markdown(self, pages: list[ConvertedPage]) -> str:
        if not self._settings.paginate:
            return "\n\n".join(page.markdown for page in pages if page.markdown)
        marks = [f"\n\n{number}{'-' * 48}\n\n" for number in range(1, len(pages))]
        return "".join(m + p.markdown for m, p in zip(["", *marks], pages, strict=True))

    def _pictures_before(self) -> set[str]:
        """The pictures that an earlier writing of these files left, by what it said itself."""
        try:
            with open(self._metadata_path, encoding="utf-8") as file:
                names = json.load(file)["files"]
        except (OSError, ValueError, KeyError, TypeError):
            return set()
        return {name for name in names if name.endswith(_PICTURE) and name == os.path.basename(name)}


def _with_names_alone(page: PageRecord) -> PageRecord:
    """The page without its pictures' content, which is written: a document may have a thousand of them."""
    pictures = dict.fromkeys(page.converted.pictures, b"")
    return replace(page, converted=replace(page.converted, pictures=pictures))


def _with_names_of_its_own(page: PageRecord, taken: set[str]) -> PageRecord:
    """The page with other names for pictures whose names an earlier page has.

    The package makes a name from the page's answer, and two pages with a photograph each may say the same.
    """
    for old in taken & page.converted.pictures.keys():
        new = old.removesuffix(_PICTURE) + f"_p{page.number or 1:04}{_PICTURE}"
        was = page.converted
        blocks = tuple(replace(b, picture=new if b.picture == old else b.picture) for b in was.blocks)
        now = replace(
            was,
            html=was.html.replace(old, new),
            markdown=was.markdown.replace(old, new),
            blocks=blocks,
            pictures={new if name == old else name: content for name, content in was.pictures.items()},
        )
        page = replace(page, converted=now)
    return page


def _text(pages: list[ConvertedPage]) -> str:
    """A form feed stands between pages, as between sheets of paper."""
    return "\f".join(f"{page.text}\n" for page in pages)


def _json(record: object) -> bytes:
    return cleaned(json.dumps(record, indent=2, ensure_ascii=False)).encode() + b"\n"
