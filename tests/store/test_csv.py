"""The CSV is the image of the store: in order, after edits, and whatever happens to it during a run."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_chandra.errors import OutputBusyError, OutputError
from mlx_chandra.store.lock import Lock, lock_path, running_on
from mlx_chandra.store.store import Start, Store
from tests.store.stores import (
    HEADER,
    SETTINGS,
    is_whole,
    killed,
    names,
    opened,
    page,
    read,
    rows,
    texts,
    write,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "r.csv"


def run(path: Path, plan: str, pages: str, complete: bool = True) -> str:
    """A run over an input of such pages that reads some of them in this order; returns the CSV's order."""
    with opened(path) as store:
        store.plan([f"/{name}" for name in plan])
        store.add([read(f"/{name}", name) for name in pages])
        store.end_run(complete)
    return "".join(name[1:] for name in names(path))


@pytest.mark.parametrize(
    ("plans", "expected"),
    [
        (["abc:cba"], "abc"),
        (["abc:ca", "abc:b"], "abc"),  # a run that read some of its input
        (["bd:bd", "abcde:ace"], "abcde"),
        (["ab:ab", "xy:yx"], "abxy"),  # another input
        (["ca:ca", "abc:b"], "cab"),  # what stands there keeps its order
        (["abc:abc", "abc:b"], "abc"),  # read again
        (["ab:ab", "xby:xy"], "axby"),
    ],
)
def test_rows_stand_in_the_order_of_the_input_at_a_runs_end(
    path: Path, plans: list[str], expected: str
) -> None:
    found = [run(path, *one.split(":")) for one in plans]
    assert found[-1] == expected
    is_whole(path)


def test_a_run_that_was_stopped_or_killed_leaves_its_rows_to_be_ordered_by_the_next(path: Path) -> None:
    assert run(path, "abcd", "ca", complete=False) == "ca"
    store = opened(path)
    store.plan(["/a", "/b", "/c", "/d"])
    store.add([read("/d", "d")])
    killed(store)
    assert names(path) == ["/c", "/a", "/d"]
    assert run(path, "abcd", "b") == "abcd"
    assert run(path, "abcd", "") == "abcd"
    is_whole(path)


def test_rows_read_again_stand_in_their_old_places_also_after_a_stop(path: Path) -> None:
    run(path, "abcd", "abcd")
    with opened(path) as store:
        store.add([read("/c", "new c"), read("/e", "e"), read("/a", "", "error:empty")])
        assert texts(path)["/c"] == "c"  # until the end
        store.end_run(complete=False)
    assert [text for _, _, text in rows(path)] == ["", "b", "new c", "d", "e"]
    is_whole(path)


def test_a_page_read_twice_in_a_run_has_one_row_its_last(path: Path) -> None:
    with opened(path) as store:
        store.add([read("/a", "1"), read("/a", "2")])
        store.add([read("/a", "3")])
    assert rows(path) == [("/a", "ok", "3")]


def test_a_documents_error_row_goes_when_its_pages_come_and_dropped_pages_go(path: Path) -> None:
    write(path, [read("/a.pdf", "", "error:locked: x"), read("/b.pdf", "", "error:locked: x")])
    with opened(path) as store:
        store.add([read("/a.pdf#page=1", "1"), read("/a.pdf#page=2", "2"), read("/c.pdf", "")])
        assert store.result("/a.pdf") is None
        store.add([read("/c.pdf#page=1", "c")])  # in one run
        store.drop(["/a.pdf#page=2", "/b.pdf", "/never.png"])
        assert not store.has("/b.pdf")
    assert names(path) == ["/a.pdf#page=1", "/c.pdf#page=1"]
    is_whole(path)


# -- edited between runs


def test_what_a_spreadsheet_changed_wins_and_counts_by_its_path(path: Path) -> None:
    write(path, [read(f"/{n}.png", f"text {n}") for n in range(5)])
    saved = [f'"/{n}.png","ok","text {n}"' for n in (4, 3, 2, 1)]
    saved[1] = '"/3.png","ok","by ""hand"""'
    saved.append('"/mine.png","ok","new"')
    content = "\n".join(['"image_path","status","ocr_text"', *saved, ""])
    path.write_bytes(b"\xef\xbb\xbf" + content.encode())
    store = Store.preview(path, SETTINGS)
    assert (store.count, store.result("/3.png").text) == (5, 'by "hand"')  # type: ignore[union-attr]
    store.close()
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    with opened(path, settings=SETTINGS.__class__("p", "other")) as store:
        assert store.known(page("/0.png")) is None  # was taken out: is read again
        facts = [store.known(page(name)) for name in ("/3.png", "/2.png", "/mine.png")]
        assert [(f.content, f.same_settings) for f in facts if f] == [
            ("c0", True),
            ("c0", False),
            (None, True),
        ]
        assert [result.text for result in store.document("/mine.png")] == ["new"]
        store.add([read("/5.png", "five")])
    assert path.read_bytes().endswith(b"/5.png,ok,five\r\n")
    with open(path, encoding="utf-8-sig") as file:
        assert [line.split(",")[0].strip('"') for line in file][1:] == [
            "/4.png", "/3.png", "/2.png", "/1.png", "/mine.png", "/5.png",
        ]  # fmt: skip


