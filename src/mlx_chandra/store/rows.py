"""Reads and writes the rows of the CSV: image_path, status, ocr_text.

RFC 4180 in UTF-8 with CRLF ends. Rows are read by their bytes, to tell a last row that a kill tore from one
that is whole, and never all at once. Paths are as shown (`files/paths.py`).
"""

import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mlx_chandra.errors import OutputError
from mlx_chandra.files.disk import cleaned, disk_errors
from mlx_chandra.files.paths import with_shown_bytes

COLUMNS = ("image_path", "status", "ocr_text")
HEADER = ",".join(COLUMNS).encode() + b"\r\n"

_FIELD = rb'("[^"]*+(?:""[^"]*+)*+"|[^",\r\n]*)'
_ROW = re.compile(_FIELD + b"," + _FIELD + b"," + _FIELD + rb"\r?\n")
_LINES = re.compile(rb'[^"\n]*+(?:"[^"]*+"[^"\n]*+)*+\n')  # up to the first line end that isn't quoted
_PATH = re.compile(_FIELD + b",")
_PAGE = re.compile(r"(.+)#page=([1-9]\d{0,8})", re.DOTALL)
_LIKE_A_ROW = rb'"?[^"\r\n]+"?,(?:ok|"?error:[^\r\n]*),'
_CHUNK = 1 << 20  # bytes read at least
_LONGEST_ROW = 64 << 20  # bytes; far above any page's text


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it is stored: its path as shown, its status on one line, its text without NULs."""

    path: str
    status: str
    text: str

    @property
    def digest(self) -> str:
        """What equal rows have in common, however a spreadsheet quoted them."""
        fields = "\0".join((self.path, self.status, self.text))
        return hashlib.sha256(fields.encode()).hexdigest()[:16]

    @property
    def encoded(self) -> bytes:
        """The row's bytes in the CSV."""
        line = io.StringIO()
        csv.writer(line, lineterminator="\r\n").writerow((self.path, self.status, self.text))
        return line.getvalue().encode()


def row_of(shown: str, status: str, text: str) -> Row:
    """Return a row in the form in which rows are stored and compared."""
    return Row(shown, cleaned(" ".join(status.split())), cleaned(text))


def page_of(shown: str) -> tuple[str, int]:
    """Return the document that a path as shown is of, and the page's number; 0 for a file by itself."""
    page = _PAGE.fullmatch(shown)
    return (page[1], int(page[2])) if page else (shown, 0)


class Rows:
    """Iterates over the whole rows of a CSV.

    `end` is the offset behind the last row so far. When all are read, `torn` says whether something follows
    that is no whole row. `expected` returns the bytes that a path's row should have, where that is known.

    Raises OutputError (while iterating) for a file that is no results table, or that is damaged before its
    last row.
    """

    def __init__(self, path: str, expected: Callable[[str], bytes | None] = lambda _: None) -> None:
        self.path, self.torn = path, False
        self.end, self._line_end = read_header(path)
        self._expected = expected

    def __iter__(self) -> Iterator[Row]:
        rest = b""
        with disk_errors(self.path), open(self.path, "rb") as file:
            file.seek(self.end)
            while len(rest) <= _LONGEST_ROW and (more := file.read(max(_CHUNK, len(rest)))):
                rest, place = rest + more, 0
                while (match := _ROW.match(rest, place)) is not None and b"\0" not in match[0]:
                    place = match.end()
                    self.end += len(match[0])
                    yield _row(match)
                rest = rest[place:]
        self.torn = bool(rest)
        if not self._is_torn_row(rest):
            raise OutputError(
                f"{self.path} is damaged: what begins at byte {self.end:,} is not a row, and more follows.",
                "It was left as it is; mend it, or choose another --output.",
            )

    def _is_torn_row(self, tail: bytes) -> bool:
        """Whether no whole row lies in what follows the last one that could be read."""
        lines = _LINES.match(tail)
        if len(tail) > _LONGEST_ROW:
            return False
        if lines is not None:
            return b"\0" in lines[0] and lines.end() == len(tail)  # a power cut leaves zeros at the end
        path = _PATH.match(tail)
        expected = path and self._expected(_shown(path[1]))
        return bool(expected and expected.startswith(tail)) or not re.search(
            self._line_end + _LIKE_A_ROW, tail
        )


def is_there(path: str) -> bool:
    """Whether there is a CSV whose header is whole. It ends within it where a run was killed at its start."""
    with disk_errors(path):
        try:
            with open(path, "rb") as file:
                start = file.read(len(HEADER))
        except (FileNotFoundError, NotADirectoryError):
            return False
    return start == HEADER or not HEADER.startswith(start)


def read_header(path: str) -> tuple[int, bytes]:
    """Return the offset behind the header, and how lines end.

    Raises OutputError where the first line is not a results table's (a BOM, quotes, LF may be).
    """
    with disk_errors(path), open(path, "rb") as file:
        header = file.readline(100)
    if header.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n").replace(b'"', b"") != HEADER.rstrip():
        raise OutputError(
            f"{path} is there, but its first line is not {','.join(COLUMNS)}.",
            "It was left as it is; choose another --output, or move it away.",
        )
    return len(header), b"\r\n" if header.endswith(b"\r\n") else b"\n"


def _row(match: re.Match[bytes]) -> Row:
    status, text = (_unquoted(field).decode("utf-8", "replace") for field in match.group(2, 3))
    return row_of(_shown(match[1]), status, text)


def _shown(field: bytes) -> str:
    return with_shown_bytes(_unquoted(field).decode("utf-8", "surrogateescape"))


def _unquoted(field: bytes) -> bytes:
    return field[1:-1].replace(b'""', b'"') if field.startswith(b'"') else field
