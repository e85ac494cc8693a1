"""A document's files are those that the authors' own client writes, and whole."""

import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from mlx_chandra.documents.page import Page, PageResult
from mlx_chandra.errors import OutputError, PageError
from mlx_chandra.export.conversion import OpenPage
from mlx_chandra.export.document import Exported, export_document
from mlx_chandra.export.parquet import COLUMNS
from mlx_chandra.export.settings import ExportSettings, Format
from tests.export.pages import failed, result

PHOTO = '<div data-bbox="0 0 1000 1000" data-label="Image"><img alt=""/></div>'
TEXTS = [
    '<div data-bbox="0 0 500 500" data-label="Text"><p>one</p></div>',
    '<div data-bbox="0 0 500 500" data-label="Figure"><img alt="two"/></div>'
    '<div data-bbox="500 0 1000 500" data-label="Table">'
    "<table><tbody><tr><td>2</td></tr></tbody></table></div>",
]


COLOURS = ("red", "blue", "lime")


def picture(page: Page) -> Image.Image:
    return Image.new("RGB", (20, 40), COLOURS[(page.number or 1) - 1])


def export(
    folder: Path,
    pages: Iterable[PageResult],
    *formats: Format,
    paginate: bool = False,
    open_page: OpenPage = picture,
) -> Exported:
    settings = ExportSettings(str(folder), frozenset(formats), paginate=paginate)
    return export_document("/in/a.pdf", "a", pages, settings, open_page)


def write(folder: Path, pages: Iterable[PageResult], *formats: Format, paginate: bool = False) -> Path:
    return folder / export(folder, pages, *formats, paginate=paginate).name


def metadata(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "a_metadata.json").read_text())
    return found


def by_package(folder: Path, texts: list[str], paginate: bool) -> Path:
    """What the authors' own client writes for pages with these answers."""
    from chandra.model.schema import BatchOutputItem
    from chandra.output import extract_images, parse_chunks, parse_html, parse_markdown
    from chandra.scripts.cli import save_merged_output

    results = []
    for number, text in enumerate(texts, start=1):
        image = picture(result(text, number).page)
        chunks = parse_chunks(text, image)
        results.append(
            BatchOutputItem(
                markdown=parse_markdown(text),
                html=parse_html(text),
                chunks=chunks,
                raw=text,
                page_box=[0, 0, *image.size],
                token_count=10 * number,
                images=extract_images(text, chunks, image),
                error=False,
            )
        )
    save_merged_output(folder, "a.pdf", results, paginate_output=paginate)
    return folder / "a"


@pytest.mark.parametrize("paginate", [False, True])
def test_the_files_are_those_of_the_authors_client(tmp_path: Path, paginate: bool) -> None:
    theirs = by_package(tmp_path / "theirs", TEXTS, paginate)
    pages = [result(text, number) for number, text in enumerate(TEXTS, start=1)]
    ours = write(tmp_path / "ours", pages, Format.HTML, Format.MARKDOWN, paginate=paginate)
    assert sorted(os.listdir(ours)) == sorted(os.listdir(theirs))
    for name in os.listdir(theirs):
        if name.endswith(".webp"):
            assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    said, expected = metadata(ours), metadata(theirs)
    for place, page in enumerate(expected.pop("pages")):  # type: ignore[call-overload, var-annotated, arg-type]
        assert page.items() <= said["pages"][place].items()  # type: ignore[index]
    assert expected.items() <= said.items()
    for name in ("a.md", "a.html"):  # theirs glues pages together where it doesn't mark them
        own = (ours / name).read_text().removeprefix('<meta charset="utf-8">\n')
        assert own.split() == (theirs / name).read_text().replace("/>", ">").split() or not paginate
        assert "".join(own.split()) == "".join((theirs / name).read_text().replace("/>", ">").split())


def test_pages_are_apart_in_markdown_and_text(tmp_path: Path) -> None:
    folder = write(
        tmp_path, [result("<p>one</p>", 1), result("<h1>two</h1>", 2)], Format.MARKDOWN, Format.TEXT
    )
    assert (folder / "a.md").read_text() == "one\n\n# two"
    assert (folder / "a.txt").read_text() == "one\n\ftwo\n"


def test_the_asked_formats_are_written_and_the_metadata_lists_them(tmp_path: Path) -> None:
    folder = write(tmp_path, [result(TEXTS[0], 1)], *Format)
    names = ["a.html", "a.json", "a.md", "a.parquet", "a.txt"]
    assert sorted(os.listdir(folder)) == sorted([*names, "a_metadata.json"])
    assert metadata(folder)["files"] == names
    assert os.listdir(write(tmp_path / "none", [result(TEXTS[0], 1)])) == ["a_metadata.json"]


