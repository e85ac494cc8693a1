"""Killed before any write, sync, rename or commit, a run leaves what the next one completes."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlx_chandra.errors import DiskFullError
from mlx_chandra.files import disk
from mlx_chandra.store import store as store_module
from mlx_chandra.store.store import Start, Store
from tests.crash.test_disk_full import small_disk
from tests.store.stores import SETTINGS, is_whole, opened, read, rows, texts, write

Run = Callable[[Path, Callable[[str], None]], None]
OLD = {"/0.png": "old 0", "/1.png": "old 1", "/a.pdf": "", "/2.png": "old 2"}


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A folder with the results of an earlier run."""
    path = tmp_path / "begun" / "r.csv"
    write(path, [read(name, text, "ok" if text else "error:locked: x") for name, text in OLD.items()])
    return path.parent


class Killer:
    """Ends the process before its so-and-so-manieth step; half of what is to be written is written then."""

    def __init__(self, step: int) -> None:
        self._left = step

    def step(self) -> bool:
        self._left -= 1
        return self._left < 0

    def patch(self) -> None:
        write_all, connect = os.write, store_module.open_store

        def written(file: int, data: bytes) -> int:
            if self.step():
                write_all(file, bytes(data)[: len(data) // 2])
                os._exit(9)
            return write_all(file, data)

        def traced(path: str, locks: bool) -> tuple[sqlite3.Connection, int]:
            connection, version = connect(path, locks)
            connection.set_trace_callback(lambda said: said == "commit" and self.step() and os._exit(9))
            return connection, version

        os.write = written  # type: ignore[assignment]
        store_module.open_store = traced
        for module, name in ((os, "fsync"), (os, "replace"), (os, "ftruncate"), (disk, "sync_folder")):
            setattr(module, name, self._before(getattr(module, name)))

    def _before(self, function: Callable[..., object]) -> Callable[..., object]:
        def killing(*arguments: object) -> object:
            if self.step():
                os._exit(9)
            return function(*arguments)

        return killing


def in_a_child(path: Path, step: int, work: Run) -> list[str] | None:
    """Run `work` in a process that is killed at a step; return what it said before. None if it ended."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        whole = os.write
        Killer(step).patch()
        try:
            work(path, lambda word: (whole(theirs, f"{word}\n".encode()), None)[1])
        except BaseException:
            os._exit(1)
        os._exit(0)
    os.close(theirs)
    with open(ours, encoding="utf-8") as file:
        said = file.read().split()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return said if status else None


def going_on(path: Path, say: Callable[[str], None]) -> None:
    """A run that reads new pages and old ones again, drops one, and puts all in the input's order."""
    with opened(path) as store:
        store.plan(["/0.png", "/new.png", "/1.png", "/a.pdf#page=1", "/last.png"])
        store.add([read("/new.png", "new"), read("/1.png", "new 1")])
        say("/new.png /1.png")
        store.add([read("/a.pdf#page=1", "page")])
        say("/a.pdf#page=1")
        store.drop(["/2.png"])
        say("/2.png")
        store.add([read("/1.png", "newest 1"), read("/last.png", "last")])
        say("/last.png newest")
        store.end_run(complete=True)
        say("end")


def anew(path: Path, say: Callable[[str], None]) -> None:
    """A run with --overwrite."""
    with opened(path, Start.OVERWRITE) as store:
        store.add([read("/1.png", "new 1"), read("/new.png", "new")])
        say("/1.png /new.png")
        store.add([read("/0.png", "new 0")])
        say("/0.png")
        store.end_run(complete=True)


def killed_at_each_step(begun: Path, work: Run) -> Iterator[tuple[Path, list[str]]]:
    for step in range(1000):
        folder = begun.parent / f"{step}"
        shutil.copytree(begun, folder)
        said = in_a_child(folder / "r.csv", step, work)
        if said is None:
            assert step > 10
            return
        yield folder / "r.csv", said
    raise AssertionError("the run does not end")


def test_a_run_killed_at_any_step_loses_no_page_that_it_stored(begun: Path) -> None:
    for path, said in killed_at_each_step(begun, going_on):
        with Store.preview(path, SETTINGS) as seen:
            before = {name: seen.result(name).text for name, _, _ in all_rows(seen)}  # type: ignore[union-attr]
        is_whole(path)
        found = texts(path)
        assert found == before
        assert found["/0.png"] == "old 0"
        assert found["/1.png"] == "newest 1" if "newest" in said else found["/1.png"].endswith(" 1")
        if "/1.png" in said:
            assert found["/1.png"] != "old 1"
        for name, text in (("/new.png", "new"), ("/a.pdf#page=1", "page"), ("/last.png", "last")):
            assert found.get(name, text) == text
            assert name in found or name not in said
        assert ("/a.pdf" in found) != ("/a.pdf#page=1" in found)
        assert "/2.png" in found or len(said) >= 3
        assert "/2.png" not in found or "/2.png" not in said
        going_on(path, lambda _: None)
        assert list(texts(path)) == ["/0.png", "/new.png", "/1.png", "/a.pdf#page=1", "/last.png"]


def test_overwriting_killed_at_any_step_leaves_the_old_results_or_the_new(begun: Path) -> None:
    for path, said in killed_at_each_step(begun, anew):
        is_whole(path)
        found = texts(path)
        if found != OLD:
            assert found["/1.png"] == "new 1"
            assert set(found) <= {"/1.png", "/new.png", "/0.png"}
        assert found != OLD or not said
        assert set(said) <= set(found)


def test_an_opening_that_is_killed_is_done_again_by_the_next(begun: Path) -> None:
    path = begun / "r.csv"
    store = opened(path)
    store.add([read("/1.png", "new 1"), read("/new.png", "new")])
    store._let_go()
    path.write_bytes(path.read_bytes().replace(b"old 0", b"by hand")[:-4])
    (begun / "r.csv.journal.sqlite-journal").unlink(missing_ok=True)

    def opening(path: Path, say: Callable[[str], None]) -> None:
        opened(path).close()

    expected = {"/0.png": "by hand", "/1.png": "new 1", "/a.pdf": "", "/2.png": "old 2", "/new.png": "new"}
    for step in range(100):
        folder = begun.parent / f"opening {step}"
        shutil.copytree(begun, folder)
        ended = in_a_child(folder / "r.csv", step, opening) is None
        is_whole(folder / "r.csv")
        assert texts(folder / "r.csv") == expected
        if ended:
            assert step > 5
            return


def all_rows(store: Store) -> list[tuple[str, str, str]]:
    with store.asking() as database:
        return database.execute("select path, status, '' from live").fetchall()


def test_a_page_that_is_in_the_store_only_comes_into_the_csv(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two."""
    path = begun / "r.csv"
    store = opened(path)
    monkeypatch.setattr(store._csv, "append", lambda _: None)
    store.add([read("/new.png", "new")])
    store._let_go()
    assert "/new.png" not in texts(path)
    opened(path).close()
    assert rows(path)[-1] == ("/new.png", "ok", "new")


def fill(path: Path, kept: list[str]) -> None:
    """Store pages, each of them twice, until the disk is full."""
    with opened(path) as store:
        for number in range(99):
            store.add([read(f"/{number}.png", "first " * 500)])
            kept.append(f"/{number}.png")
            store.add([read(f"/{number // 2}.png", "again " * 500)])


@pytest.mark.parametrize("size", [120, 160, 200, 260])  # kB
def test_a_disk_that_is_really_full_keeps_what_was_stored(tmp_path: Path, size: int) -> None:
    folder, kept = tmp_path / "disk", list[str]()
    with small_disk(folder, f"{size}k"):
        path = folder / "r.csv"
        with pytest.raises(DiskFullError, match="is full"):
            fill(path, kept)
        assert set(kept) <= set(texts(path))
        subprocess.run(["mount", "-o", "remount,size=9m", str(folder)], check=True)
        is_whole(path)
        found = texts(path)
        assert set(kept) <= set(found)
        assert all(found[f"/{number // 2}.png"].startswith("again") for number in range(len(kept) - 1))
