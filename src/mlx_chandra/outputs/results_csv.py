"""The table of results: one row a page, safe against being killed at any moment.

The file is RFC 4180 CSV in UTF-8 with CRLF ends and exactly the columns image_path, status and ocr_text. Rows
are appended and synced to the disk, so that only the last one can ever be torn; opening the file again drops
it.

Rows that are done again (`Start.RETRY`) never leave the table: the new rows go to a journal beside it,
`.results.csv.retry`, in the same format. When the run ends, the table is rewritten with them to a file of its
own and renamed into place, and the journal goes. If the run was killed before that, the next one that opens
the table does it first. So at every moment each page has exactly one row, its old one or its new one, and a
merge that was broken off is simply done again. A document that could not be opened has one row under its own
path; when its pages are read after all, a row in the journal says, before theirs are written, that it goes.

A table that is taken away or replaced while a run writes to it, by somebody who clears up or whose editor
saves it, would take all further rows with it into nowhere. So after each group of rows it is seen whether
the name still leads to the open file; where it doesn't, all rows are written anew, and the run ends.

One run at a time: `.results.csv.lock` is held, see `lock.py`.
"""

import contextlib
import csv
import io
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import BinaryIO

from mlx_chandra.errors import OutputError, UsageError
from mlx_chandra.outputs.disk import cleaned, disk_trouble, sync_file, sync_folder, write_all
from mlx_chandra.outputs.lock import Lock
from mlx_chandra.outputs.states import PageState, state_of

COLUMNS = ("image_path", "status", "ocr_text")

_GONE = "gone"  # the status in the journal of a document's row that its pages' rows take the place of

_HEADER = ",".join(COLUMNS).encode() + b"\r\n"
_FIELD = rb'("[^"]*(?:""[^"]*)*"|[^",\r\n]*)'
_ROW = re.compile(_FIELD + b"," + _FIELD + b"," + _FIELD + rb"\r?\n")
_ROW_INSIDE = re.compile(rb'\n"?/[^"\r\n]*,(?:ok|"?error:[^\r\n]*),')
_LONGEST_TORN_ROW = 4 << 20  # bytes; far above any page's text
_PAGE = re.compile(r"(.+)#page=\d+", re.DOTALL)
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


@dataclass(frozen=True)
class Row:
    """One page's result. `image_path` is as the system knows it; the table shows `shown_path` of it."""

    image_path: str
    status: str
    text: str


class Start(Enum):
    """What to do with a table that is there already."""

    FRESH = "fresh"  # refuse if it holds rows
    RESUME = "resume"  # keep its rows and skip their pages
    RETRY = "retry"  # as RESUME, but pages with an error are done again
    OVERWRITE = "overwrite"  # throw its rows away


def shown_path(path: str) -> str:
    r"""The path as the table shows it: bytes that aren't UTF-8 stand as `\xNN`.

    So the table is valid UTF-8, and every path has a form of its own: where a name really contains a
    backslash, an x and two hexadecimal digits, its backslash is written as `\x5c`. `real_path` turns it back.
    """
    unclear = _ESCAPE.sub(r"\\x5cx\1", path)
    return "".join(f"\\x{ord(c) - 0xDC00:02x}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in unclear)


def real_path(shown: str) -> str:
    """The path that `shown_path` showed, ready for open()."""
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda m: bytes.fromhex(m[1].decode()), os.fsencode(shown))
    return os.fsdecode(raw)


