"""`mlx-chandra show`: a results file at a glance, one line a page."""

import argparse
import csv
import html
import itertools
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlx_chandra.errors import UsageError

if TYPE_CHECKING:
    from mlx_chandra.cli.options import Commands

_HEADER = ["image_path", "status", "ocr_text"]
_SAMPLE = 300  # rows from which the columns' widths are taken
_LEAST_WORDS = 20  # columns
_ENOUGH_TEXT = 4000  # characters that surely hold the first words


def add_to(commands: "Commands") -> None:
    """Add the command to the program's."""
    parser = commands.add_parser(
        "show",
        help="print each page's status and first words",
        description="Print each page's status and first words from a results file.",
    )
    parser.add_argument("results", metavar="CSV", help="a file that `mlx-chandra ocr` wrote")


def run(arguments: argparse.Namespace) -> int:
    """Print a line a page as the file is read; return the exit status. Raises UsageError."""
    line = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100
    rows = _rows(arguments.results)
    first = list(itertools.islice(rows, _SAMPLE))
    folders = [os.path.dirname(path) for path, _, _ in first]
    folder = os.path.commonpath(folders) if folders and all(map(os.path.isabs, folders)) else ""
    status_width = min(max((_columns(status) for _, status, _ in first), default=0), max(line // 4, 8))
    page_width = max((_columns(_page(path, folder)) for path, _, _ in first), default=0)
    page_width = min(page_width, max(line - status_width - _LEAST_WORDS - 4, 12))
    words_width = max(line - page_width - status_width - 4, 0)
    for path, status, text in itertools.chain(first, rows):
        page = _fitted(_page(path, folder), page_width, keep_end=True)
        words = _fitted(first_words(text[:_ENOUGH_TEXT]), words_width)
        print(f"{page}  {_fitted(status, status_width)}  {words}".rstrip())
    sys.stdout.flush()
    return 0


def first_words(text: str) -> str:
    """The text without tags and on one line."""
    return " ".join(html.unescape(re.sub(r"<[^<>]*>", " ", text)).split())


def _rows(path: str) -> Iterator[list[str]]:
    """Path, status and text of each row, one at a time. Raises UsageError when it isn't a results file."""
    csv.field_size_limit(1 << 30)  # a page's text may be longer than the module's default allows
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            rows = csv.reader(file)
            if next(rows, []) != _HEADER:
                remedy = f"Its first line should be {','.join(_HEADER)}."
                raise UsageError(f"{path} is no results file.", remedy)
            yield from (row for row in rows if len(row) == len(_HEADER))
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}.") from error


def _page(path: str, folder: str) -> str:
    inside = folder and path.startswith(folder.rstrip("/") + "/")
    return os.path.relpath(path, folder) if inside else path


def _fitted(text: str, width: int, keep_end: bool = False) -> str:
    """The text in exactly `width` columns: filled up, or without its end, or its front with `keep_end`."""
    text = "".join(character if character.isprintable() else "�" for character in text)
    used = _columns(text)
    if used > width:
        kept = text[::-1] if keep_end else text
        ends = itertools.accumulate(map(_columns, kept))
        kept = kept[: sum(1 for _ in itertools.takewhile(lambda end: end < width, ends))]
        text = "…" + kept[::-1] if keep_end else kept + "…"
        used = _columns(text)
    return text + " " * (width - used)


def _columns(text: str) -> int:
    """Columns on a terminal: East Asian wide characters and emoji take two, combining marks none."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)
