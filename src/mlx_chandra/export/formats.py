"""A document's files, each written page by page."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO

from mlx_chandra.errors import PageState
from mlx_chandra.export.conversion import ConvertedPage
from mlx_chandra.export.records import Record
from mlx_chandra.export.settings import Format
from mlx_chandra.files.disk import cleaned

ENDINGS = {
    Format.HTML: ".html",
    Format.MARKDOWN: ".md",
    Format.JSON: ".json",
    Format.TEXT: ".txt",
    Format.PARQUET: ".parquet",
}
AddPage = Callable[[Record, ConvertedPage], None]

_HTML_START = '<meta charset="utf-8">\n'  # so that a browser doesn't have to guess
_BETWEEN = {Format.HTML: "\n", Format.MARKDOWN: "\n\n", Format.TEXT: "\f"}  # as between sheets of paper
_MARKS = {Format.HTML: "\n\n<!-- Page {1} -->\n\n", Format.MARKDOWN: "\n\n{0}" + "-" * 48 + "\n\n"}


def format_writer(
    form: Format, file: IO[bytes], source: str, paginate: bool
) -> AbstractContextManager[AddPage]:
    """Return what writes a document's pages in this format; on leaving, it writes what comes after them.

    `source` is the document's shown path, `paginate` marks in HTML and Markdown where a page begins.
    """
    if form is Format.JSON:
        return _json(file, source)
    if form is Format.PARQUET:
        from mlx_chandra.export.parquet import block_rows

        return block_rows(file, source)
    return _joined(form, file, paginate)


@contextmanager
def _joined(form: Format, file: IO[bytes], paginate: bool) -> Iterator[AddPage]:
    between = _MARKS.get(form, _BETWEEN[form]) if paginate else _BETWEEN[form]
    counts_empty = paginate or form is Format.TEXT
    pages = 0

    def add(record: Record, page: ConvertedPage) -> None:
        nonlocal pages
        part = {Format.HTML: page.html, Format.MARKDOWN: page.markdown, Format.TEXT: f"{page.text}\n"}[form]
        if part or counts_empty:
            _write(file, (between.format(pages, pages + 1) if pages else "") + part)
            pages += 1

    _write(file, _HTML_START if form is Format.HTML else "")
    yield add


@contextmanager
def _json(file: IO[bytes], source: str) -> Iterator[AddPage]:
    pages = failed = 0

    def add(record: Record, page: ConvertedPage) -> None:
        nonlocal pages, failed
        _write(file, "," * bool(pages) + f"\n{json_text(record)}".replace("\n", "\n    "))
        pages += 1
        failed += record["status"] != PageState.OK.status

    start = json_text({"file_name": os.path.basename(source), "source": source})
    _write(file, start.removesuffix("\n}") + ',\n  "pages": [')
    yield add
    counts = json_text({"num_pages": pages, "num_failed_pages": failed})
    _write(file, "\n  ]," + counts.removeprefix("{") + "\n")


def _write(file: IO[bytes], text: str) -> None:
    file.write(cleaned(text).encode())


def json_text(record: object) -> str:
    """Return the record as JSON with two spaces of indent."""
    return json.dumps(record, indent=2, ensure_ascii=False)
