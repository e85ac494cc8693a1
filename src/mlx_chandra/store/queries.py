"""What is asked of the store's tables, and how a page's result becomes their lines and comes back.

`live` is a view of the pages that count: without those that are deleted, and none while everything that is
there is to be overwritten.
"""

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_chandra.documents.page import Document, Page, PageResult, ReadSettings
from mlx_chandra.files.paths import real_path, shown_path
from mlx_chandra.store.rows import Row, row_of
from mlx_chandra.store.schema import CHANGED, DELETED, NEW

_READ_STATES = "('ok', 'error:empty', 'error:truncated', 'error:repetition')"
_COLUMNS = (
    "status digest content settings run finish_reason prompt_tokens output_tokens generated_tokens attempts "
    "seconds width height box_scale copy_of finished"
).split()
_UPSERT = (
    f"insert into pages (path, document, number, csv, {', '.join(_COLUMNS)}) "
    f"values (?, ?, ?, {NEW}{', ?' * len(_COLUMNS)}) on conflict (path) do update set "
    f"document = excluded.document, number = excluded.number, "
    f"csv = case when csv = {NEW} then {NEW} else {CHANGED} end, "
    f"{', '.join(f'{name} = excluded.{name}' for name in _COLUMNS)} returning id"
)
_RESULT = (
    "select document, number, status, text, finish_reason, prompt_tokens, output_tokens, "
    "generated_tokens, attempts, seconds, width, height, box_scale, content, copy_of, "
    "s.program, s.model, s.settings, s.checkpoint "
    "from live as l left join settings as s on s.id = l.settings "
    "where l.path = ?"
)
_FILL_IN = """
update pages set
    width = coalesce(width, :width), height = coalesce(height, :height),
    finish_reason = coalesce(finish_reason, :finish_reason), box_scale = coalesce(box_scale, :box_scale),
    prompt_tokens = coalesce(nullif(prompt_tokens, 0), :prompt_tokens),
    output_tokens = coalesce(nullif(output_tokens, 0), :output_tokens),
    generated_tokens = coalesce(nullif(generated_tokens, 0), :output_tokens),
    settings = coalesce(settings, :settings)
where path = :path
"""

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


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return settings in the one form in which equal ones are equal texts."""
    return json.dumps(dict(settings), sort_keys=True, ensure_ascii=False)


def same_settings(database: sqlite3.Connection, settings: ReadSettings) -> frozenset[int]:
    """Return the ids of settings that give the same texts; a checkpoint unknown is compared by its name."""
    found = database.execute(
        "select id, model, checkpoint from settings where settings = ?", (settings_text(settings.settings),)
    )
    same = set()
    for number, model, checkpoint in found:
        both = checkpoint is not None and settings.checkpoint is not None
        if checkpoint == settings.checkpoint if both else model == settings.model:
            same.add(int(number))
    return frozenset(same)


def settings_id(database: sqlite3.Connection, settings: ReadSettings) -> int:
    """Return the id of these very settings; adds them where they are new."""
    text = settings_text(settings.settings)
    words = (settings.model, settings.checkpoint, text, settings.program)
    equal = "model = ? and checkpoint is ? and settings = ? and program = ?"
    found = database.execute(f"select id from settings where {equal}", words).fetchone()
    if found is None:
        columns = "(model, checkpoint, settings, program)"
        found = database.execute(
            f"insert into settings {columns} values (?, ?, ?, ?) returning id", words
        ).fetchone()
    return int(found[0])


def new_run(database: sqlite3.Connection, settings: int) -> int:
    """Add a run that reads with these settings, by their id; return its id."""
    words = (now(), now(), settings)
    found = database.execute(
        "insert into runs (began, updated, settings) values (?, ?, ?) returning id", words
    ).fetchone()
    return int(found[0])


def count(
    database: sqlite3.Connection, run: int, results: Sequence[PageResult], seconds: float, ended: bool = False
) -> None:
    """Add results to a run's numbers; `seconds` is how long it takes so far."""
    read = [result for result in results if result.copy_of is None]
    database.execute(
        "update runs set updated = ?1, ended = iif(?2, ?1, ended), seconds = ?, pages = pages + ?, "
        "failed = failed + ?, copies = copies + ?, prompt_tokens = prompt_tokens + ?, "
        "generated_tokens = generated_tokens + ? where id = ?",
        (
            now(),
            ended,
            seconds,
            len(results),
            sum(result.status != "ok" for result in results),
            len(results) - len(read),
            sum(result.prompt_tokens for result in read),
            sum(result.generated_tokens for result in read),
            run,
        ),
    )


