"""The store remembers how pages were read, and loses nothing where it is damaged, newer or full."""

import errno
import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mlx_chandra.documents.page import PageResult, ReadSettings
from mlx_chandra.errors import DiskFullError, OutputError, UsageError
from mlx_chandra.store.schema import VERSION, store_path
from mlx_chandra.store.store import Start, Store
from tests.store.stores import SETTINGS, is_whole, killed, names, opened, page, read, rows, texts, write

OLD = 1_600_000_000_000_000_000  # a time in 2020, in nanoseconds


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "r.csv"


def asked(path: Path, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(store_path(str(path))) as database:
        return database.execute(query).fetchall()


def test_a_page_comes_back_with_all_that_was_stored_of_it(path: Path) -> None:
    name = os.fsdecode(b"/in/\xff.png")
    pages = [read("/in/b.pdf#page=3", 'odd\r\n"text"', content=None), read(name), read("/in/e.png", "")]
    pages.append(replace(read("/in/copy.png"), copy_of=name))
    write(path, pages)
    with opened(path) as store:
        assert [store.result(one.page.path) for one in pages] == [
            replace(one, page=page(one.page.path)) for one in pages
        ]
        assert store.result("/in/other.png") is None
        assert [store.has(p) for p in (name, "/in/b.pdf", "/in/\\xff.png")] == [True, False, False]
        assert store.count == 4
    assert names(path)[1] == "/in/\\xff.png"


def test_known_facts_say_whether_a_page_is_to_be_read_again(path: Path) -> None:
    write(path, [read("/a.png"), read("/b.png", "half", "error:truncated")])
    with Store(path, SETTINGS, Start.RESUME, lambda _, status: status != "ok") as store:
        facts = [store.known(page(name)) for name in ("/a.png", "/b.png", "/c.png")]
        assert facts[2] is None
        assert [(f.status, f.content, f.again, f.this_run) for f in facts if f] == [
            ("ok", "c0", False, False),
            ("error:truncated", "c0", True, False),
        ]
        store.add([read("/b.png", "half", "error:truncated")])
        again = store.known(page("/b.png"))
        assert again is not None
        assert (again.again, again.this_run) == (False, True)


@pytest.mark.parametrize(
    ("now", "same"),
    [
        (ReadSettings("mlx-chandra 2", "demo", {"prompt": "ü", "max_tokens": 9}, "f00d"), True),
        (ReadSettings("mlx-chandra 1", "/moved/demo", SETTINGS.settings, "f00d"), True),
        (ReadSettings("mlx-chandra 1", "demo", SETTINGS.settings, "beef"), False),  # other weights
        (ReadSettings("mlx-chandra 1", "demo", SETTINGS.settings, None), True),  # by name: they aren't here
        (ReadSettings("mlx-chandra 1", "other", SETTINGS.settings, None), False),
        (ReadSettings("mlx-chandra 1", "demo", {"prompt": "ü", "max_tokens": 10}, "f00d"), False),
    ],
)
def test_settings_are_the_same_when_they_give_the_same_text(
    path: Path, now: ReadSettings, same: bool
) -> None:
    write(path, [read("/in/a.png")])
    with opened(path, settings=now) as store:
        facts = store.known(page("/in/a.png"))
        assert facts is not None
        assert facts.same_settings is same
        assert [found for found, _ in store.same_content("c0", 0, False)] == (["/in/a.png"] if same else [])
        assert [(o.count, o.model) for o in store.other_settings()] == ([] if same else [(1, "demo")])
    with Store(path, now, Start.RESUME, any_settings=True) as store:
        facts = store.known(page("/in/a.png"))
        assert facts is not None
        assert facts.same_settings


def test_weights_that_come_during_the_run_are_those_of_its_pages(path: Path) -> None:
    with Store(path, ReadSettings("p", "hub/name", {}, None)) as store:
        store.use(ReadSettings("p", "hub/name", {}, "f00d"))
        store.add([PageResult(page("/in/a.png"), "ok", content="c0")])
    with opened(path, settings=ReadSettings("p", "hub/name", {}, "beef")) as store:
        facts = store.known(page("/in/a.png"))
        assert facts is not None
        assert not facts.same_settings


def test_pages_of_the_same_bytes_and_number_are_found_oldest_first_a_few_at_a_time(path: Path) -> None:
    write(path, [read(f"/{n}.pdf#page=2") for n in range(200)] + [read("/b.png", content="c1")])
    with opened(path) as store:
        assert next(store.same_content("c0", 2, False)) == ("/0.pdf#page=2", "ok")
        assert len(list(store.same_content("c0", 2, False))) == 200
        assert list(store.same_content("c0", 1, False)) == list(store.same_content("c0", 2, True)) == []
        store.add([read("/d.pdf#page=2"), replace(read("/e.pdf#page=2"), copy_of="/0.pdf#page=2")])
        assert list(store.same_content("c0", 2, True)) == [("/d.pdf#page=2", "ok")]  # a copy isn't read
        statements: list[str] = []
        with store.asking() as database:
            database.set_trace_callback(statements.append)
        next(store.same_content("c0", 2, False))
        assert len(statements) == 1


def test_a_documents_pages_come_in_their_order_and_documents_in_the_csvs(path: Path) -> None:
    write(path, [read(f"/in/{name}", name) for name in ("a.pdf#page=12", "b.png", "a.pdf#page=2", "a.pdfx")])
    with opened(path) as store:
        assert store.pages_of("/in/a.pdf") == ["/in/a.pdf#page=2", "/in/a.pdf#page=12"]
        assert [result.text for result in store.document("/in/a.pdf")] == ["a.pdf#page=2", "a.pdf#page=12"]
        assert [result.text for result in store.document("/in/b.png")] == ["b.png"]
        assert list(store.documents()) == ["/in/a.pdf", "/in/b.png", "/in/a.pdfx"]


def test_a_files_hash_is_remembered_while_its_size_and_time_stay(path: Path) -> None:
    with opened(path) as store:
        store.remember_file("/in/a.png", 5, OLD, "c0")
        assert store.file_content("/in/a.png", 5, OLD) == "c0"
        now = time.time_ns()
        store.remember_file("/in/new.png", 5, now, "c0")  # it may change within this tick of the clock
        assert store.file_content("/in/new.png", 5, now) is None
        store.add([read("/in/a.png")])
    with opened(path) as store:
        assert store.file_content("/in/a.png", 5, OLD) == "c0"
        assert store.file_content("/in/a.png", 6, OLD) is None
        assert store.file_content("/in/a.png", 5, OLD + 1) is None
        facts = store.known(page("/in/a.png"))
        assert facts is not None
        assert facts.file == (5, OLD, "c0")


def test_many_hashes_do_not_wait_in_memory_for_pages(path: Path) -> None:
    with opened(path) as store:
        for number in range(5_000):
            store.remember_file(f"/in/{number}.png", 5, OLD, "c0")
        assert asked(path, "select count(*) from files") == [(5_000,)]


def test_runs_are_counted_and_one_that_stores_nothing_leaves_no_trace(path: Path) -> None:
    with opened(path) as store:
        store.begin_run()
        store.add([read("/in/a.png"), read("/in/b.png", "", "error:truncated")])
        store.add([replace(read("/in/c.png"), copy_of="/in/a.png")])
        store.end_run(complete=True)
    with opened(path) as store:
        store.begin_run()
        store.end_run(complete=True)
    columns = "pages, failed, copies, prompt_tokens, generated_tokens, ended is not null"
    assert asked(path, f"select {columns} from runs") == [(3, 1, 1, 200, 18, 1)]


def damage(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"\0" * 200)


def damage_behind_the_first_page(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"garbage!" * ((path.stat().st_size - 4096) // 8))


def make_other(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("create table recipes (soup text)")


@pytest.mark.parametrize(
    "spoil", [damage, damage_behind_the_first_page, make_other, lambda path: path.write_text("not one, " * 9)]
)
def test_a_damaged_store_is_set_aside_and_begun_anew_from_the_csv(
    path: Path, spoil: Callable[[Path], None]
) -> None:
    write(path, [read("/in/a.png", "a"), read("/in/b.png", "b")])
    file = Path(store_path(str(path)))
    spoil(file)
    spoiled = file.read_bytes()
    with pytest.raises(OutputError, match=r"r\.csv\.journal\.sqlite"):
        Store.preview(path, SETTINGS).result("/in/a.png")
    with opened(path) as store:
        assert f"moved to {file}.damaged-1" in store.warnings[0]
        assert Path(f"{file}.damaged-1").read_bytes() == spoiled
        assert [store.result(name).text for name in ("/in/a.png", "/in/b.png")] == ["a", "b"]  # type: ignore[union-attr]
        facts = store.known(page("/in/a.png"))
        assert facts is not None
        assert facts.same_settings  # counts by its path
    with opened(path) as store:
        assert store.warnings == []


def test_damage_found_during_a_run_ends_it_and_the_next_one_begins_anew(path: Path) -> None:
    write(path, [read(f"/in/{n}.png", "text " * 200) for n in range(200)])
    store = opened(path)
    damage_behind_the_first_page(Path(store_path(str(path))))
    with store.asking() as database:
        database.execute("pragma shrink_memory")
    with pytest.raises(OutputError, match="damaged"):
        store.add([read(f"/in/{n}.png", "new") for n in range(200)])
    store.close()
    assert Path(store_path(str(path)) + ".damaged-1").exists()
    with opened(path) as store:
        assert store.count == 200


def test_a_store_of_a_newer_version_is_left_alone(path: Path) -> None:
    write(path, [read("/in/a.png")])
    asked(path, f"pragma user_version = {VERSION + 1}")
    before = Path(store_path(str(path))).read_bytes()
    for opening in (opened, lambda path: Store.preview(path, SETTINGS)):
        with pytest.raises(OutputError, match="newer mlx-chandra"):
            opening(path)
    assert Path(store_path(str(path))).read_bytes() == before


HALF = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("pragma cache_size = 1")
database.execute("begin immediate")
database.executemany("insert into files values (?, 1, 1, ?)", [(f"/{n}", "x" * 100) for n in range(2000)])
os._exit(0)
"""


def test_what_a_killed_run_left_half_written_is_taken_back_also_for_who_only_looks(path: Path) -> None:
    write(path, [read("/in/a.png")])
    subprocess.run([sys.executable, "-c", HALF, store_path(str(path))], check=True)
    assert os.path.getsize(store_path(str(path)) + "-journal")
    store = Store.preview(path, SETTINGS)
    with store.asking() as database:
        assert database.execute("select count(*) from files").fetchone() == (0,)
    assert store.has("/in/a.png")
    store.close()


def test_a_disk_without_locks_is_said_and_gets_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    monkeypatch.setattr(fcntl, "flock", refuse)
    with opened(path) as store:
        assert "knows no locks" in store.warnings[0]
        store.add([read("/in/a.png")])
        assert store.has("/in/a.png")


def test_a_full_disk_is_said_and_what_was_written_stays(path: Path) -> None:
    with opened(path) as store:
        store.add([read("/in/a.png")])
        with store.asking() as database:
            (count,) = database.execute("pragma page_count").fetchone()
            database.execute(f"pragma max_page_count = {count}")
        with pytest.raises(DiskFullError, match=r"r\.csv\.journal\.sqlite is full"):
            store.add([read(f"/in/{'long' * 50}{number}.png") for number in range(500)])
        assert store.count == 1
    is_whole(path)


def test_a_csv_that_finds_no_room_is_cut_back_to_whole_rows_and_completed_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, [read("/a.png", "one")])
    before, original = path.read_bytes(), os.write

    def full(file: int, data: bytes) -> int:
        original(file, bytes(data[:10]))
        raise OSError(errno.ENOSPC, "No space left on device")

    store = opened(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(DiskFullError, match="No space left"):
            store.add([read("/b.png", "two")])
        assert path.read_bytes() == before
    store.close()
    assert texts(path) == {"/a.png": "one", "/b.png": "two"}


def test_a_disk_too_full_to_replace_rows_keeps_them_for_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, [read("/a.png", "old")])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = opened(path)
    store.add([read("/a.png", "new")])
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(DiskFullError):
            store.close()
    assert texts(path) == {"/a.png": "old"}
    opened(path).close()
    assert texts(path) == {"/a.png": "new"}
    is_whole(path)


def test_many_threads_may_ask_while_it_is_written_and_closed(path: Path) -> None:
    failed: list[BaseException] = []

    def ask(store: Store) -> None:
        try:
            while True:
                store.known(page("/in/a.png"))
                list(store.same_content("c0", 0, False))
        except OutputError:  # it was closed
            return
        except BaseException as error:
            failed.append(error)

    with opened(path) as store:
        threads = [threading.Thread(target=ask, args=(store,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(30):
            store.add([read(f"/in/{number}.png", content=f"c{number}")])
    for thread in threads:
        thread.join(10)
    assert not failed
    assert not any(thread.is_alive() for thread in threads)


def test_results_are_not_overwritten_unasked(path: Path) -> None:
    write(path, [read("/a.png", "one")])
    for opening in (lambda: opened(path, Start.FRESH), lambda: Store.preview(path, SETTINGS, Start.FRESH)):
        with pytest.raises(UsageError, match="results of 1 pages") as caught:
            opening()
        assert "--resume" in caught.value.remedy
    path.unlink()
    with pytest.raises(UsageError, match="results of 1 pages"):
        opened(path, Start.FRESH)
    assert os.listdir(path.parent) == ["r.csv.journal.sqlite"]


def test_overwriting_touches_nothing_before_the_first_page(path: Path) -> None:
    write(path, [read("/a.png", "one"), read("/b.png", "two")])
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with opened(path, Start.OVERWRITE) as store:
        assert (store.count, store.has("/a.png"), store.known(page("/a.png"))) == (0, False, None)
        assert list(store.same_content("c0", 0, False)) == list(store.documents()) == []
        store.end_run(complete=True)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before
    write(path, [read("/b.png", "anew")], Start.OVERWRITE)
    assert rows(path) == [("/b.png", "ok", "anew")]
    assert asked(path, "select count(*) from runs") == [(1,)]
    is_whole(path)


def test_overwriting_goes_on_after_a_disk_was_full(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, [read("/a.png", "old")])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with opened(path, Start.OVERWRITE) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            with pytest.raises(DiskFullError):
                store.add([read("/a.png", "new")])
        assert texts(path) == {"/a.png": "old"}
        store.add([read("/b.png", "new")])
        assert texts(path) == {"/a.png": "new", "/b.png": "new"}
    is_whole(path)


def test_overwriting_does_not_mind_damage_below_the_header_nor_what_the_store_does_not_have(
    path: Path,
) -> None:
    path.write_bytes(b"image_path,status,ocr_text\r\n/old.png,ok,x\r\nnot,a,row,at,all\r\n/c.png,ok,x\r\n")
    store = opened(path, Start.OVERWRITE)
    store.add([read("/a.png")])
    assert names(path) == ["/a.png"]
    killed(store)
    is_whole(path)
    assert names(path) == ["/a.png"]


def test_a_store_that_is_taken_away_with_its_folder_is_written_anew(path: Path) -> None:
    table = path.parent / "deep" / "out" / "r.csv"
    with opened(table) as store:
        store.plan(["/2.png", "/1.png", "/3.png"])
        store.add([read("/1.png", "1"), read("/2.png", "2")])
        shutil.rmtree(path.parent / "deep")
        store.add([read("/3.png", "3")])
        assert "was taken away during the run" in store.warnings[0]
        with pytest.raises(OutputError, match="Another run"):
            opened(table)
        store.end_run(complete=True)
    assert names(table) == ["/2.png", "/1.png", "/3.png"]
    is_whole(table)


def test_a_store_that_was_replaced_is_left_alone(path: Path) -> None:
    store = opened(path)
    store.add([read("/1.png", "1")])
    shutil.copy(store.database, path.parent / "other")
    os.replace(path.parent / "other", store.database)
    with pytest.raises(OutputError, match="was replaced while the run wrote to it"):
        store.add([read("/2.png", "2")])
    with pytest.raises(OutputError, match="was replaced"):
        store.close()
    assert names(path) == ["/1.png"]
