"""What a large collection costs, in numbers of opened files and commits, so that it holds on any machine."""

import os
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import here, make_page, read
from tests.documents.pdf_files import make_pdf

OLD = 1_600_000_000  # a time in 2020, in seconds
PAGES, READ_FIRST = 600, 450
ONCE_TO_HASH_ONCE_TO_READ = 2


class Watch:
    """Counts files opened below a folder (by Python's audit events), and commits to any database."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.opened: Counter[str] = Counter()
        self.commits = 0

    def notice(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and str(arguments[0]).startswith(self.folder):
            self.opened[str(arguments[0])] += 1

    def traced(self, statement: str) -> None:
        self.commits += statement.lower().startswith("commit")

    def clear(self) -> None:
        self.opened.clear()
        self.commits = 0


_watches: list[Watch] = []  # an audit hook can't be removed, so there is one, and it tells who is here


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    for watch in _watches:
        watch.notice(event, arguments)


sys.addaudithook(_audit)


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    counts, connect = Watch(tmp_path / "pages"), sqlite3.connect

    def traced(*arguments: Any, **named: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **named)
        connection.set_trace_callback(counts.traced)
        return connection

    monkeypatch.setattr(sqlite3, "connect", traced)
    _watches.append(counts)
    yield counts
    _watches.remove(counts)


def make_pages(folder: Path) -> list[Path]:
    paths = [make_page(folder / f"{number // 100}" / f"{number:04}.png", number) for number in range(PAGES)]
    for path in paths:
        os.utime(path, (OLD, OLD))
    return paths


def test_a_resumed_run_opens_only_the_files_that_are_left(tmp_path: Path, watch: Watch) -> None:
    paths = make_pages(tmp_path / "pages")
    manifest = tmp_path / "list.txt"
    command = ["ocr", "--manifest", str(manifest), "-o", str(tmp_path / "r.csv"), "--no-text"]
    manifest.write_text("".join(f"{path}\n" for path in paths[:READ_FIRST]))
    watch.clear()
    assert here(*command) == 0
    assert len(watch.opened) == READ_FIRST
    assert max(watch.opened.values()) <= ONCE_TO_HASH_ONCE_TO_READ
    watch.clear()
    manifest.write_text("".join(f"{path}\n" for path in paths))
    assert here(*command, "--resume") == 0
    assert len(read(tmp_path / "r.csv")) == PAGES
    assert set(watch.opened) == {str(path) for path in paths[READ_FIRST:]}
    assert max(watch.opened.values()) <= ONCE_TO_HASH_ONCE_TO_READ
    assert 0 < watch.commits < PAGES - READ_FIRST  # a group of pages at a time
    watch.clear()
    assert here(*command, "--resume") == 0
    assert not watch.opened


def test_documents_that_were_read_are_opened_once_at_most_when_a_run_resumes(
    tmp_path: Path, watch: Watch
) -> None:
    for number in range(20):
        make_pdf(tmp_path / "pages" / f"{number}.pdf", f"{number / 20} 0 0", f"0 {number / 20} 1")
        os.utime(tmp_path / "pages" / f"{number}.pdf", (OLD, OLD))
    command = ["ocr", str(tmp_path / "pages"), "-o", str(tmp_path / "r.csv"), "--no-text"]
    assert here(*command) == 0
    watch.clear()
    assert here(*command, "--resume") == 0
    pdfs = {path: count for path, count in watch.opened.items() if path.endswith(".pdf")}
    assert len(pdfs) <= 20
    assert all(count == 1 for count in pdfs.values())  # for their pages; to hash them would be another time
