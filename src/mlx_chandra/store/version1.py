"""Takes over what version 0.1 wrote: its journal, its redo file, and the ledger of a folder of documents.

The journal had a page's facts and no text; the CSV was the truth, and the redo file beside it had newer rows,
among them those with the status `gone`, whose pages had left. A ledger is a file of JSON lines.
"""

import contextlib
import json
import os
import sqlite3
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlx_chandra.documents.page import ReadSettings
from mlx_chandra.errors import OutputError
from mlx_chandra.files.disk import disk_errors, write_whole
from mlx_chandra.store.lock import Lock
from mlx_chandra.store.rows import Rows, is_there, page_of

if TYPE_CHECKING:
    from mlx_chandra.store.store import Store

LEDGER = ".mlx-chandra.jsonl"
_GONE = "gone"

COPY_FACTS = """
insert into settings select * from readings1;
insert into runs select * from runs1;
insert into files select * from files1;
insert into pages (
    path, document, number, status, digest, content, settings, run, finish_reason, prompt_tokens,
    output_tokens, generated_tokens, attempts, seconds, width, height, box_scale, copy_of, finished, csv
) select
    path, case when number then substr(path, 1, length(path) - length('#page=' || number)) else path end,
    number, status, '', content, reading, run, finish_reason, prompt_tokens,
    answer_tokens, generated_tokens, attempts, seconds, width, height, box_scale, copy_of, finished, 0
from pages1 order by rowid;
drop table pages1;
drop table files1;
drop table runs1;
drop table readings1
"""
"""All that version 1's tables hold. The digest stays empty until the CSV gives the page's text."""


_REDO = (
    "insert into pages (path, document, number, status, digest, csv) values (?, ?, ?, ?, ?, ?) "
    "on conflict (path) do update set status = excluded.status, digest = excluded.digest, csv = excluded.csv "
    "returning id"
)


def rename_tables(database: sqlite3.Connection) -> None:
    """Make way for the tables of version 2."""
    database.execute("drop index if exists pages_by_content")
    for table in ("pages", "files", "runs", "readings"):
        database.execute(f"alter table {table} rename to {table}1")


def _beside(csv_path: str, end: str) -> str:
    folder, name = os.path.split(csv_path)
    return os.path.join(folder, f".{name}{end}")


def take_redo_file(database: sqlite3.Connection, csv_path: str) -> None:
    """Take the rows of a redo file, if there is one, as newer than those of the CSV."""
    path = _beside(csv_path, ".retry")
    if not is_there(path):
        return
    for row in Rows(path):
        values = (row.path, *page_of(row.path), row.status, row.digest, 3 if row.status == _GONE else 2)
        (page,) = database.execute(_REDO, values).fetchone()
        database.execute("insert or replace into texts values (?, ?)", (page, row.text))


def remove_redo_file(csv_path: str) -> None:
    """Remove a redo file, whose rows are in the store and in the CSV, and a torn part of the CSV."""
    for end in (".retry", ".part"):
        with contextlib.suppress(OSError):
            os.unlink(_beside(csv_path, end))


def import_ledger(output_dir: str, store: "Store") -> bool:
    """Take over a ledger that version 1 left in a folder of documents, and remove it.

    Pages of which the store doesn't know how they were read get that from it. A document that has a folder
    but no metadata yet gets a file that names it, so that the folder stays its own. Returns whether there was
    a ledger.

    Raises:
        OutputBusyError: A run writes to the folder.
        OutputError: It can't be read, or a file can't be written.
    """
    path = os.path.join(output_dir, LEDGER)
    if not os.path.exists(path):
        return False
    lock = Lock(os.path.join(output_dir, ".mlx-chandra.lock"), output_dir, "--output-dir")
    try:
        with disk_errors(path), open(path, "rb") as file:
            for line in file:
                with contextlib.suppress(LookupError, TypeError, ValueError, AttributeError, RecursionError):
                    _take(json.loads(line), output_dir, store)  # a line may be torn, or nonsense
        with disk_errors(path):
            os.unlink(path)
    finally:
        lock.release()
    return True


def _take(said: Mapping[str, Any], output_dir: str, store: "Store") -> None:
    if "folder" in said:
        _claim(output_dir, str(said["folder"]), str(said["document"]))
    elif "page" in said:
        how = said["making"]
        settings = ReadSettings(how["program"], how["model"], dict(how["settings"]), how.get("checkpoint"))
        store.fill_in(said, settings)


def _claim(output_dir: str, name: str, document: str) -> None:
    """Write a metadata file that says whose the folder is, where there is none."""
    if name != os.path.basename(name) or name in ("", ".", ".."):
        return  # a hostile ledger may name places elsewhere
    path = os.path.join(output_dir, name, f"{name}_metadata.json")
    if not os.path.lexists(path):
        content = json.dumps({"source": document, "files": []}, indent=2, ensure_ascii=False)
        try:
            write_whole(path, content.encode() + b"\n", output_dir)
        except UnicodeEncodeError as error:
            raise OutputError(f"{path} can't be written: {error}.") from error
