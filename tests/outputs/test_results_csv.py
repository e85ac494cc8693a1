"""The table of results survives whatever happens to a run, and is read by everyone as it was written."""

import csv
import errno
import io
import os
from pathlib import Path

import pytest

from mlx_chandra.errors import DiskFullError, OutputBusyError, OutputError, UsageError
from mlx_chandra.outputs.results_csv import ResultsFile, Row, Start, stored
from mlx_chandra.outputs.rows import real_path, shown_path

TEXTS = [
    "plain",
    "",
    'quotes " and "" and ",',
    "lines\nand\r\nmore\rlines\n",
    "commas, semicolons; tabs\t| pipes",
    "<p>äöü 漢字 \N{CAT FACE} ‮</p>",
    "=1+1",
    " spaces ",
    "NA",
    "x" * 200_000,
    "'single' \\ back\\slash \\n",
    "/a.png,ok,this looks like a row",
    "\u2028\u0085\ufeff",
]


def read(path: Path) -> list[list[str]]:
    csv.field_size_limit(1 << 30)
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file, strict=True))


def write(path: Path, rows: list[Row], start: Start = Start.FRESH) -> None:
    with ResultsFile(path, start) as results:
        results.append(rows)


def some_rows() -> list[Row]:
    return [Row(f'/pages/{number}, "é".png', "ok", text) for number, text in enumerate(TEXTS)]


def test_every_text_is_read_back_by_pythons_csv_as_it_was(tmp_path: Path) -> None:
    write(tmp_path / "r.csv", some_rows())
    rows = read(tmp_path / "r.csv")
    assert rows[0] == ["image_path", "status", "ocr_text"]
    assert rows[1:] == [[row.image_path, row.status, row.text] for row in some_rows()]


def test_rows_end_as_the_standard_says(tmp_path: Path) -> None:
    write(tmp_path / "r.csv", [Row("/a.png", "ok", "one\ntwo")])
    assert (tmp_path / "r.csv").read_bytes() == b'image_path,status,ocr_text\r\n/a.png,ok,"one\ntwo"\r\n'


def test_what_no_reader_takes_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "r.csv", [Row("/a.png", "ok", "a\0b\ud800c")])
    assert read(tmp_path / "r.csv")[1][2] == "a\ufffdb\ufffdc"


def test_a_status_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "r.csv", [Row("/a.png", "error:unreadable: two\n lines", "")])
    assert read(tmp_path / "r.csv")[1][1] == "error:unreadable: two lines"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"/plain.png", "/plain.png"),
        (b"/bytes\xff\xfe.png", "/bytes\\xff\\xfe.png"),
        (b"/literal\\xff.png", "/literal\\x5cxff.png"),
        (b"/back\\slash\\n.png", "/back\\slash\\n.png"),
        (b"/\\\xff.png", "/\\\\xff.png"),
        ("/ä\n😀.png".encode(), "/ä\n😀.png"),
    ],
)
def test_paths_are_shown_as_utf8_and_lead_back_to_the_file(raw: bytes, shown: str) -> None:
    path = os.fsdecode(raw)
    assert shown_path(path) == shown
    shown.encode()
    assert os.fsencode(real_path(shown)) == raw


def test_no_two_paths_are_shown_alike() -> None:
    raws = [b"\xff", b"\\xff", b"\\x5cxff", b"\\\\xff", b"\\\xff", b"\\x5c\xff", b"\\x5c\\xff"]
    assert len({shown_path(os.fsdecode(raw)) for raw in raws}) == len(raws)


def test_pages_of_earlier_runs_are_known_again_by_any_name(tmp_path: Path) -> None:
    paths = [os.fsdecode(raw) for raw in (b"/a.png", b"/\xff.png", b"/\\xff.png", '/ä,"\n.png'.encode())]
    write(tmp_path / "r.csv", [Row(path, "ok", "text") for path in paths])
    with ResultsFile(tmp_path / "r.csv", Start.RESUME) as results:
        assert all(path in results and results.was_done(path) for path in paths)
        assert "/b.png" not in results