def test_a_doubled_row_counts_once_its_last_one(path: Path) -> None:
    path.write_bytes(HEADER + b"/a,ok,1\r\n/b,ok,2\r\n/a,ok,3\r\n")
    opened(path).close()
    assert texts(path) == {"/a": "3", "/b": "2"}
    is_whole(path)


def test_a_csv_without_a_store_is_taken_over_and_one_without_a_row_is_begun(path: Path) -> None:
    path.write_bytes(HEADER[:9])
    with opened(path, Start.FRESH) as store:
        assert store.count == 0
    path.write_bytes(HEADER + b'/a.pdf#page=2,ok,"x\ny"\r\n')
    os.unlink(f"{path}.journal.sqlite")
    with opened(path) as store:
        assert store.pages_of("/a.pdf") == ["/a.pdf#page=2"]
    is_whole(path)


def test_a_missing_csv_is_written_again_from_its_store(path: Path) -> None:
    run(path, "cab", "abc")
    path.unlink()
    store = Store.preview(path, SETTINGS)
    assert (store.count, path.exists()) == (3, False)
    store.close()
    with opened(path) as store:
        assert "was missing" in store.warnings[0]
    assert names(path) == ["/c", "/a", "/b"]
    is_whole(path)


@pytest.mark.parametrize("start", list(Start))
@pytest.mark.parametrize(
    "content", [b"name,price\r\ntea,2\r\n", HEADER + b"/a,ok,x\r\nbroken\r\n/b,ok,x\r\n"]
)
def test_what_is_no_csv_of_ours_is_left_alone(path: Path, content: bytes, start: Start) -> None:
    path.write_bytes(content)
    if start is Start.OVERWRITE and content.startswith(HEADER):
        return  # is overwritten: test_store.py
    for opening in (opened, lambda path, start: Store.preview(path, SETTINGS, start)):
        with pytest.raises(OutputError, match=r"r\.csv is "):
            opening(path, start)
    assert path.read_bytes() == content


def test_a_csv_torn_at_any_byte_is_completed_from_its_store(path: Path) -> None:
    results = [
        read("/a.png", 'one "two"\nthree'),
        read("/b\n.png", "", "error:empty"),
        read("/c.png", '"\r\n",'),
    ]
    write(path, results)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        opened(path).close()
        cut = whole[:length]
        if cut.endswith(b"\r\n") and cut.count(b'"') % 2 == 0:  # its user took rows out
            assert path.read_bytes() == whole[:length]
            with opened(path) as store:
                store.add([result for result in results if not store.has(result.page.path)])
                store.end_run(complete=True)
        assert path.read_bytes() == whole


# -- changed during a run


def delete(path: Path) -> None:
    path.unlink()


def edit_by_an_editor(path: Path) -> None:
    (path.parent / "edited").write_bytes(path.read_bytes().replace(b"old", b"by hand"))
    os.replace(path.parent / "edited", path)


def edit_in_place(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"old", b"by hand"))


def append_in_place(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"/mine.png,ok,mine\r\n")


def cut_within_a_row(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 5)


def cut_at_a_row(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: content.rstrip().rindex(b"\n") + 1])


def save_an_older_copy(path: Path) -> None:
    path.write_bytes(HEADER + b"/0.png,ok,old\r\n")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (delete, {"/0.png": "old"}),
        (edit_by_an_editor, {"/0.png": "by hand"}),
        (edit_in_place, {"/0.png": "by hand"}),
        (append_in_place, {"/0.png": "old", "/mine.png": "mine"}),
        (cut_within_a_row, {"/0.png": "old"}),
        (cut_at_a_row, {"/0.png": "old"}),
        (save_an_older_copy, {"/0.png": "old"}),
    ],
)
@pytest.mark.parametrize("kill", [False, True])
def test_a_csv_that_is_changed_during_a_run_is_joined_with_it(
    path: Path, change: Callable[[Path], None], expected: dict[str, str], kill: bool
) -> None:
    write(path, [read("/0.png", "old")])
    store = opened(path)
    store.add([read("/1.png", "1"), read("/2.png", "2")])
    store.add([read("/3.png", "3")])
    change(path)
    store.add([read("/4.png", "4")])
    store.add([read("/5.png", "5")])
    assert len(store.warnings) == 1
    assert "changed, replaced or taken away" in store.warnings[0]
    if kill:
        killed(store)
        opened(path).close()
    else:
        store.close()
    assert texts(path) == expected | {f"/{n}.png": f"{n}" for n in range(1, 6)}
    is_whole(path)


def test_a_csv_that_is_only_touched_is_no_trouble(path: Path) -> None:
    with opened(path) as store:
        store.add([read("/1.png", "1")])
        os.utime(path)
        store.add([read("/2.png", "2")])
        assert store.warnings == []
    assert names(path) == ["/1.png", "/2.png"]


