"""What is asked of the store's tables, and how a page's result becomes their lines and comes back.

`live` is a view of the pages that count: without those that are deleted, and none while everything that is
there is to be overwritten.
"""

import json
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_chandra.documents.page import Document, Page, PageResult, ReadSettings
from mlx_chandra.files.paths import real_path, shown_path
from mlx_chandra.store.rows import row_of
from mlx_chandra.store.schema import CHANGED, DELETED, NEW

_PLAIN = "finish_reason prompt_tokens output_tokens generated_tokens attempts box_scale content".split()
"""Columns that hold what the fields of PageResult do."""
_COLUMNS = [
    *_PLAIN,
    *"document number status digest settings run seconds width height copy_of finished".split(),
]
_UPSERT = (
    f"insert into pages (path, csv, {', '.join(_COLUMNS)}) "
    f"values (:path, {NEW}, {', '.join(f':{name}' for name in _COLUMNS)}) on conflict (path) do update set "
    f"csv = iif(csv = {NEW}, {NEW}, {CHANGED}), "
    f"{', '.join(f'{name} = excluded.{name}' for name in _COLUMNS)} returning id"
)
_FILL_IN = """
update pages set
    width = coalesce(width, :width), height = coalesce(height, :height),
    finish_reason = coalesce(finish_reason, :finish_reason), box_scale = coalesce(box_scale, :box_scale),
    prompt_tokens = coalesce(nullif(prompt_tokens, 0), :prompt_tokens, 0),
    output_tokens = coalesce(nullif(output_tokens, 0), :generated_tokens, 0),
    generated_tokens = coalesce(nullif(generated_tokens, 0), :generated_tokens, 0),
    settings = coalesce(settings, :settings)
where path = :page
"""
_COUNT = """
update runs set updated = ?1, ended = iif(?2, ?1, ended), seconds = ?, pages = pages + ?,
    failed = failed + ?, copies = copies + ?, prompt_tokens = prompt_tokens + ?,
    generated_tokens = generated_tokens + ?
where id = ?
"""
RESULT = (
    "select document, number, status, text, seconds, width, height, copy_of, "
    f"program, model, s.settings, checkpoint, {', '.join(_PLAIN)} "
    "from live as l left join settings as s on s.id = l.settings where path = ?"
)
FACTS = (
    "select l.content, status, settings, run, f.size, f.mtime_ns, f.content from live as l "
    "left join files as f on f.path = l.document where l.path = ?"
)
FILE = "select size, mtime_ns, content from files where path = ?"
COPIES = (  # the oldest first
    "select id, path, status, settings, run, copy_of from live "
    "where content = ? and number = ? and id > ? order by id limit 1"
)
DOCUMENT_PAGES = "select path from live where document = ? and number >= ? order by number"
DOCUMENTS = (
    "select document from live group by document order by min(position is null), min(position), min(id)"
)
OTHER_SETTINGS = (
    "select s.id, count(*), model, s.settings from live as l join settings as s on l.settings = s.id "
    "where status in ('ok', 'error:empty', 'error:truncated', 'error:repetition') and content is not null "
    "group by s.id order by count(*) desc"
)


@dataclass(frozen=True)
class StoredFacts:
    """What is stored of a page, without its text.

    Attributes:
        status: As the CSV says it.
        content: SHA-256 of its file when the page was read; None where it wasn't hashed: such a page counts
            by its path.
        same_settings: Whether it was read as this run reads, or nobody knows how.
        again: Whether this run is to read it again, and hasn't yet.
        this_run: Whether this run has read or copied it.
        file: Size, time of change in nanoseconds and SHA-256 of its file when that was hashed last.
    """

    status: str
    content: str | None
    same_settings: bool
    again: bool
    this_run: bool
    file: tuple[int, int, str] | None


@dataclass(frozen=True)
class OtherSettings:
    """So many pages were read with this model and these settings."""

    count: int
    model: str
    settings: Mapping[str, str | int | float | bool | None]


def same_settings(database: sqlite3.Connection, settings: ReadSettings) -> frozenset[int]:
    """Return the ids of settings that give the same texts; a checkpoint unknown is compared by its name."""
    asked = (
        "select id from settings where settings = ?1 and iif(checkpoint is null or ?2 is null, model = ?3, "
        "checkpoint = ?2)"
    )
    values = (_json(settings.settings), settings.checkpoint, settings.model)
    return frozenset(number for (number,) in database.execute(asked, values))