def test_a_page_gets_one_row_only(tmp_path: Path) -> None:
    with ResultsFile(tmp_path / "r.csv") as results:
        results.append([Row("/a.png", "ok", "1"), Row("/a.png", "ok", "2")])
        results.append([Row("/a.png", "ok", "3")])
        assert not results.was_done("/a.png")
    assert read(tmp_path / "r.csv")[1:] == [["/a.png", "ok", "1"]]


def test_a_table_torn_at_any_byte_is_gone_on_with(tmp_path: Path) -> None:
    rows = [
        Row("/a.png", "ok", 'one "two"\nthree'),
        Row("/b\n.png", "error:empty", ""),
        Row("/c.png", "ok", '"\r\n",'),
    ]
    write(tmp_path / "whole.csv", rows)
    whole = (tmp_path / "whole.csv").read_bytes()
    ends = [len(whole)]
    for count in (2, 1, 0):
        write(tmp_path / f"{count}.csv", rows[:count])
        ends.append((tmp_path / f"{count}.csv").stat().st_size)
    path = tmp_path / "torn.csv"
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        with ResultsFile(path, Start.RESUME) as results:
            known = [row.image_path in results for row in rows]
            results.append(rows)
        assert known == [length >= end for end in reversed(ends[:3])]
        assert path.read_bytes() == whole


def test_a_tail_of_zeros_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    write(path, [Row("/a.png", "ok", "one")])
    whole = path.read_bytes()
    for tail in (b"\0" * 4096, b'/b.png,ok,"so far' + b"\0" * 100, b"/b.png,ok,so\0far\r\n"):
        path.write_bytes(whole + tail)
        with ResultsFile(path, Start.RESUME) as results:
            assert "/a.png" in results
            assert "/b.png" not in results
        assert path.read_bytes() == whole


def test_a_table_that_a_spreadsheet_saved_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(b'\xef\xbb\xbf"image_path","status","ocr_text"\n"/a.png","ok","one"\n')
    write(path, [Row("/a.png", "ok", "again"), Row("/b.png", "ok", "two")], Start.RESUME)
    with open(path, encoding="utf-8-sig", newline="") as file:
        assert list(csv.reader(file))[1:] == [["/a.png", "ok", "one"], ["/b.png", "ok", "two"]]


@pytest.mark.parametrize("start", list(Start))
@pytest.mark.parametrize(
    "content", ["name,price\r\ntea,2\r\n", "just text", "image_path,status,ocr_text,more\r\n"]
)
def test_a_file_that_is_something_else_is_left_alone(tmp_path: Path, content: str, start: Start) -> None:
    (tmp_path / "r.csv").write_bytes(content.encode())
    with pytest.raises(OutputError, match="first line"):
        ResultsFile(tmp_path / "r.csv", start)
    assert (tmp_path / "r.csv").read_bytes() == content.encode()
    assert os.listdir(tmp_path) == ["r.csv"]


def test_a_table_damaged_in_its_middle_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    write(path, [Row(f"/{number}.png", "ok", "some text") for number in range(9)])
    for damage in (b'/4.png,ok,"some text', b"/4.png,ok", b"/4.png,ok,a,b,c", b'/4.p"ng,ok,x'):
        damaged = path.read_bytes().replace(b"/4.png,ok,some text", damage)
        (tmp_path / "d.csv").write_bytes(damaged)
        with pytest.raises(OutputError, match="damaged"):
            ResultsFile(tmp_path / "d.csv", Start.RESUME)
        assert (tmp_path / "d.csv").read_bytes() == damaged


def test_results_are_not_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    write(path, [Row("/a.png", "ok", "one")])
    with pytest.raises(UsageError, match="1 pages") as caught:
        ResultsFile(path)
    assert "--resume" in caught.value.remedy
    write(path, [Row("/b.png", "ok", "two")], Start.OVERWRITE)
    assert read(path)[1:] == [["/b.png", "ok", "two"]]


