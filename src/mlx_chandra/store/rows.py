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
from typing import BinaryIO

from mlx_chandra.errors import OutputError
from mlx_chandra.files.disk import cleaned, disk_errors

COLUMNS = ("image_path", "status", "ocr_text")
HEADER = ",".join(COLUMNS).encode() + b"\r\n"

_FIELD = rb'("[^"]*(?:""[^"]*)*"|[^",\r\n]*)'
_ROW = re.compile(_FIELD + b"," + _FIELD + b"," + _FIELD + rb"\r?\n")
_PATH = re.compile(_FIELD + b",")
_PAGE = re.compile(r"(.+)#page=([1-9]\d{0,8})", re.DOTALL)
_LIKE_A_ROW = rb'"?[^"\r\n]+"?,(?:ok|"?error:[^\r\n]*),'
_FIRST_CHUNK, _CHUNK = 1 << 16, 1 << 22  # bytes
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


def _nothing(_: str) -> bytes | None:
    return None


class Rows:
    """Iterates over the whole rows of a CSV.

    `end` is the offset behind the last row so far. When all are read, `torn` says whether something follows
    that is no whole row. `expected` returns the bytes that a path's row should have, where that is known.

    Raises OutputError (while iterating) for a file that is no results table, or that is damaged before its
    last row.
    """

    def __init__(self, path: str, expected: Callable[[str], bytes | None] = _nothing) -> None:
        self.path, self.torn = path, False
        self.end, self._line_end = _header(path)
        self._expected = expected

    def __iter__(self) -> Iterator[Row]:
        size = _FIRST_CHUNK
        with disk_errors(self.path), open(self.path, "rb") as file:
            while True:
                file.seek(self.end)
                chunk, place, start = file.read(size), 0, self.end
                size = _CHUNK
                while (match := _ROW.match(chunk, place)) is not None and b"\0" not in match[0]:
                    place = match.end()
                    self.end = start + place
                    yield _row(match)
                file.seek(self.end)
                row = self._long_row(file)  # goes beyond the chunk, or is torn
                if row is None:
                    return
                yield row

    def _long_row(self, file: BinaryIO) -> Row | None:
        """Return the row at the file's place, read line by line; None at the end and for a torn one."""
        lines: list[bytes] = []
        quotes = size = 0
        for line in file:
            lines.append(line)
            size, quotes = size + len(line), quotes + line.count(b'"')
            if size > _LONGEST_ROW:
                raise self._damaged()
            if quotes % 2 == 0 and line.endswith(b"\n"):
                return self._whole_row(b"".join(lines), file)
        self._check_torn(b"".join(lines))
        return None

    def _whole_row(self, raw: bytes, file: BinaryIO) -> Row | None:
        match = _ROW.fullmatch(raw)
        if match is not None and b"\0" not in raw:
            self.end += len(raw)
            return _row(match)
        if b"\0" in raw and not file.read(1):  # a power cut leaves zeros at the end
            self.torn = True
            return None
        raise self._damaged()

    def _check_torn(self, tail: bytes) -> None:
        """Note whether a tail without a row's end is there; raise OutputError if it holds other rows."""
        self.torn = bool(tail)
        path = _PATH.match(tail)
        expected = path and self._expected(_shown(path[1]))
        if expected and expected.startswith(tail):
            return
        if re.search(self._line_end + _LIKE_A_ROW, tail):
            raise self._damaged()

    def _damaged(self) -> OutputError:
        return OutputError(
            f"{self.path} is damaged: what begins at byte {self.end:,} is not a row, and more follows.",
            "It was left as it is; mend it, or choose another --output.",
        )


def check_header(path: str) -> None:
    """Raise OutputError where the file's first line is not a results table's (a BOM, quotes, LF may be)."""
    _header(path)


def is_unfinished_start(path: str) -> bool:
    """Whether the file ends within its header: a run was killed while it made it."""
    with disk_errors(path), open(path, "rb") as file:
        start = file.read(len(HEADER))
    return HEADER.startswith(start) and start != HEADER


def _header(path: str) -> tuple[int, bytes]:
    """Return the offset behind the header, and how lines end."""
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
    path = _unquoted(field).decode("utf-8", "surrogateescape")
    if path.isascii():
        return path
    return "".join(f"\\x{ord(c) - 0xDC00:02x}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in path)


def _unquoted(field: bytes) -> bytes:
    return field[1:-1].replace(b'""', b'"') if field.startswith(b'"') else field
