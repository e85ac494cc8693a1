"""`mlx-chandra show`: a results file at a glance, one line a page."""

import argparse
import csv
import html
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

Commands = argparse._SubParsersAction  # argparse has no public name for it

_LEAST_WORDS = 20  # columns
_ENOUGH_TEXT = 4000  # characters that surely hold the first words
_TAG = re.compile(r"<[^<>]*>")


@dataclass(frozen=True)
class _Line:
    page: str
    status: str
    words: str


def add_to(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Adds the command to the program's."""
    parser = commands.add_parser(
        "show",
        help="print each page's status and first words",
        description="Print each page's status and first words from a results file.",
    )
    parser.add_argument("results", metavar="CSV", help="a file that `mlx-chandra ocr` wrote")


def run(arguments: argparse.Namespace) -> int:
    """Prints the table; returns the exit status. Raises UsageError when it isn't a results file."""
    lines = _read(arguments.results)
    width = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100
    for line in columns(lines, width):
        print(line)
    sys.stdout.flush()
    return 0


def columns(lines: "Sequence[_Line]", width: int) -> list[str]:
    """The lines in three columns that fit `width`; a long name loses its front, long words their end."""
    longest_page = max((_width(line.page) for line in lines), default=0)
    longest_status = max((_width(line.status) for line in lines), default=0)
    status = min(longest_status, max(width // 4, 8))
    page = min(longest_page, max(width - status - _LEAST_WORDS - 4, 12))
    shown = []
    for line in lines:
        name = line.page if _width(line.page) <= page else "…" + _cut(line.page[::-1], page - 1)[::-1]
        start = f"{_padded(name, page)}  {_padded(_shortened(line.status, status), status)}  "
        shown.append((start + _shortened(line.words, max(width - _width(start), 0))).rstrip())
    return shown


def first_words(text: str) -> str:
    """The text without tags and on one line."""
    return " ".join(html.unescape(_TAG.sub(" ", text)).split())


def _read(path: str) -> list[_Line]:
    from mlx_chandra.errors import UsageError
    from mlx_chandra.outputs.rows import COLUMNS

    csv.field_size_limit(1 << 30)  # a page's text may be longer than the module's default allows
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            rows = csv.reader(file)
            if tuple(next(rows, [])) != COLUMNS:
                wanted = f"Its first line should be {','.join(COLUMNS)}."
                raise UsageError(f"{path} is no results file.", wanted)
            whole = [row for row in rows if len(row) == len(COLUMNS)]
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}.") from error
    folders = [os.path.dirname(row[0]) for row in whole if os.path.isabs(row[0])]
    common = os.path.commonpath(folders) if len(folders) == len(whole) and folders else ""
    return [_line(row[0], row[1], row[2], common) for row in whole]


def _line(path: str, status: str, text: str, common: str) -> _Line:
    page = os.path.relpath(path, common) if common else path
    return _Line(_one_line(page), _one_line(status), _one_line(first_words(text[:_ENOUGH_TEXT])))


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else "�" for c in text)


def _width(text: str) -> int:
    """Columns on a terminal: East Asian wide characters and emoji take two, combining marks none."""
    return sum(_columns(c) for c in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _cut(text: str, width: int) -> str:
    used = 0
    for place, character in enumerate(text):
        used += _columns(character)
        if used > width:
            return text[:place]
    return text


def _shortened(text: str, width: int) -> str:
    return text if _width(text) <= width else _cut(text, max(width - 1, 0)) + "…"


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
