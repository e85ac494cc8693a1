"""Rows are read back by everyone as they were written, and a torn one is not taken for damage."""

import csv
import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_chandra.errors import OutputError
from mlx_chandra.files.paths import real_path, shown_path
from mlx_chandra.store.rows import HEADER, Row, Rows, page_of, row_of
from tests.store.stores import read, rows, write

TEXTS = [
    "plain", "", 'quotes " and "" and ",', "lines\nand\r\nmore\rlines\n", "commas, semicolons; tabs\t| pipes",
    "<p>äöü 漢字 \N{CAT FACE} ‮</p>", "=1+1", " spaces ", "NA", "x" * 200_000, "'single' \\ back\\slash \\n",
    "/a.png,ok,this looks like a row", "\u2028\u0085\ufeff",
]  # fmt: skip
any_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
any_row = st.builds(row_of, any_text.filter(bool), any_text, any_text)


def parsed(folder: Path, content: bytes) -> tuple[list[Row], Rows]:
    path = folder / "parsed.csv"
    path.write_bytes(content)
    found = Rows(str(path))
    return list(found), found


@given(st.lists(any_row, max_size=6), st.sampled_from([("\r\n", 0), ("\r\n", 1), ("\n", 1)]))
def test_rows_are_read_as_they_were_written_also_when_a_spreadsheet_saved_them(
    tmp_path_factory: pytest.TempPathFactory, expected: list[Row], form: tuple[str, int]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    assert parsed(folder, HEADER + b"".join(row.encoded for row in expected))[0] == expected
    saved = io.StringIO()
    writer = csv.writer(saved, lineterminator=form[0], quoting=form[1])  # type: ignore[arg-type]
    writer.writerows([("image_path", "status", "ocr_text"), *((r.path, r.status, r.text) for r in expected)])
    found, _ = parsed(folder, b"\xef\xbb\xbf" + saved.getvalue().encode())
    assert [row.digest for row in found] == [row.digest for row in expected]


@given(st.binary(min_size=1).filter(lambda raw: b"\0" not in raw))
def test_every_path_is_shown_in_utf8_and_leads_back_to_the_file(raw: bytes) -> None:
    shown = shown_path(os.fsdecode(raw))
    shown.encode()
    assert os.fsencode(real_path(shown)) == raw


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"/bytes\xff\xfe.png", "/bytes\\xff\\xfe.png"),
        (b"/literal\\xff.png", "/literal\\x5cxff.png"),
        (b"/\\\xff.png", "/\\\\xff.png"),
        ("/ä\n😀.png".encode(), "/ä\n😀.png"),
    ],
)
def test_paths_are_shown_so(raw: bytes, shown: str) -> None:
    assert shown_path(os.fsdecode(raw)) == shown


def test_every_text_is_read_back_by_pythons_csv(tmp_path: Path) -> None:
    write(tmp_path / "r.csv", [read(f"/{n}.png", text) for n, text in enumerate(TEXTS)])
    assert rows(tmp_path / "r.csv") == [(f"/{n}.png", "ok", text) for n, text in enumerate(TEXTS)]


@pytest.mark.parity
def test_pandas_and_duckdb_read_every_text_back(tmp_path: Path) -> None:
    pandas, duckdb = pytest.importorskip("pandas"), pytest.importorskip("duckdb")
    path = tmp_path / "r.csv"
    write(path, [read(f"/{n}.png", text) for n, text in enumerate(TEXTS)])
    expected = [(f"/{n}.png", "ok", text) for n, text in enumerate(TEXTS)]
    table = pandas.read_csv(path, keep_default_na=False)
    assert [tuple(row) for row in table.values.tolist()] == expected
    found = duckdb.sql(f"select image_path, status, coalesce(ocr_text, '') from '{path}'").fetchall()
    assert found == expected


def test_rows_are_as_the_standard_says_without_what_no_reader_takes(tmp_path: Path) -> None:
    write(tmp_path / "r.csv", [read("/a.png", "one\ntwo\0\ud800", "error:unreadable: two\n lines")])
    expected = '/a.png,error:unreadable: two lines,"one\ntwo\ufffd\ufffd"\r\n'
    assert (tmp_path / "r.csv").read_bytes() == HEADER + expected.encode()


def test_a_files_pages_are_known_by_their_names() -> None:
    assert page_of("/a.pdf#page=12") == ("/a.pdf", 12)
    assert page_of("/a#page=3.png") == ("/a#page=3.png", 0)
    assert page_of("/a.pdf#page=0") == ("/a.pdf#page=0", 0)


WHOLE = HEADER + b'/a.png,ok,"one ""two""\nthree"\r\n/b.png,error:empty,\r\n'


@pytest.mark.parametrize(
    "tail",
    [
        b'/x.png,ok,"<pre>\n/data/a.png,ok,text of a\n/data/b.png,ok,te',  # words of a page
        b'/x.png,ok,"' + b"word " * 1_000_000,
        b"\0" * 4096,
        b'/b.png,ok,"so far' + b"\0" * 100,
        b"/b.png,ok,so\0far\r\n",
        b'"/half, a',
        b"/x.png,ok,text\r",
    ],
)
def test_a_torn_tail_is_no_damage(tmp_path: Path, tail: bytes) -> None:
    found, file = parsed(tmp_path, WHOLE + tail)
    assert [row.path for row in found] == ["/a.png", "/b.png"]
    assert (file.end, file.torn) == (len(WHOLE), True)


@pytest.mark.parametrize(
    "damage", [b'/4.png,ok,"some text', b"/4.png,ok", b"/4.png,ok,a,b,c", b'/4.p"ng,ok,x', b"4.png;ok;x"]
)
def test_damage_before_the_last_row_is_an_error(tmp_path: Path, damage: bytes) -> None:
    more = b"".join(b"%d.png,ok,some text\r\n" % number for number in range(9))
    with pytest.raises(OutputError, match="damaged"):
        parsed(tmp_path, HEADER + more.replace(b"4.png,ok,some text", damage))


@pytest.mark.parametrize("content", [b"name,price\r\ntea,2\r\n", b"just text", HEADER[:-2] + b",more\r\n"])
def test_a_foreign_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(OutputError, match="first line"):
        parsed(tmp_path, content)