class ResultsFile:
    """The table of one run, locked for it. Use as a context manager, from one thread at a time.

    Raises (on opening): UsageError when rows are there and `start` is FRESH; OutputBusyError when another run
    holds it; OutputError when the place can't be written or the file isn't such a table (it is left alone).
    """

    def __init__(self, path: str | os.PathLike[str], start: Start = Start.FRESH) -> None:
        self.path = os.path.realpath(path)
        folder, name = os.path.split(self.path)
        self._journal_path = os.path.join(folder, f".{name}.retry")
        self._part_path = os.path.join(folder, f".{name}.part")
        self._done: dict[str, int | None] = {}  # where the row of a page begins that needs no more work
        self._again: dict[str, int] = {}  # the same for error rows that may be replaced; all by shown path
        self._lost = False  # whether the files were taken away, and written anew
        self._journal: _Table | None = None  # a place in it stands as ~place, which is below 0
        _check_place(folder, self.path)
        self._lock = Lock(os.path.join(folder, f".{name}.lock"), self.path, "--output")
        try:
            self._table = self._open(start)
            self._begun = self._table.end
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> "ResultsFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __contains__(self, path: str) -> bool:
        """Whether this page is done: skip it."""
        return shown_path(path) in self._done

    def was_done(self, path: str) -> bool:
        """Whether this page was done when the file was opened."""
        place = self._done.get(shown_path(path))
        return place is not None and 0 <= place < self._begun

    def row(self, path: str) -> Row | None:
        """The page's newest row, read from the disk; None where it has none. Can be asked by any thread."""
        shown = shown_path(path)
        place = self._done.get(shown, self._again.get(shown))
        if place is None:
            return None
        file, start = (self._journal_path, ~place) if place < 0 else (self.path, place)
        stored = next(_rows(file, start), None)
        return None if stored is None else Row(path, stored.status, stored.text)

    def append(self, rows: Iterable[Row]) -> None:
        """Adds rows and returns once they are on the disk. A page that is done already is left as it is.

        Raises DiskFullError or OutputError; what was written before stays readable. OutputError also when the
        table was taken away; these rows too are then in the one that is written anew.
        """
        new, redone = bytearray(), bytearray()
        retried = len(_HEADER) if self._journal is None else self._journal.end
        for row in rows:
            shown = shown_path(row.image_path)
            if shown in self._done:
                continue
            redone.extend(self._farewell(shown))
            again = shown in self._again
            self._done[shown] = ~(retried + len(redone)) if again else self._table.end + len(new)
            (redone if again else new).extend(_encoded(shown, row.status, row.text))
        if redone:
            if self._journal is None:
                self._journal = _Table.create(self._journal_path)
            self._journal.append(bytes(redone))
        if new:
            self._table.append(bytes(new))
        self._check_there()

    def _check_there(self) -> None:
        """Raises OutputError when somebody took the files away; all their rows are written anew before."""
        tables = [self._table] if self._journal is None else [self._table, self._journal]
        if self._lost or all(table.is_there for table in tables):
            return
        self._lost = True
        anew = [table.write_anew() for table in tables if not table.is_there]
        raise OutputError(
            f"{self.path} was taken away or replaced while the run wrote to it.",
            f"All rows were written anew to {' and '.join(anew)}. Go on with --resume, and leave it alone.",
        )

    def _farewell(self, shown: str) -> bytes:
        """The journal's row that ends the row of the document that this page is of, where it has one."""
        page = _PAGE.fullmatch(shown)
        if page is None or page[1] not in self._again or page[1] in self._done:
            return b""
        self._done[page[1]] = None
        return _encoded(page[1], _GONE, "")

    def close(self) -> None:
        """Puts rows that were done again in their places, and lets go of the file."""
        try:
            self._check_there()
            self._table.close()
            if self._journal is not None:
                self._journal.close()
                if not self._lost:  # else the next run does it, with the table that it finds
                    self._merge()
        finally:
            self._lock.release()

    def _open(self, start: Start) -> "_Table":
        if not os.path.exists(self.path) or _is_unfinished_start(self.path):
            return self._create()
        if start is Start.OVERWRITE:
            _header_end(self.path)
            return self._create()
        self._merge()
        end = _header_end(self.path)
        for row in _rows(self.path):
            again = start is Start.RETRY and state_of(row.status) is not PageState.OK
            kept = self._again if again else self._done
            kept[row.image_path], end = end, row.end
        if start is Start.FRESH and self._done:
            raise UsageError(
                f"{self.path} already holds the results of {len(self._done):,} pages.",
                "Add --resume to go on with it, or --overwrite to start anew.",
            )
        return _Table.at(self.path, end)

    def _create(self) -> "_Table":
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._journal_path)
        return _Table.create(self.path, self._part_path)

    def _merge(self) -> None:
        """Rewrites the table with the journal's rows in the places of the old ones, if there is a journal."""
        if not os.path.exists(self._journal_path):
            return
        if _is_unfinished_start(self._journal_path):
            os.unlink(self._journal_path)
            return
        redone = {row.image_path: row.raw_unless_gone for row in _rows(self._journal_path)}
        table = _Table.create(self._part_path)
        table.append_all(redone.get(row.image_path, row.raw) for row in _rows(self.path))
        table.close()
        with disk_trouble(self.path):
            os.replace(self._part_path, self.path)
            sync_folder(os.path.dirname(self.path))
            os.unlink(self._journal_path)


