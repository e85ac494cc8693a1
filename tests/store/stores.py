"""Stores, results and CSVs for the tests of the store."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from mlx_chandra.documents.page import Document, Page, PageResult, ReadSettings
from mlx_chandra.store.rows import page_of
from mlx_chandra.store.store import Start, Store

SETTINGS = ReadSettings("mlx-chandra 1", "demo", {"max_tokens": 9, "prompt": "ü"}, "f00d")
HEADER = b"image_path,status,ocr_text\r\n"


def page(path: str) -> Page:
    """`/a.pdf#page=2` is the second page of that document."""
    document, number = page_of(path)
    return Page(Document(document, "", os.path.splitext(os.path.basename(document))[0]), number or None)


def read(path: str, text: str = "text", status: str = "ok", content: str | None = "c0") -> PageResult:
    """A page that was read, with all that can be said of it."""
    return PageResult(
        page(path), status, text, "stop", 100, 7, 9, 2, 1.5, (30, 40), 1000, content, None, SETTINGS
    )


def opened(path: Path, start: Start = Start.RESUME, settings: ReadSettings = SETTINGS) -> Store:
    return Store(path, settings, start)


def write(path: Path, results: Sequence[PageResult], start: Start = Start.RESUME) -> None:
    """A whole run: stores results and ends."""
    with opened(path, start) as store:
        store.add(results)
        store.end_run(complete=True)


def killed(store: Store) -> None:
    """What remains of a store whose process is killed now."""
    store._let_go()


def rows(path: Path) -> list[tuple[str, str, str]]:
    """All rows of a CSV; fails where it isn't exactly as promised."""
    csv.field_size_limit(1 << 30)
    with open(path, encoding="utf-8", newline="") as file:
        found = list(csv.reader(file, strict=True))
    assert found[0] == ["image_path", "status", "ocr_text"]
    assert all(len(row) == 3 for row in found)
    assert len({row[0] for row in found}) == len(found), "a page has two rows"
    return [(row[0], row[1], row[2]) for row in found[1:]]


def names(path: Path) -> list[str]:
    return [name for name, _, _ in rows(path)]


def texts(path: Path) -> dict[str, str]:
    return {name: text for name, _, text in rows(path)}


def is_whole(path: Path) -> None:
    """Fails where store and CSV differ, or anything lies beside them."""
    store = opened(path)
    found = {name: (store.result(name).status, store.result(name).text) for name in names(path)}  # type: ignore[union-attr]
    assert store.count == len(found)
    store.close()
    assert found == {name: (status, text) for name, status, text in rows(path)}
    beside = [
        name for name in os.listdir(path.parent) if not name.endswith("-journal")
    ]  # SQLite's, after a kill
    assert sorted(beside) == [path.name, f"{path.name}.journal.sqlite"]
