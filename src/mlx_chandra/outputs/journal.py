"""The journal beside the table: what is known of each page besides its text, in an SQLite file.

`results.csv.journal.sqlite` beside `results.csv` says of each page of which bytes it was read (`content`),
with which model and settings (`readings`), how that ended and what it took. So a later run can tell whether a
page is still what the table says, also where its file moved, changed, or lies there twice.

The table stays the truth. A page's row is on the disk before the journal knows of it, and a journal's line
whose page has no row counts for nothing. So a journal that is missing, or a moment behind because its run was
killed, loses no page and no text: where it knows nothing of a row, the row counts by its path. One that is
damaged is set aside and begun anew; one of a newer version is left alone, and the run ends.

`journal_file.py` has its tables, and says how it is opened.
"""

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from mlx_chandra.outputs.journal_file import journal_error, journal_path, journal_trouble, open_journal
from mlx_chandra.outputs.layout import Size
from mlx_chandra.outputs.making import Making
from mlx_chandra.outputs.rows import shown_path

_PATIENCE = 20.0  # seconds to wait for somebody who reads the journal
_MOST_UNSAVED = 5000  # files whose facts wait for the next group of pages
_TWINS_AT_ONCE = 50
_UNSETTLED = 3_000_000_000  # nanoseconds; a file may change twice within a tick of a coarse clock


@dataclass(frozen=True)
class JournalPage:
    """One page as the journal knows it.

    Attributes:
        path: As the table names the page, not yet in the form that it shows.
        content: SHA-256 of its file's bytes, in hexadecimal; None where these couldn't be read.
        number: Which of its file's pages; 0 for a picture by itself, or a whole document that can't be read.
        status: As the table says it.
        finish_reason: Why the answer ended; None where none was begun.
        prompt_tokens: Those of the picture and the question.
        answer_tokens: Those of the answer that was kept.
        generated_tokens: Those of all attempts together.
        attempts: How often the model read it.
        seconds: In the engine.
        size: Of the page picture, where one could be opened.
        box_scale: What the boxes in the answer are normalised to.
        copy_of: The page whose row it got, where it wasn't read itself.
    """

    path: str
    content: str | None
    number: int
    status: str
    finish_reason: str | None = None
    prompt_tokens: int = 0
    answer_tokens: int = 0
    generated_tokens: int = 0
    attempts: int = 0
    seconds: float = 0.0
    size: Size | None = None
    box_scale: int | None = None
    copy_of: str | None = None


KNOWN = (  # asked with a file and a page, as the table shows them: what a `Known` holds
    "select p.content, p.status, p.reading, f.size, f.mtime_ns, f.content from pages as p "
    "left join files as f on f.path = ? where p.path = ?"
)


TWINS = (  # asked with a hash, a number, the last rowid that is known, and how many; the oldest first
    "select rowid, path, status, reading, run, copy_of from pages "
    "where content = ? and number = ? and rowid > ? order by rowid limit ?"
)


@dataclass(frozen=True)
class Known:
    """What the journal has of a page that stands in the table.

    Attributes:
        content: Of its file when it was read; None where that couldn't be.
        status: As the table says it.
        as_now: Whether it was read with the same model and settings as this run reads, or these don't matter.
        hashed: Of its file when that was hashed last: bytes, time of change, hash; None where unknown.
    """

    content: str | None
    status: str
    as_now: bool
    hashed: tuple[int, int, str] | None


@dataclass(frozen=True)
class Other:
    """So many pages were read with this model and these settings."""

    pages: int
    model: str
    settings: Mapping[str, str | int | float | bool | None]