def put(database: sqlite3.Connection, result: PageResult, settings: int, run: int | None) -> None:
    """Insert or update a page and its text. The row of a document that could not be read at all goes."""
    row = row_of(shown_path(result.page.path), result.status, result.text)
    document, number = shown_path(result.page.document.path), result.page.number or 0
    values = (row.path, document, number, *_values(result, row, settings, run))
    (page,) = database.execute(_UPSERT, values).fetchone()
    database.execute("insert or replace into texts values (?, ?)", (page, row.text))
    if number:
        delete(database, document)


def delete(database: sqlite3.Connection, shown: str) -> None:
    """Delete a page by its path as shown; where the CSV has its row, until that is rewritten."""
    found = database.execute("select id from pages where path = ?", (shown,)).fetchone()
    if found is not None:
        (page,) = found
        database.execute("delete from texts where id = ?", (page,))
        database.execute("delete from pages where id = ? and csv = ?", (page, NEW))
        database.execute("update pages set csv = ? where id = ?", (DELETED, page))


def remember(database: sqlite3.Connection, files: Mapping[str, tuple[int, int, str]]) -> None:
    """Keep the sizes, times and hashes of files, by their paths as shown."""
    database.executemany(
        "insert or replace into files (path, size, mtime_ns, content) values (?, ?, ?, ?)",
        [(path, *facts) for path, facts in files.items()],
    )


def result(database: sqlite3.Connection, path: str) -> PageResult | None:
    """Return all that is stored of a page, by its real path."""
    found = database.execute(_RESULT, (shown_path(path),)).fetchone()
    if found is None:
        return None
    document, number, status, text, *facts = found
    reason, prompt, output, generated, attempts, seconds, width, height, scale, content, copy_of, *how = facts
    file = real_path(document)
    stem = os.path.splitext(os.path.basename(file))[0]
    return PageResult(
        page=Page(Document(file, "", stem), number or None),
        status=status,
        text=text or "",
        finish_reason=reason,
        prompt_tokens=prompt,
        output_tokens=output,
        generated_tokens=generated,
        attempts=attempts,
        seconds=seconds,
        size=None if width is None else (width, height),
        box_scale=scale,
        content=content,
        copy_of=None if copy_of is None else real_path(copy_of),
        settings=None if how[0] is None else ReadSettings(how[0], how[1], json.loads(how[2]), how[3]),
    )


def other_settings(database: sqlite3.Connection, same: frozenset[int]) -> list[OtherSettings]:
    """Return what pages were read with that weren't read with the `same`, the most first."""
    found = database.execute(
        "select s.id, count(*), model, s.settings from live as l join settings as s on l.settings = s.id "
        f"where status in {_READ_STATES} and content is not null group by s.id order by count(*) desc"
    )
    return [OtherSettings(n, model, json.loads(text)) for s, n, model, text in found if s not in same]


def fill_in(database: sqlite3.Connection, path: str, said: Mapping[str, Any], settings: int) -> None:
    """Add what a line of a version-1 ledger says of a page, where the store doesn't know it."""
    size = said.get("size") or {}
    database.execute(
        _FILL_IN,
        {
            "path": path,
            "width": size.get("width"),
            "height": size.get("height"),
            "finish_reason": said.get("finish_reason"),
            "prompt_tokens": said.get("prompt_tokens") or 0,
            "output_tokens": said.get("generated_tokens") or 0,
            "box_scale": said.get("box_scale"),
            "settings": settings,
        },
    )


def now() -> str:
    """Return this moment in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _values(result: PageResult, row: Row, settings: int, run: int | None) -> Iterator[object]:
    """Yield a result in the order of `_COLUMNS`."""
    width, height = result.size or (None, None)
    yield from (row.status, row.digest, result.content, settings, run, result.finish_reason)
    yield from (result.prompt_tokens, result.output_tokens, result.generated_tokens, result.attempts)
    yield from (round(result.seconds, 3), width, height, result.box_scale)
    yield from (None if result.copy_of is None else shown_path(result.copy_of), now())
