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
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

Commands = argparse._SubParsersAction  # argparse has no public name for it

_HEADER = ["image_path", "status", "ocr_text"]
_SAMPLE = 300  # rows from which the columns' widths are taken
_LEAST_WORDS = 20  # columns
_ENOUGH_TEXT = 4000  # characters that surely hold the first words
_TAG = re.compile(r"<[^<>]*>")


class _Widths(NamedTuple):
    """Columns on the screen, and the folder that page names are seen from."""

    page: int
    status: int
    line: int
    folder: str


def add_to(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Adds the command to the program's."""
    parser = commands.add_parser(
        "show",
        help="print each page's status and first words",
        description="Print each page's status and first words from a results file.",
    )
    parser.add_argument("results", metavar="CSV", help="a file that `mlx-chandra ocr` wrote")


def run(arguments: argparse.Namespace) -> int:
    """Prints a line a page as the file is read; returns the exit status. Raises UsageError."""
    width = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100
    rows = _rows(arguments.results)
    first = list(itertools.islice(rows, _SAMPLE))
    widths = _widths(first, width)
    try:
        for row in itertools.chain(first, rows):
            print(_line(row, widths))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def first_words(text: str) -> str:
    """The text without tags and on one line."""
    return " ".join(html.unescape(_TAG.sub(" ", text)).split())


def _rows(path: str) -> Iterator[Sequence[str]]:
    """Path, status and text of each row, one at a time. Raises UsageError when it isn't a results file."""
    from mlx_chandra.errors import UsageError

    csv.field_size_limit(1 << 30)  # a page's text may be longer than the module's default allows
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            rows = csv.reader(file)
            if next(rows, []) != _HEADER:
                raise UsageError(
                    f"{path} is no results file.", f"Its first line should be {','.join(_HEADER)}."
                )
            yield from (row for row in rows if len(row) == len(_HEADER))
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}.") from error


def _widths(rows: Sequence[Sequence[str]], line: int) -> _Widths:
    """The widths of three columns that fit `line`."""
    folders = [os.path.dirname(path) for path, _, _ in rows if os.path.isabs(path)]
    folder = os.path.commonpath(folders) if folders and len(folders) == len(rows) else ""
    status = min(_longest(status for _, status, _ in rows), max(line // 4, 8))
    page = _longest(_shown_page(path, folder) for path, _, _ in rows)
    return _Widths(min(page, max(line - status - _LEAST_WORDS - 4, 12)), status, line, folder)


def _line(row: Sequence[str], widths: _Widths) -> str:
    """The row in columns. A long name loses its front, a long status and long words their end."""
    path, status, text = row
    page = _shown_page(path, widths.folder)
    if _width(page) > widths.page:
        page = "…" + _cut(page[::-1], widths.page - 1)[::-1]
    status = _shortened(_printable(status), widths.status)
    start = f"{_padded(page, widths.page)}  {_padded(status, widths.status)}  "
    words = _printable(first_words(text[:_ENOUGH_TEXT]))
    return (start + _shortened(words, max(widths.line - _width(start), 0))).rstrip()


def _shown_page(path: str, folder: str) -> str:
    inside = folder and path.startswith(folder.rstrip("/") + "/")
    return _printable(os.path.relpath(path, folder) if inside else path)


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else "�" for c in text)


def _longest(texts: Iterable[str]) -> int:
    return max(map(_width, texts), default=0)


def _width(text: str) -> int:
    """Columns on a terminal: East Asian wide characters and emoji take two, combining marks none."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _cut(text: str, width: int) -> str:
    used = itertools.accumulate(map(_columns, text))
    return text[: sum(1 for _ in itertools.takewhile(lambda total: total <= width, used))]


def _shortened(text: str, width: int) -> str:
    return text if _width(text) <= width else _cut(text, max(width - 1, 0)) + "…"


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