def test_json_says_everything_of_every_block(tmp_path: Path) -> None:
    folder = write(tmp_path, [result(TEXTS[1], 1)], Format.JSON)
    (page,) = json.loads((folder / "a.json").read_text())["pages"]
    figure, table = page.pop("blocks")
    assert page == {
        "page": 1, "path": "/in/a.pdf#page=1", "status": "ok", "finish_reason": "stop", "width": 20,
        "height": 40, "prompt_tokens": 50, "generated_tokens": 10, "model": "demo",
        "settings": {"max_tokens": 9}, "program": "mlx-chandra 1", "problems": [],
    }  # fmt: skip
    assert (folder / figure["image"]).exists()
    assert table == {
        "label": "Table", "bbox": [10, 0, 20, 20], "bbox_fractions": [0.5, 0.0, 1.0, 0.5],
        "content": "<table><tbody><tr><td>2</td></tr></tbody></table>", "image": None,
    }  # fmt: skip


def test_pages_that_failed_are_there_and_say_so(tmp_path: Path) -> None:
    pages = [
        result(TEXTS[0], 1),
        failed(2, "error:unreadable: torn"),
        result("<p>so f", 3, "error:truncated"),
    ]
    folder = write(tmp_path, pages, Format.JSON, Format.PARQUET, Format.MARKDOWN)
    statuses = ["ok", "error:unreadable: torn", "error:truncated"]
    for found in (metadata(folder), json.loads((folder / "a.json").read_text())):
        assert [page["status"] for page in found["pages"]] == statuses
        assert found["num_failed_pages"] == 2
    assert metadata(folder)["pages"][1]["token_count"] is None  # type: ignore[index]
    assert (folder / "a.md").read_text() == "one\n\nso f"
    assert table(folder).column("status").to_pylist() == statuses


def table(folder: Path):  # type: ignore[no-untyped-def]
    from pyarrow import parquet

    return parquet.read_table(io.BytesIO((folder / "a.parquet").read_bytes()))


def test_parquet_has_a_row_for_each_block_and_the_same_columns_always(tmp_path: Path) -> None:
    found = table(write(tmp_path / "1", [result(TEXTS[0], 1), result(TEXTS[1], 2)], Format.PARQUET))
    empty = table(write(tmp_path / "2", [failed(1, "error:empty")], Format.PARQUET))
    assert found.schema == empty.schema
    assert found.column_names == list(COLUMNS)
    rows = found.to_pylist()
    assert [(row["page"], row["block"], row["label"]) for row in rows] == [
        (1, 0, "Text"), (2, 0, "Figure"), (2, 1, "Table"),
    ]  # fmt: skip
    assert (rows[2]["left"], rows[2]["right_fraction"], rows[2]["text"]) == (10, 1.0, "2")


def test_pictures_of_pages_with_the_same_answer_are_kept_apart(tmp_path: Path) -> None:
    pages = [result(PHOTO, number) for number in (1, 2, 3)]
    folder = write(tmp_path, pages, Format.HTML, Format.MARKDOWN, Format.JSON)
    found = json.loads((folder / "a.json").read_text())["pages"]
    names = [page["blocks"][0]["image"] for page in found]
    assert len(set(names)) == 3
    for name, brightest in zip(names, (0, 2, 1), strict=True):
        pixel = Image.open(folder / name).convert("RGB").getpixel((5, 5))
        assert isinstance(pixel, tuple)
        assert pixel.index(max(pixel)) == brightest
        assert f'src="{name}"' in (folder / "a.html").read_text()
        assert f"({name})" in (folder / "a.md").read_text()


def test_writing_again_replaces_the_files_and_takes_away_pictures_that_are_no_more(tmp_path: Path) -> None:
    folder = write(tmp_path, [result(TEXTS[1], 1)], Format.HTML)
    (folder / "mine.webp").write_bytes(b"mine")
    write(tmp_path, [result(PHOTO, 1)], Format.HTML)
    names = sorted(name for name in os.listdir(folder) if name.endswith(".webp"))
    assert len(names) == 2
    assert "mine.webp" in names
    assert f'src="{next(n for n in names if n != "mine.webp")}"' in (folder / "a.html").read_text()


def test_metadata_comes_first_and_last_and_nothing_half_is_ever_seen(tmp_path: Path) -> None:
    replaced_paths: list[str] = []
    replaced = os.replace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", lambda part, path: (replaced_paths.append(path), replaced(part, path)))
        folder = write(tmp_path, [result(TEXTS[1], 1)], *Format)
    assert replaced_paths[0] == replaced_paths[-1] == str(folder / "a_metadata.json")
    assert {os.path.basename(path) for path in replaced_paths} == set(os.listdir(folder))


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "a" / "a.html").mkdir(parents=True)
    (tmp_path / "a" / "a_metadata.json").write_text('{"source": "/in/a.pdf"}')
    with pytest.raises(OutputError, match="can't be written"):
        write(tmp_path, [result(TEXTS[0], 1)], Format.HTML)