def test_an_edit_after_the_last_row_is_kept_too(path: Path) -> None:
    store = opened(path)
    store.add([read("/1.png", "one"), read("/2.png", "two")])
    path.write_bytes(path.read_bytes().replace(b"one", b"ONE"))  # of the same size
    store.end_run(complete=True)
    store.close()
    assert texts(path) == {"/1.png": "ONE", "/2.png": "two"}


@pytest.mark.parametrize("put_back", [True, False])
def test_something_else_in_the_csvs_place_is_left_there_and_the_results_are_safe(
    path: Path, put_back: bool
) -> None:
    write(path, [read("/0.png", "0")])
    older_copy = path.parent / "older.csv"
    if put_back:
        older_copy.write_bytes(path.read_bytes())
    store = opened(path)
    store.add([read("/1.png", "1")])
    path.write_text("a letter to my aunt")
    store.add([read("/2.png", "2")])
    with pytest.raises(OutputError, match="first line"):
        store.end_run(complete=True)
    with pytest.raises(OutputError, match=r"safe in .*journal\.sqlite.*Move .* away and run again"):
        store.close()
    assert path.read_text() == "a letter to my aunt"
    older_copy.rename(path) if older_copy.exists() else path.unlink()
    opened(path).close()
    assert texts(path) == {"/0.png": "0", "/1.png": "1", "/2.png": "2"}


# -- who only looks, and two runs


def test_who_looks_sees_what_a_run_would_and_writes_nothing(path: Path) -> None:
    write(path, [read("/a.pdf", "", "error:locked: x"), read("/b.png", "old")])
    store = opened(path)
    store.add([read("/a.pdf#page=1", "1"), read("/b.png", "new")])
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    seen = Store.preview(path, SETTINGS)
    assert (seen.count, seen.has("/a.pdf"), list(seen.documents())) == (2, False, ["/b.png", "/a.pdf"])
    assert seen.result("/b.png").text == "new"  # type: ignore[union-attr]
    seen.remember_file("/b.png", 1, 1, "c")
    seen.plan(["/b.png"])
    seen.drop(["/b.png"])
    seen.begin_run()
    seen.end_run(complete=True)
    with pytest.raises(OutputError, match="looked at only"):
        seen.add([read("/c.png")])
    seen.close()
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before
    store.close()
    assert Store.preview(path.parent / "none.csv", SETTINGS).count == 0
    assert sorted(os.listdir(path.parent)) == ["r.csv", "r.csv.journal.sqlite"]


def test_who_looks_needs_no_right_to_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, [read("/a.png", "text")])
    monkeypatch.setattr(os, "access", lambda *_: False)
    for time in (None, 1e9):  # the store as it is, and a copy
        if time is not None:
            os.utime(path, (time, time))
        path.parent.chmod(0o555)
        try:
            with Store.preview(path, SETTINGS) as store:
                assert store.result("/a.png").text == "text"  # type: ignore[union-attr]
        finally:
            path.parent.chmod(0o755)


def test_a_store_opened_by_a_run_may_be_closed_twice_and_answers_no_more(path: Path) -> None:
    store = opened(path)
    store.close()
    store.close()
    with pytest.raises(OutputError):
        store.has("/a.png")


def test_a_second_run_hears_who_is_at_it_also_through_a_link(path: Path) -> None:
    (path.parent / "link.csv").symlink_to("r.csv")
    with opened(path):
        assert running_on(str(path.parent / "link.csv")) == os.getpid()
        with pytest.raises(OutputBusyError, match=f"process {os.getpid()}"):
            opened(path.parent / "link.csv")
    assert running_on(str(path)) is None


def test_a_lock_file_of_a_dead_run_refuses_nobody_and_its_number_does_not_count(path: Path) -> None:
    lock = Path(lock_path(str(path)))
    lock.write_text(f"{os.getppid()}\n")  # is another process's by now
    assert running_on(str(path)) is None
    opened(path).close()
    assert not lock.exists()


def test_a_lock_that_is_another_runs_by_now_is_left_to_it(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    first = Lock(path, "it", "--output")
    os.unlink(path)
    second = Lock(path, "it", "--output")
    first.release()
    with pytest.raises(OutputBusyError):
        Lock(path, "it", "--output")
    second.release()
    assert not os.path.exists(path)


def test_no_csv_is_made_of_a_folder_or_a_device(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        opened(tmp_path)
    with pytest.raises(OutputError, match="not an ordinary file"):
        opened(Path("/dev/null"))


def test_part_files_follow_no_links(path: Path) -> None:
    write(path, [read("/a.png", "old")])
    target = path.parent / "precious"
    target.write_text("precious")
    real = os.replace
    with pytest.MonkeyPatch.context() as patch:
        parts: list[str] = []
        patch.setattr(os, "replace", lambda part, to: (parts.append(part), real(part, to)))
        write(path, [read("/a.png", "new")])
    os.symlink(target, parts[0])
    write(path, [read("/a.png", "newer")])
    assert (target.read_text(), path.is_symlink()) == ("precious", False)