def test_an_empty_table_is_begun_without_being_asked(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    write(path, [])
    write(path, [Row("/a.png", "ok", "one")])
    assert len(read(path)) == 2


def retry_table(path: Path) -> None:
    statuses = ["ok", "error:empty", "error:truncated", "ok", "error:missing: there is no such file"]
    write(path, [Row(f"/{number}.png", status, f"old {number}") for number, status in enumerate(statuses)])


def test_rows_done_again_stand_in_their_old_places(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    retry_table(path)
    with ResultsFile(path, Start.RETRY) as results:
        assert ["/0.png" in results, "/1.png" in results, "/4.png" in results] == [True, False, False]
        results.append(
            [Row("/4.png", "ok", "new 4"), Row("/9.png", "ok", "new 9"), Row("/1.png", "ok", "new 1")]
        )
    rows = [(row[0], row[1], row[2]) for row in read(path)[1:]]
    assert rows == [
        ("/0.png", "ok", "old 0"),
        ("/1.png", "ok", "new 1"),
        ("/2.png", "error:truncated", "old 2"),
        ("/3.png", "ok", "old 3"),
        ("/4.png", "ok", "new 4"),
        ("/9.png", "ok", "new 9"),
    ]
    assert os.listdir(tmp_path) == ["r.csv"]


def test_a_documents_error_row_goes_when_its_pages_come(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    write(path, [Row("/a.pdf", "error:locked: x", ""), Row("/b.pdf", "error:locked: x", "")])
    write(path, [Row("/a.pdf#page=1", "ok", "1"), Row("/a.pdf#page=2", "ok", "2")], Start.RETRY)
    assert [row[0] for row in read(path)[1:]] == ["/b.pdf", "/a.pdf#page=1", "/a.pdf#page=2"]
    write(path, [Row("/b.pdf#page=1", "ok", "1")], Start.RESUME)
    assert "/b.pdf" in [row[0] for row in read(path)[1:]]


def test_a_documents_error_row_goes_also_when_the_run_is_killed_in_between(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    write(path, [Row("/a.pdf", "error:locked: x", "")])
    killed = ResultsFile(path, Start.RETRY)
    killed.append([Row("/a.pdf#page=1", "ok", "1")])
    killed._lock.release()  # as the system does when the process dies
    with ResultsFile(path, Start.RESUME) as results:
        assert ["/a.pdf" in results, "/a.pdf#page=1" in results] == [False, True]
    assert [row[0] for row in read(path)[1:]] == ["/a.pdf#page=1"]


def test_rows_done_again_before_a_kill_are_merged_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    retry_table(path)
    before = path.read_bytes()
    killed = ResultsFile(path, Start.RETRY)
    killed.append([Row("/1.png", "ok", "new 1"), Row("/2.png", "error:empty", "")])
    assert path.read_bytes() == before
    redo = (tmp_path / ".r.csv.retry").read_bytes()
    (tmp_path / ".r.csv.retry").write_bytes(redo + b'/4.png,ok,"half a ro')
    killed._lock.release()  # what the system does when a process ends
    with ResultsFile(path, Start.RESUME) as results:
        assert "/4.png" in results
    assert [row[2] for row in read(path)[1:]] == ["old 0", "new 1", "", "old 3", "old 4"]
    assert os.listdir(tmp_path) == ["r.csv"]


def test_a_redo_file_torn_in_its_first_line_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    retry_table(path)
    before = path.read_bytes()
    (tmp_path / ".r.csv.retry").write_bytes(b"image_pa")
    with ResultsFile(path, Start.RESUME):
        pass
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["r.csv"]


def test_starting_anew_forgets_the_redo_file(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    retry_table(path)
    (tmp_path / ".r.csv.retry").write_bytes(path.read_bytes())
    write(path, [Row("/1.png", "ok", "anew")], Start.OVERWRITE)
    write(path, [], Start.RESUME)
    assert read(path)[1:] == [["/1.png", "ok", "anew"]]


def test_a_second_run_is_told_who_is_at_it_and_stops(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    with ResultsFile(path), pytest.raises(OutputBusyError, match=f"process {os.getpid()}"):
        ResultsFile(path, Start.RESUME)
    write(path, [], Start.RESUME)


def test_a_link_to_the_table_is_the_same_table(tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to("r.csv")
    with ResultsFile(tmp_path / "r.csv"), pytest.raises(OutputBusyError):
        ResultsFile(tmp_path / "link.csv", Start.RESUME)


def test_a_lock_of_a_dead_run_refuses_nobody(tmp_path: Path) -> None:
    (tmp_path / ".r.csv.lock").write_text("1\n")
    write(tmp_path / "r.csv", [Row("/a.png", "ok", "")])
    assert os.listdir(tmp_path) == ["r.csv"]


def test_no_output_is_made_of_a_folder_or_a_device(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        ResultsFile(tmp_path)
    with pytest.raises(OutputError, match="not an ordinary file"):
        ResultsFile("/dev/null")


def test_the_outputs_folder_is_made(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "down" / "r.csv", [Row("/a.png", "ok", "")])
    assert len(read(tmp_path / "deep" / "down" / "r.csv")) == 2


def test_a_row_that_finds_no_room_leaves_the_table_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.csv"
    results = ResultsFile(path)
    results.append([Row("/a.png", "ok", "one")])
    before = path.read_bytes()

    class Full(io.FileIO):
        def write(self, data: object) -> int:
            if self.tell() > len(before):
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(bytes(data)[:10])  # type: ignore[call-overload]

    full = Full(path, "r+b")
    full.seek(len(before))
    monkeypatch.setattr(results._table, "_file", full)
    with pytest.raises(DiskFullError, match="No space left"):
        results.append([Row("/b.png", "ok", "two")])
    assert path.read_bytes() == before
    results.close()


@pytest.mark.parity
def test_pandas_reads_every_text_back(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    write(tmp_path / "r.csv", some_rows())
    table = pandas.read_csv(tmp_path / "r.csv", keep_default_na=False)
    assert list(table.columns) == ["image_path", "status", "ocr_text"]
    assert table.values.tolist() == [[row.image_path, row.status, row.text] for row in some_rows()]


@pytest.mark.parity
def test_duckdb_reads_every_text_back(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    write(tmp_path / "r.csv", some_rows())
    found = duckdb.sql(
        f"select image_path, status, coalesce(ocr_text, '') from '{tmp_path / 'r.csv'}'"
    ).fetchall()
    assert found == [(row.image_path, row.status, row.text) for row in some_rows()]


def test_a_pages_row_can_be_asked_for_whenever_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    odd = 'many\r\nlines, "quotes" and ü'
    with ResultsFile(path) as results:
        results.append([Row("/a", "ok", odd), Row("/b", "error:truncated", "half"), Row("/c", "error:x", "")])
        assert results.row("/a") == Row("/a", "ok", odd)
    with ResultsFile(path, Start.RETRY) as results:
        assert results.row("/b") == Row("/b", "error:truncated", "half")
        results.append([Row("/d", "ok", "new"), Row("/b", "ok", "whole"), Row("/e\udce9", "ok", "e")])
        results.append([Row("/c", "ok", odd)])
        for row in (
            Row("/a", "ok", odd),
            Row("/b", "ok", "whole"),
            Row("/c", "ok", odd),
            Row("/d", "ok", "new"),
        ):
            assert results.row(row.image_path) == row
        assert results.row("/e\udce9") == Row("/e\udce9", "ok", "e")
        assert results.row("/f") is None


def test_the_row_of_a_document_whose_pages_came_is_no_more(tmp_path: Path) -> None:
    with ResultsFile(tmp_path / "r.csv") as results:
        results.append([Row("/a.pdf", "error:locked: x", "")])
    with ResultsFile(tmp_path / "r.csv", Start.RETRY) as results:
        results.append([Row("/a.pdf#page=1", "ok", "1")])
        assert results.row("/a.pdf") is None


def test_who_only_looks_sees_the_newest_rows_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    write(path, [Row("/a.pdf", "error:locked: x", ""), Row(os.fsdecode(b"/\xff.png"), "error:empty", "old")])
    killed = ResultsFile(path, Start.RETRY)
    killed.append([Row("/a.pdf#page=1", "ok", "1"), Row(os.fsdecode(b"/\xff.png"), "ok", "new")])
    with open(path, "ab") as file:
        file.write(b'/c.png,ok,"half a ro')
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    assert list(stored(path)) == [
        Row(os.fsdecode(b"/\xff.png"), "ok", "new"),
        Row("/a.pdf#page=1", "ok", "1"),
    ]
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before
    killed._lock.release()


def test_who_looks_where_no_table_is_sees_no_rows(tmp_path: Path) -> None:
    assert list(stored(tmp_path / "r.csv")) == []
    (tmp_path / "r.csv").write_bytes(b"image_pa")
    assert list(stored(tmp_path / "r.csv")) == []
    assert os.listdir(tmp_path) == ["r.csv"]