class Journal:
    """The journal of one run, which holds the table's lock and reads pages as `making` says.

    Can be used by several threads. `fresh`: the table holds nothing, so neither shall the journal.
    `any_settings`: pages that were read with other settings, or another model, are as good as those of this
    run, but no other page gets their rows. `set_aside` is where a damaged journal was moved to when this one
    was opened; else None.

    Raises (on opening): OutputError when it can't be written, or a newer version wrote it.
    """

    def __init__(
        self, table_path: str, making: Making, fresh: bool = False, any_settings: bool = False
    ) -> None:
        self.path = journal_path(table_path)
        self._mutex = threading.RLock()
        self._unsaved: dict[str, tuple[int, int, str]] = {}  # size, time and hash of files, by shown path
        self._any_settings = any_settings
        self._run: int | None = None
        self._began = 0.0
        self._database, self.set_aside = open_journal(self.path, fresh)
        self._making, self._reading, self._same = making, 0, frozenset[int]()
        self.reads_with(making)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Saves what waits, and lets go of the file. A thread that asks afterwards gets OutputError."""
        with self._mutex:  # SQLite doesn't survive being closed under somebody's question
            try:
                with self._changing():
                    self._save_files()
            finally:
                self._database.close()

    def reads_with(self, making: Making) -> None:
        """Says with what pages are read from now on; for when the model's weights are here at last."""
        with self._mutex, journal_trouble(self.path):
            self._making, self._reading = making, 0
            self._same = same_readings(self._database, making)

    def known(self, page: str, file: str) -> Known | None:
        """What it has of this page, which is in that file; None for nothing. One question, for very many."""
        shown = shown_path(file)
        found = self._one(KNOWN, (shown, shown_path(page)))
        if found is None:
            return None
        content, status, reading, *facts = found
        hashed = self._unsaved.get(shown) or (tuple(facts) if facts[2] is not None else None)
        return Known(content, status, self._any_settings or reading in self._same, hashed)

    def others(self) -> list[Other]:
        """What the pages were read with that weren't read as this run reads, the most first."""
        with self._mutex, journal_trouble(self.path):
            found = self._database.execute(
                "select reading, count(*), model, settings from pages join readings on reading = readings.id "
                "where status = 'ok' or status in ('error:empty', 'error:truncated', 'error:repetition') "
                "group by reading order by count(*) desc"
            ).fetchall()
        return [Other(n, model, json.loads(s)) for reading, n, model, s in found if reading not in self._same]

    def page(self, path: str) -> JournalPage | None:
        """All that it has of this page; None for nothing."""
        columns = ", ".join(_COLUMNS)
        found = self._one(f"select {columns} from pages where path = ?", (shown_path(path),))
        return None if found is None else _page(path, found)

    def content(self, file: str, size: int, mtime_ns: int) -> str | None:
        """The hash of the file's bytes, if it was hashed before and has this size and time still."""
        shown = shown_path(file)
        found = self._unsaved.get(shown) or self._one(
            "select size, mtime_ns, content from files where path = ?", (shown,)
        )
        return str(found[2]) if found is not None and tuple(found[:2]) == (size, mtime_ns) else None

    def remember(self, file: str, size: int, mtime_ns: int, content: str) -> None:
        """Keeps a file's hash, for as long as its size in bytes and its time of change stay.

        One that was changed only just now is not remembered: it may change again without its time showing it.
        """
        if abs(time.time_ns() - mtime_ns) < _UNSETTLED:
            return
        with self._mutex:
            self._unsaved[shown_path(file)] = (size, mtime_ns, content)
            if len(self._unsaved) >= _MOST_UNSAVED:
                with self._changing():
                    self._save_files()

    def twins(self, content: str, number: int, in_this_run: bool) -> Iterator[tuple[str, str]]:
        """Pages that were read of the same bytes as this run would, and their statuses, in shown form.

        Args:
            content: The file's hash.
            number: Of the page in it; 0 for a picture by itself.
            in_this_run: Only those that this run has read.
        """
        last = 0
        while True:  # mostly the first one will do, of maybe thousands
            with self._mutex, journal_trouble(self.path):
                found = self._database.execute(TWINS, (content, number, last, _TWINS_AT_ONCE)).fetchall()
            for _, path, status, reading, run, copy_of in found:
                is_read_now = run == self._run and copy_of is None
                if reading in self._same and (is_read_now or not in_this_run):
                    yield path, status
            if len(found) < _TWINS_AT_ONCE:
                return
            last = found[-1][0]

    def begin_run(self) -> None:
        """Begins to count what this run does, and its time; once. Comes before its first page."""
        if self._run is not None:
            return
        with self._changing() as database:
            self._began = time.monotonic()
            now = _now()
            self._run = database.execute(
                "insert into runs (began, updated, reading) values (?, ?, ?)",
                (now, now, self._reading_id()),
            ).lastrowid

    def add(self, pages: Sequence[JournalPage]) -> None:
        """Writes down pages whose rows are in the table; returns once that is on the disk.

        Raises:
            OutputError: It can't be written (DiskFullError: for want of room).
        """
        self.begin_run()
        with self._changing() as database:
            reading = self._reading_id()
            marks = ", ".join("?" * (len(_COLUMNS) + 4))
            database.executemany(
                f"insert or replace into pages (path, reading, run, finished, {', '.join(_COLUMNS)}) "
                f"values ({marks})",
                [(shown_path(page.path), reading, self._run, _now(), *_values(page)) for page in pages],
            )
            self._count(database, pages)
            self._save_files()

    def end_run(self) -> None:
        """Says that this run came to its end by itself, or was stopped; for one that did something."""
        if self._run is not None:
            with self._changing() as database:
                self._count(database, ())
                database.execute("update runs set ended = ? where id = ?", (_now(), self._run))

    def pages_of(self, document: str) -> list[str]:
        """The numbered pages that it has of a document, in shown form."""
        with self._mutex, journal_trouble(self.path):
            return numbered_pages(self._database, document)

    def _one(self, question: str, values: tuple[object, ...]) -> tuple[Any, ...] | None:
        """The one line that answers, or None."""
        with self._mutex:
            try:
                found: tuple[Any, ...] | None = self._database.execute(question, values).fetchone()
            except sqlite3.Error as error:
                raise journal_error(self.path, error) from error
            return found

    def _count(self, database: sqlite3.Connection, pages: Sequence[JournalPage]) -> None:
        read = [page for page in pages if page.copy_of is None]
        database.execute(
            "update runs set updated = ?, seconds = ?, pages = pages + ?, failed = failed + ?, "
            "copies = copies + ?, prompt_tokens = prompt_tokens + ?, generated_tokens = generated_tokens + ? "
            "where id = ?",
            (
                _now(),
                time.monotonic() - self._began,
                len(pages),
                sum(page.status != "ok" for page in pages),
                len(pages) - len(read),
                sum(page.prompt_tokens for page in read),
                sum(page.generated_tokens for page in read),
                self._run,
            ),
        )

    def _save_files(self) -> None:
        self._database.executemany(
            "insert or replace into files (path, size, mtime_ns, content) values (?, ?, ?, ?)",
            [(path, *facts) for path, facts in self._unsaved.items()],
        )
        self._unsaved.clear()

    def _reading_id(self) -> int:
        """The line of `readings` for what this run reads with; made when it is needed first."""
        if not self._reading:
            making = self._making
            words = (making.model, making.checkpoint, settings_text(making.settings), making.program)
            equal = "model = ? and checkpoint is ? and settings = ? and program = ?"
            columns = "(model, checkpoint, settings, program)"
            self._database.execute(
                f"insert into readings {columns} select ?, ?, ?, ? "
                f"where not exists (select 1 from readings where {equal})",
                (*words, *words),
            )
            (found,) = self._database.execute(f"select id from readings where {equal}", words).fetchone()
            self._reading = int(found)
            self._same |= {self._reading}
        return self._reading

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """A change that is there whole or not at all, and on the disk when the block is left."""
        with self._mutex, journal_trouble(self.path):
            self._database.execute("begin immediate")
            try:
                yield self._database
                self._database.execute("commit")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._database.execute("rollback")
                raise


