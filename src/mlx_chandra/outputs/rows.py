"""The table's form: rows to bytes and back, and how paths are shown in it.

RFC 4180 CSV in UTF-8 with CRLF ends and exactly the columns image_path, status and ocr_text. Rows are read by
their bytes, so that one that was torn by a kill is told from one that is whole.
"""

import csv
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from mlx_chandra.errors import OutputError
from mlx_chandra.outputs.disk import cleaned, disk_trouble

COLUMNS = ("image_path", "status", "ocr_text")
HEADER = ",".join(COLUMNS).encode() + b"\r\n"
GONE = "gone"
"""The status in the redo file of a row that is to leave the table."""

_FIELD = rb'("[^"]*(?:""[^"]*)*"|[^",\r\n]*)'
_ROW = re.compile(_FIELD + b"," + _FIELD + b"," + _FIELD + rb"\r?\n")
_ROW_INSIDE = re.compile(rb'\n"?/[^"\r\n]*,(?:ok|"?error:[^\r\n]*),')
_LONGEST_TORN_ROW = 4 << 20  # bytes; far above any page's text
_FIRST_CHUNK, _CHUNK = 1 << 16, 1 << 22  # bytes read at once; one row alone may be wanted
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


def shown_path(path: str) -> str:
    r"""The path as the table shows it: bytes that aren't UTF-8 stand as `\xNN`.

    So the table is valid UTF-8, and every path has a form of its own: where a name really contains a
    backslash, an x and two hexadecimal digits, its backslash is written as `\x5c`. `real_path` turns it back.
    """
    if path.isascii() and "\\x" not in path:  # nearly all, of very many
        return path
    unclear = _ESCAPE.sub(r"\\x5cx\1", path)
    return "".join(f"\\x{ord(c) - 0xDC00:02x}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in unclear)


def real_path(shown: str) -> str:
    """The path that `shown_path` showed, ready for open()."""
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda m: bytes.fromhex(m[1].decode()), os.fsencode(shown))
    return os.fsdecode(raw)


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row as it stands in the file.

    Attributes:
        image_path: As shown.
        status: Word for word.
        raw: All its bytes, line end included.
        end: Offset behind it.
    """

    image_path: str
    status: str
    raw: bytes
    end: int

    @property
    def text(self) -> str:
        match = _ROW.fullmatch(self.raw)
        return _unquoted(match[3]) if match else ""

    @property
    def raw_unless_gone(self) -> bytes:
        return b"" if self.status == GONE else self.raw


def stored_rows(path: str, start: int | None = None) -> Iterator[StoredRow]:
    """The whole rows of a table, from the one at byte `start` on; a torn last row is left out.

    Raises OutputError for a foreign file.
    """
    end = header_end(path) if start is None else start
    size = _FIRST_CHUNK
    with disk_trouble(path), open(path, "rb") as file:
        while True:
            file.seek(end)
            chunk, place = file.read(size), 0
            size = _CHUNK
            while (match := _ROW.match(chunk, place)) is not None and b"\0" not in match[0]:
                place = match.end()
                yield _stored(match, end + place)
            end += place
            file.seek(end)
            row = _next_row(file, path, end)  # which goes beyond the chunk, or is torn
            if row is None:
                return
            yield row
            end = row.end


def _next_row(file: BinaryIO, path: str, end: int) -> StoredRow | None:
    """The row at the file's place, `end`, read line by line; None where no whole one follows.

    Raises OutputError when something else does.
    """
    lines: list[bytes] = []
    quotes = 0
    for line in file:
        lines.append(line)
        quotes += line.count(b'"')
        if quotes % 2 or not line.endswith(b"\n"):
            continue  # a line end within quotes, or the end of the file
        raw = b"".join(lines)
        match = _ROW.fullmatch(raw)
        if match is None or b"\0" in raw:
            break
        return _stored(match, end + len(raw))
    rest = b"".join(lines) + file.read(_LONGEST_TORN_ROW)
    if len(rest) >= _LONGEST_TORN_ROW or _ROW_INSIDE.search(rest):
        raise OutputError(
            f"{path} is damaged: what begins at byte {end:,} is not a row, and more rows follow.",
            "It was left as it is; mend it, or choose another --output.",
        )
    return None


def _stored(match: re.Match[bytes], end: int) -> StoredRow:
    return StoredRow(_unquoted(match[1]), _unquoted(match[2]), match[0], end)


def header_end(path: str) -> int:
    """The offset behind the header. Raises OutputError when it isn't ours (a BOM, quotes, LF may be)."""
    with disk_trouble(path), open(path, "rb") as file:
        header = file.readline(100)
    if header.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n").replace(b'"', b"") != HEADER.rstrip():
        raise OutputError(
            f"{path} is there, but its first line is not {','.join(COLUMNS)}.",
            "It was left as it is; choose another --output, or move it away.",
        )
    return len(header)


def _unquoted(field: bytes) -> str:
    if field.startswith(b'"'):
        field = field[1:-1].replace(b'""', b'"')
    return field.decode("utf-8", "surrogateescape")


def encoded_row(shown: str, status: str, text: str) -> bytes:
    """A row's bytes; its path is given as shown."""
    line = io.StringIO()
    one_line = cleaned(" ".join(status.split()))
    csv.writer(line, lineterminator="\r\n").writerow([shown, one_line, cleaned(text)])
    return line.getvalue().encode()