def settings_id(database: sqlite3.Connection, settings: ReadSettings) -> int:
    """Return the id of these very settings; adds them where they are new."""
    values = (settings.model, settings.checkpoint, _json(settings.settings), settings.program)
    equal = "model = ? and checkpoint is ? and settings = ? and program = ?"
    found = database.execute(f"select id from settings where {equal}", values).fetchone()
    if found is not None:
        return int(found[0])
    columns = "(model, checkpoint, settings, program)"
    return _id(database.execute(f"insert into settings {columns} values (?, ?, ?, ?)", values))


def new_run(database: sqlite3.Connection, settings: int) -> int:
    """Add a run that reads with these settings, by their id; return its id."""
    values = (_now(), _now(), settings)
    return _id(database.execute("insert into runs (began, updated, settings) values (?, ?, ?)", values))


def count(
    database: sqlite3.Connection, run: int, results: Sequence[PageResult], seconds: float, ended: bool = False
) -> None:
    """Add results to a run's numbers; `seconds` is how long it takes so far."""
    read = [result for result in results if result.copy_of is None]
    failed = sum(result.status != "ok" for result in results)
    prompt, generated = (sum(r.prompt_tokens for r in read), sum(r.generated_tokens for r in read))
    copies = len(results) - len(read)
    database.execute(_COUNT, (_now(), ended, seconds, len(results), failed, copies, prompt, generated, run))


def put(database: sqlite3.Connection, result: PageResult, settings: int, run: int) -> None:
    """Insert or update a page and its text. The row of a document that could not be read at all goes."""
    row = row_of(shown_path(result.page.path), result.status, result.text)
    width, height = result.size or (None, None)
    values = {name: getattr(result, name) for name in _PLAIN} | {
        "path": row.path,
        "document": shown_path(result.page.document.path),
        "number": result.page.number or 0,
        "status": row.status,
        "digest": row.digest,
        "settings": settings,
        "run": run,
        "seconds": round(result.seconds, 3),
        "width": width,
        "height": height,
        "copy_of": None if result.copy_of is None else shown_path(result.copy_of),
        "finished": _now(),
    }
    (page,) = database.execute(_UPSERT, values).fetchone()
    database.execute("insert or replace into texts values (?, ?)", (page, row.text))
    if result.page.number:
        delete(database, shown_path(result.page.document.path))


def delete(database: sqlite3.Connection, shown: str) -> None:
    """Delete a page by its path as shown; where the CSV has its row, until that is rewritten."""
    database.execute("delete from texts where id = (select id from pages where path = ?)", (shown,))
    database.execute("delete from pages where path = ? and csv = ?", (shown, NEW))
    database.execute("update pages set csv = ? where path = ?", (DELETED, shown))


def remember(database: sqlite3.Connection, files: Mapping[str, tuple[int, int, str]]) -> None:
    """Keep the sizes, times and hashes of files, by their paths as shown."""
    lines = [(path, *facts) for path, facts in files.items()]
    database.executemany(
        "insert or replace into files (path, size, mtime_ns, content) values (?, ?, ?, ?)", lines
    )


def result_of(found: Sequence[Any]) -> PageResult:
    """Return the result that an answer to RESULT holds."""
    document, number, status, text, seconds, width, height, copy_of, *how = found[:12]
    file = real_path(document)
    stem = os.path.splitext(os.path.basename(file))[0]
    return PageResult(
        page=Page(Document(file, "", stem), number or None),
        status=status,
        text=text or "",
        seconds=seconds,
        size=None if width is None else (width, height),
        copy_of=None if copy_of is None else real_path(copy_of),
        settings=None if how[0] is None else ReadSettings(how[0], how[1], json.loads(how[2]), how[3]),
        **dict(zip(_PLAIN, found[12:], strict=True)),
    )


def fill_in(database: sqlite3.Connection, said: Mapping[str, Any], settings: int) -> None:
    """Add what a line of a version-1 ledger says of a page, where the store doesn't know it."""
    names = ("page", "finish_reason", "prompt_tokens", "generated_tokens", "box_scale")
    size = said.get("size") or {}
    values = {"width": size.get("width"), "height": size.get("height"), "settings": settings}
    database.execute(_FILL_IN, {**{name: said.get(name) for name in names}, **values})


def _json(settings: Mapping[str, Any]) -> str:
    """Return settings in the one form in which equal ones are equal texts."""
    return json.dumps(dict(settings), sort_keys=True, ensure_ascii=False)


def _id(added: sqlite3.Cursor) -> int:
    return added.lastrowid or 0


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
