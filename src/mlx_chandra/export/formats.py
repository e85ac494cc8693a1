"""A document's files, each written page by page."""

import contextlib
import json
import os
from collections.abc import Callable
from typing import IO, Protocol

from mlx_chandra.errors import PageState
from mlx_chandra.export.conversion import ConvertedPage
from mlx_chandra.export.records import PageRecord, page_record
from mlx_chandra.export.settings import Format
from mlx_chandra.files.disk import cleaned

ENDINGS = {
    Format.HTML: ".html",
    Format.MARKDOWN: ".md",
    Format.JSON: ".json",
    Format.TEXT: ".txt",
    Format.PARQUET: ".parquet",
}

_HTML_START = '<meta charset="utf-8">\n'  # so that a browser doesn't have to guess


class FormatWriter(Protocol):
    """Writes one file of a document."""

    def add(self, page: PageRecord) -> None:
        """Write what the file has of a page."""

    def end(self) -> None:
        """Write what comes after all pages."""


def format_writer(
    form: Format, file: IO[bytes], source: str, paginate: bool, stack: contextlib.ExitStack
) -> FormatWriter:
    """Return what writes a file of this format; `stack` closes it. `source` is the document's shown path."""
    if form is Format.JSON:
        return _Json(file, source)
    if form is Format.PARQUET:
        from mlx_chandra.export.parquet import Blocks

        return stack.enter_context(contextlib.closing(Blocks(file, source)))
    if form is Format.TEXT:  # a form feed stands between pages, as between sheets of paper
        return _Joined(file, lambda page: f"{page.text}\n", lambda number: "\f")
    if form is Format.HTML:
        file.write(_HTML_START.encode())
        if paginate:
            return _Joined(file, lambda page: page.html, lambda number: f"\n\n<!-- Page {number + 1} -->\n\n")
        return _Joined(file, lambda page: page.html, lambda number: "\n", with_empty=False)
    if paginate:
        return _Joined(file, lambda page: page.markdown, lambda number: f"\n\n{number}{'-' * 48}\n\n")
    return _Joined(file, lambda page: page.markdown, lambda number: "\n\n", with_empty=False)


class _Joined:
    """Writes a part of each page, with something between two of them.

    Args:
        part: A page's part.
        between: What comes after so many pages.
        with_empty: Count pages whose part is empty; else they leave nothing behind.
    """

    def __init__(
        self,
        file: IO[bytes],
        part: Callable[[ConvertedPage], str],
        between: Callable[[int], str],
        with_empty: bool = True,
    ) -> None:
        self._file, self._part, self._between, self._with_empty = file, part, between, with_empty
        self._pages = 0

    def add(self, page: PageRecord) -> None:
        part = self._part(page.converted)
        if part or self._with_empty:
            before = self._between(self._pages) if self._pages else ""
            self._file.write(cleaned(before + part).encode())
            self._pages += 1

    def end(self) -> None:
        """Nothing is left to write."""


class _Json:
    """Writes every block of every page; the numbers of pages come behind them."""

    def __init__(self, file: IO[bytes], source: str) -> None:
        self._file = file
        self._pages = self._failed = 0
        start = json_text({"file_name": os.path.basename(source), "source": source})
        self._write(start.removesuffix("\n}") + ',\n  "pages": [')

    def add(self, page: PageRecord) -> None:
        self._write("," * bool(self._pages) + f"\n{json_text(page_record(page))}".replace("\n", "\n    "))
        self._pages += 1
        self._failed += page.result.state is not PageState.OK

    def end(self) -> None:
        counts = json_text({"num_pages": self._pages, "num_failed_pages": self._failed})
        self._write("\n  ]," + counts.removeprefix("{") + "\n")

    def _write(self, text: str) -> None:
        self._file.write(cleaned(text).encode())


def json_text(record: object) -> str:
    """Return the record as JSON with two spaces of indent."""
    return json.dumps(record, indent=2, ensure_ascii=False)
