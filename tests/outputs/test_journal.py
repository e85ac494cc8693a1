"""The journal remembers how pages were read, and nothing is lost where it is missing, damaged or newer."""

import errno
import fcntl
import os
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mlx_chandra.errors import DiskFullError, OutputError
from mlx_chandra.outputs import journal_file
from mlx_chandra.outputs.journal import Journal, JournalPage
from mlx_chandra.outputs.journal_file import VERSION, journal_path, open_to_read
from mlx_chandra.outputs.layout import Size
from mlx_chandra.outputs.making import Making

MAKING = Making("mlx-chandra 1", "demo", {"max_tokens": 9, "prompt": "ü"}, "f00d")
OLD = 1_600_000_000_000_000_000  # a time in 2020, in nanoseconds


def read(path: str, content: str | None = "c0", **changes: object) -> JournalPage:
    given = {"number": 0, "status": "ok", "finish_reason": "stop", "prompt_tokens": 100} | changes
    given |= {"answer_tokens": 7, "generated_tokens": 9, "attempts": 2, "seconds": 1.5, "box_scale": 1000}
    return JournalPage(path=path, content=content, size=Size(30, 40), **given)  # type: ignore[arg-type]


def opened(tmp_path: Path, making: Making = MAKING, fresh: bool = False) -> Journal:
    return Journal(str(tmp_path / "r.csv"), making, fresh)


def test_a_page_is_known_to_the_next_run_with_all_that_was_said_of_it(tmp_path: Path) -> None:
    pages = [read("/in/a.png"), read("/in/b.pdf#page=3", None, number=3, status="error:locked: no")]
    with opened(tmp_path) as journal:
        journal.add(pages)
    with opened(tmp_path) as journal:
        assert [journal.page(page.path) for page in pages] == pages
        known = journal.known("/in/a.png", "/in/a.png")
        assert known is not None
        assert (known.content, known.status, known.as_now) == ("c0", "ok", True)
        assert journal.known("/in/c.png", "/in/c.png") is None


def test_names_that_are_not_utf8_are_kept_as_the_table_shows_them(tmp_path: Path) -> None:
    name = os.fsdecode(b"/in/\xff.png")
    with opened(tmp_path) as journal:
        journal.add([read(name)])
        assert journal.page(name) == read(name)
    with sqlite3.connect(journal_path(str(tmp_path / "r.csv"))) as database:
        assert database.execute("select path from pages").fetchall() == [(r"/in/\xff.png",)]


@pytest.mark.parametrize(
    ("now", "same"),
    [
        (Making("mlx-chandra 2", "demo", {"prompt": "ü", "max_tokens": 9}, "f00d"), True),  # a newer program
        (Making("mlx-chandra 1", "/moved/demo", MAKING.settings, "f00d"), True),
        (Making("mlx-chandra 1", "demo", MAKING.settings, "beef"), False),  # other weights
        (Making("mlx-chandra 1", "demo", MAKING.settings, None), True),  # by its name, while they aren't here
        (Making("mlx-chandra 1", "other", MAKING.settings, None), False),
        (Making("mlx-chandra 1", "demo", {"prompt": "ü", "max_tokens": 10}, "f00d"), False),
        (Making("mlx-chandra 1", "demo", {"prompt": "ü", "max_tokens": 9, "new": 1}, "f00d"), False),
    ],
)
def test_a_page_is_as_now_when_model_and_settings_are_the_same(
    tmp_path: Path, now: Making, same: bool
) -> None:
    with opened(tmp_path) as journal:
        journal.add([read("/in/a.png")])
    with opened(tmp_path, now) as journal:
        known = journal.known("/in/a.png", "/in/a.png")
        assert known is not None
        assert known.as_now is same
        assert [path for path, _ in journal.twins("c0", 0, False)] == (["/in/a.png"] if same else [])


def test_weights_that_come_during_the_run_are_said_of_its_pages(tmp_path: Path) -> None:
    with opened(tmp_path, Making("p", "hub/name", {}, None)) as journal:
        journal.reads_with(Making("p", "hub/name", {}, "f00d"))
        journal.add([read("/in/a.png")])
    with opened(tmp_path, Making("p", "hub/name", {}, "beef")) as journal:
        known = journal.known("/in/a.png", "/in/a.png")
        assert known is not None
        assert not known.as_now