def test_html_of_a_page_with_a_script_holds_none(tmp_path: Path) -> None:
    pages = [result("<div><p>a</p><script>alert(1)</script><img src=x onerror=alert(2)></div>", 1)]
    folder = write(tmp_path, pages, *Format)
    for name in os.listdir(folder):
        assert b"<script" not in (folder / name).read_bytes()
        assert b"onerror" not in (folder / name).read_bytes()


def test_facts_that_no_run_remembers_are_null(tmp_path: Path) -> None:
    folder = write(tmp_path, [result(TEXTS[0], size=None, settings=None)], Format.JSON)
    (page,) = json.loads((folder / "a.json").read_text())["pages"]
    assert (page["model"], page["generated_tokens"], page["width"]) == (None, None, 20)


def test_one_page_that_cannot_be_converted_is_named_and_the_others_are_written(tmp_path: Path) -> None:
    pages = [result(TEXTS[0], 1), result(f"<p>odd</p>{'<a ' * 9000}", 2), result("<h1>last</h1>", 3)]
    found = export(tmp_path, pages, *Format)
    assert found.plain == ("/in/a.pdf#page=2",)
    assert found.problems[0].startswith("/in/a.pdf#page=2: The page couldn't be converted")
    assert (tmp_path / "a" / "a.md").read_text().startswith("one\n\nodd")
    assert (tmp_path / "a" / "a.md").read_text().endswith("# last")
    assert metadata(tmp_path / "a")["num_pages"] == 3
    assert "couldn't be converted" in metadata(tmp_path / "a")["pages"][1]["problems"][0]  # type: ignore[index]


@pytest.mark.parametrize("box", ["99999999999 0 5 5", "9" * 320 + " 0 1 1", f"0 0 {2**31} {2**63}"])
def test_a_box_with_a_long_number_keeps_no_document_from_its_files(tmp_path: Path, box: str) -> None:
    found = export(tmp_path, [result(f'<div data-bbox="{box}" data-label="Text">x</div>')], *Format)
    assert (found.plain, found.problems) == ((), ())
    (row,) = table(tmp_path / "a").to_pylist()
    assert 0 <= row["left"] <= row["right"] <= 20 or row["left"] == 20


def test_a_missing_source_leaves_the_text_and_says_what_is_missing(tmp_path: Path) -> None:
    def gone(page: Page) -> Image.Image:
        raise PageError("missing", "there is no such file")

    found = export(tmp_path, [result(TEXTS[1])], Format.TEXT, open_page=gone)
    assert found.problems == (
        "/in/a.pdf#page=1: The page couldn't be opened again, so its pictures weren't cut out: "
        "there is no such file.",
    )
    assert (tmp_path / "a" / "a.txt").read_text() == "two\n2\n"


def test_what_no_file_takes_is_replaced_in_every_format(tmp_path: Path) -> None:
    folder = write(tmp_path, [result("<p>a\0b\ud800c&#0;</p>", status="error:\udcff")], *Format)
    assert (folder / "a.txt").read_text().startswith("a\ufffdb\ufffdc")
    assert table(folder).column("status").to_pylist() == ["error:\ufffd"]


def test_an_error_on_the_way_leaves_the_files_as_they_were(tmp_path: Path) -> None:
    folder = write(tmp_path, [result("<p>old</p>")], *Format)
    before = {name: (folder / name).read_bytes() for name in os.listdir(folder)}

    def breaking() -> Iterator[PageResult]:
        yield result("<p>new</p>")
        raise OutputError("the store is gone")

    with pytest.raises(OutputError, match="gone"):
        export(tmp_path, breaking(), *Format)
    assert set(os.listdir(folder)) == set(before)
    changed = {name for name in before if (folder / name).read_bytes() != before[name]}
    assert changed == {"a_metadata.json"}
    assert metadata(folder) == {**json.loads(before["a_metadata.json"]), "complete": False}


def test_a_document_of_many_pages_has_row_groups_and_one_json(tmp_path: Path) -> None:
    pages = (result(TEXTS[0] * 50, number) for number in range(1, 101))
    folder = write(tmp_path, pages, Format.JSON, Format.PARQUET)
    assert table(folder).num_rows == 5000
    assert [page["page"] for page in json.loads((folder / "a.json").read_text())["pages"]] == [*range(1, 101)]