_COLUMNS = (
    "content number status finish_reason prompt_tokens answer_tokens generated_tokens attempts seconds "
    "width height box_scale copy_of"
).split()


def _values(page: JournalPage) -> tuple[Any, ...]:
    """A page in the order of `_COLUMNS`."""
    width, height = page.size.size if page.size else (None, None)
    origin = None if page.copy_of is None else shown_path(page.copy_of)
    tokens = (page.prompt_tokens, page.answer_tokens, page.generated_tokens)
    taken = (page.attempts, round(page.seconds, 3), width, height, page.box_scale, origin)
    return (page.content, page.number, page.status, page.finish_reason, *tokens, *taken)


def _page(path: str, values: Sequence[Any]) -> JournalPage:
    said = dict(zip(_COLUMNS, values, strict=True))
    width, height = said.pop("width"), said.pop("height")
    return JournalPage(path=path, size=None if width is None else Size(width, height), **said)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def numbered_pages(database: sqlite3.Connection, document: str) -> list[str]:
    """The numbered pages that a journal has of a document, in shown form."""
    start = shown_path(document) + "#page="
    found = database.execute("select path from pages where path >= ? and path < ?", (start, start[:-1] + ">"))
    return [path for (path,) in found.fetchall()]


def same_readings(database: sqlite3.Connection, making: Making) -> frozenset[int]:
    """The readings in a journal that were done with the same model and settings, by their ids."""
    settings, same = settings_text(making.settings), set()
    for reading, model, checkpoint in database.execute(
        "select id, model, checkpoint from readings where settings = ?", (settings,)
    ):
        known = checkpoint is not None and making.checkpoint is not None
        if checkpoint == making.checkpoint if known else model == making.model:
            same.add(int(reading))
    return frozenset(same)


def settings_text(settings: Mapping[str, str | int | float | bool | None]) -> str:
    """Settings in the one form in which equal ones are equal texts."""
    return json.dumps(dict(settings), sort_keys=True, ensure_ascii=False)