def test_twins_are_pages_of_the_same_bytes_and_number(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.add([read("/a.pdf#page=1", number=1), read("/a.pdf#page=2", number=2), read("/b.png", "c1")])
    with opened(tmp_path) as journal:
        assert list(journal.twins("c0", 2, False)) == [("/a.pdf#page=2", "ok")]
        assert list(journal.twins("c0", 2, True)) == []  # not in this run
        journal.add([read("/d.pdf#page=2", number=2)])
        assert list(journal.twins("c0", 2, True)) == [("/d.pdf#page=2", "ok")]
        assert len(list(journal.twins("c0", 2, False))) == 2
        journal.add([replace(read("/e.pdf#page=2", number=2), copy_of="/a.pdf#page=2")])
        assert list(journal.twins("c0", 2, True)) == [("/d.pdf#page=2", "ok")]  # a copy isn't read


def test_of_thousands_of_twins_only_some_are_looked_at(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.add([read(f"/in/{number}.png") for number in range(2_000)])
        asked: list[str] = []
        journal._database.set_trace_callback(asked.append)
        assert next(journal.twins("c0", 0, True)) == ("/in/0.png", "ok")
        assert len(asked) == 1
        assert " limit " in asked[0]
        every = list(journal.twins("c0", 0, True))
        assert every == [(f"/in/{number}.png", "ok") for number in range(2_000)]


def test_a_files_hash_is_remembered_while_its_size_and_time_stay(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.remember("/in/a.png", 5, OLD, "c0")
        assert journal.content("/in/a.png", 5, OLD) == "c0"
    with opened(tmp_path) as journal:
        assert journal.content("/in/a.png", 5, OLD) == "c0"
        assert journal.content("/in/a.png", 6, OLD) is None
        assert journal.content("/in/a.png", 5, OLD + 1) is None
        journal.remember("/in/a.png", 6, OLD, "c1")
        assert journal.content("/in/a.png", 5, OLD) is None
        assert journal.content("/in/a.png", 6, OLD) == "c1"


def test_a_file_that_changed_only_just_now_is_not_remembered(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        now = time.time_ns()
        journal.remember("/in/a.png", 5, now, "c0")
        assert journal.content("/in/a.png", 5, now) is None


def test_many_hashes_do_not_wait_in_memory_for_pages(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        for number in range(5_000):
            journal.remember(f"/in/{number}.png", 5, OLD, "c0")
        with sqlite3.connect(journal.path) as database:
            assert database.execute("select count(*) from files").fetchone() == (5_000,)


def test_a_run_is_counted_without_the_tokens_of_copies(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.add([read("/in/a.png"), read("/in/b.png", status="error:truncated")])
        journal.add([read("/in/c.png", copy_of="/in/a.png")])
        journal.end_run()
        columns = "pages, failed, copies, prompt_tokens, generated_tokens"
        with sqlite3.connect(journal.path) as database:
            assert database.execute(f"select {columns} from runs").fetchall() == [(3, 1, 1, 200, 18)]
            assert database.execute("select ended is not null from runs").fetchone() == (1,)


def test_a_run_that_does_nothing_leaves_no_trace(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.add([read("/in/a.png")])
    with opened(tmp_path) as journal:
        journal.end_run()
        with sqlite3.connect(journal.path) as database:
            assert database.execute("select count(*) from runs").fetchone() == (1,)


def test_a_page_that_is_done_again_has_its_newest_reading_only(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.add([read("/in/a.png")])
        journal.add([read("/in/a.png", "c1", status="error:empty")])
        assert journal.page("/in/a.png") == read("/in/a.png", "c1", status="error:empty")
        assert not list(journal.twins("c0", 0, False))


def test_a_new_table_begins_a_new_journal(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.add([read("/in/a.png")])
    with opened(tmp_path, fresh=True) as journal:
        assert journal.known("/in/a.png", "/in/a.png") is None
        assert journal.set_aside is None


def damage(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"\0" * 200)


def make_other(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("create table recipes (soup text)")


@pytest.mark.parametrize("spoil", [damage, make_other, lambda path: path.write_text("not a database, " * 9)])
def test_what_is_no_journal_is_set_aside_and_a_new_one_begun(tmp_path: Path, spoil: object) -> None:
    with opened(tmp_path) as journal:
        journal.add([read("/in/a.png")])
    path = Path(journal.path)
    spoil(path)  # type: ignore[operator]
    spoiled = path.read_bytes()
    with opened(tmp_path) as journal:
        assert journal.set_aside == f"{path}.damaged-1"
        assert Path(journal.set_aside).read_bytes() == spoiled
        assert journal.known("/in/a.png", "/in/a.png") is None
        journal.add([read("/in/a.png")])
    with opened(tmp_path) as journal:
        assert journal.set_aside is None
        assert journal.known("/in/a.png", "/in/a.png") is not None


def test_a_journal_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.add([read("/in/a.png")])
    with sqlite3.connect(journal.path) as database:
        database.execute(f"pragma user_version = {VERSION + 1}")
    before = Path(journal.path).read_bytes()
    with pytest.raises(OutputError, match="newer mlx-chandra"):
        opened(tmp_path)
    with pytest.raises(OutputError, match="newer mlx-chandra"):
        open_to_read(journal.path)
    assert Path(journal.path).read_bytes() == before


KILLED = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("pragma cache_size = 1")
database.execute("begin immediate")
database.executemany("insert into files values (?, 1, 1, ?)", [(f"/{n}", "x" * 100) for n in range(2000)])
os._exit(0)
"""


def test_what_a_killed_run_left_half_done_is_taken_back_also_by_somebody_who_reads(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.add([read("/in/a.png")])
    subprocess.run([sys.executable, "-c", KILLED, journal.path], check=True)
    assert os.path.getsize(f"{journal.path}-journal")
    database = open_to_read(journal.path)
    assert database is not None
    assert database.execute("select count(*) from files").fetchone() == (0,)
    assert database.execute("select path from pages").fetchall() == [("/in/a.png",)]
    with pytest.raises(sqlite3.OperationalError):
        database.execute("delete from pages")
    database.close()


def test_it_is_read_while_a_run_writes_to_it(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.add([read("/in/a.png")])
        database = open_to_read(journal.path)
        assert database is not None
        assert database.execute("select count(*) from pages").fetchone() == (1,)
        journal.add([read("/in/b.png")])
        assert database.execute("select count(*) from pages").fetchone() == (2,)
        database.close()


def test_there_may_be_none_to_read(tmp_path: Path) -> None:
    assert open_to_read(str(tmp_path / "none.sqlite")) is None
    assert not list(tmp_path.iterdir())


def test_a_disk_that_knows_no_locks_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    connect = sqlite3.connect

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def note(name: str, *rest: object, **options: object) -> sqlite3.Connection:
        asked.append(name)
        return connect(name, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "lockf", refuse)
    monkeypatch.setattr(journal_file.sqlite3, "connect", note)
    with opened(tmp_path) as journal:
        journal.add([read("/in/a.png")])
        assert journal.known("/in/a.png", "/in/a.png") is not None
    assert [name.partition("?")[2] for name in asked] == ["nolock=1"]


def test_a_full_disk_is_said_and_what_was_written_stays(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.add([read("/in/a.png")])
        (pages,) = journal._database.execute("pragma page_count").fetchone()
        journal._database.execute(f"pragma max_page_count = {pages}")
        with pytest.raises(DiskFullError, match=r"r\.csv\.journal\.sqlite is full"):
            journal.add([read(f"/in/{'long' * 50}{number}.png") for number in range(500)])
        assert journal.known("/in/a.png", "/in/a.png") is not None


def test_many_threads_may_ask_while_it_is_written_and_closed(tmp_path: Path) -> None:
    failed: list[BaseException] = []

    def ask(journal: Journal) -> None:
        try:
            while True:
                journal.known("/in/a.png", "/in/a.png")
                list(journal.twins("c0", 0, False))
        except OutputError:  # it was closed
            return
        except BaseException as error:
            failed.append(error)

    with opened(tmp_path) as journal:
        threads = [threading.Thread(target=ask, args=(journal,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(30):
            journal.add([read(f"/in/{number}.png", f"c{number}")])
    for thread in threads:
        thread.join(10)
    assert not failed
    assert not any(thread.is_alive() for thread in threads)


def test_the_pages_of_a_document_are_found_and_no_other_documents(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        names = ["/in/a.pdf#page=1", "/in/a.pdf#page=12"]
        others = ["/in/a.pdf", "/in/a.pdfx#page=1", "/in/b.pdf#page=1"]
        journal.add([read(name) for name in names + others])
        assert sorted(journal.pages_of("/in/a.pdf")) == names