class _Table:
    """A file of rows that grows at its `end`; after a failed write it ends at its last whole row."""

    def __init__(self, path: str, file: BinaryIO, end: int) -> None:
        self._path, self._file, self.end = path, file, end

    @classmethod
    def create(cls, path: str, part: str | None = None) -> "_Table":
        """A new table with its header only; made beside as `part` and renamed where that is given."""
        with disk_trouble(path):
            file = open(part or path, "w+b", buffering=0)  # noqa: SIM115 (kept open)
            table = cls(path, file, 0)
            table.append(_HEADER)
            if part is not None:
                os.replace(part, path)
            sync_folder(os.path.dirname(path))
        return table

    @classmethod
    def at(cls, path: str, end: int) -> "_Table":
        """A table that exists, cut off at the byte `end`."""
        with disk_trouble(path):
            file = open(path, "r+b", buffering=0)  # noqa: SIM115 (kept open)
            file.truncate(end)
            file.seek(end)
            sync_file(file)
        return cls(path, file, end)

    def append(self, rows: bytes) -> None:
        self.append_all([rows])

    def append_all(self, rows: Iterable[bytes]) -> None:
        with disk_trouble(self._path):
            try:
                for row in rows:
                    write_all(self._file, row)
                sync_file(self._file)
            except OSError:
                with contextlib.suppress(OSError):
                    self._file.truncate(self.end)
                    self._file.seek(self.end)
                raise
        self.end = self._file.tell()

    @property
    def is_there(self) -> bool:
        """Whether its name still leads to it."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._path))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def write_anew(self) -> str:
        """Writes all of it to its name, or beside what is there now under that; returns where."""
        path, number = self._path, 0
        while os.path.lexists(path):
            number += 1
            path = f"{self._path}.rescued-{number}"
        folder, name = os.path.split(path)
        part = os.path.join(folder, f".{name}.part")
        with disk_trouble(path):
            os.makedirs(folder, exist_ok=True)
            with open(part, "wb") as copy:
                self._file.seek(0)
                shutil.copyfileobj(self._file, copy)
                copy.flush()
                sync_file(copy)
            os.replace(part, path)
            sync_folder(folder)
        return path

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class _StoredRow:
    image_path: str  # as shown
    status: str
    raw: bytes
    end: int  # offset behind the row

    @property
    def text(self) -> str:
        match = _ROW.fullmatch(self.raw)
        return _unquoted(match[3]) if match else ""

    @property
    def raw_unless_gone(self) -> bytes:
        return b"" if self.status == _GONE else self.raw


def _rows(path: str, start: int | None = None) -> Iterator[_StoredRow]:
    """The whole rows of a table, from the one at byte `start` on; a torn last row is left out.

    Raises OutputError for a foreign file.
    """
    end, raw = _header_end(path) if start is None else start, b""
    with disk_trouble(path), open(path, "rb") as file:
        file.seek(end)
        for line in file:
            raw += line
            if raw.count(b'"') % 2 or not raw.endswith(b"\n"):
                continue  # a line end within quotes, or the end of the file
            match = _ROW.fullmatch(raw)
            if match is None or b"\0" in raw:
                break
            end += len(raw)
            yield _StoredRow(_unquoted(match[1]), _unquoted(match[2]), raw, end)
            raw = b""
        raw += file.read(_LONGEST_TORN_ROW)
    if len(raw) >= _LONGEST_TORN_ROW or _ROW_INSIDE.search(raw):
        raise OutputError(
            f"{path} is damaged: what begins at byte {end:,} is not a row, and more rows follow.",
            "It was left as it is; mend it, or choose another --output.",
        )


def _header_end(path: str) -> int:
    """The offset behind the header. Raises OutputError when it isn't ours (a BOM, quotes, LF may be)."""
    with disk_trouble(path), open(path, "rb") as file:
        header = file.readline(100)
    if header.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n").replace(b'"', b"") != _HEADER.rstrip():
        raise OutputError(
            f"{path} is there, but its first line is not {','.join(COLUMNS)}.",
            "It was left as it is; choose another --output, or move it away.",
        )
    return len(header)


def _is_unfinished_start(path: str) -> bool:
    """Whether the file ends within its header: a run was killed while it made it."""
    with disk_trouble(path), open(path, "rb") as file:
        return _HEADER.startswith(start := file.read(len(_HEADER))) and start != _HEADER


def _unquoted(field: bytes) -> str:
    if field.startswith(b'"'):
        field = field[1:-1].replace(b'""', b'"')
    return field.decode("utf-8", "surrogateescape")


def _encoded(shown: str, status: str, text: str) -> bytes:
    line = io.StringIO()
    one_line = cleaned(" ".join(status.split()))
    csv.writer(line, lineterminator="\r\n").writerow([shown, one_line, cleaned(text)])
    return line.getvalue().encode()


def _check_place(folder: str, path: str) -> None:
    with disk_trouble(path):
        os.makedirs(folder, exist_ok=True)
    if os.path.isdir(path):
        raise OutputError(f"{path} is a folder.", "--output wants the name of a file, such as results.csv.")
    if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise OutputError(f"{path} is not an ordinary file.", "Results can only be kept in one.")
