"""What a run would do is known without doing it, and what it takes follows from what was measured."""

from pathlib import Path

import pytest
from PIL import Image

from mlx_chandra.documents.discover import Folder
from mlx_chandra.documents.pages import Reading
from mlx_chandra.documents.selection import PageSelection
from mlx_chandra.done import ByPath
from mlx_chandra.forecast import (
    AnswerGuess,
    Foreseen,
    ImaginedTable,
    Sized,
    Trouble,
    Writing,
    disk_bytes,
    duration,
    foresee,
)
from mlx_chandra.outputs.results_csv import Row
from mlx_chandra.speeds import BenchSpeed, Known, RunSpeed
from tests.documents.pdf_files import locked_pdf, make_pdf
from tests.documents.test_frames import frames, saved

ANSWER = AnswerGuess(tokens=100, bytes=400, origin="")
RUN = RunSpeed(None, 8, 1000, prompt_seconds=0.01, answer_seconds=0.1, answer_tokens=100, day="2026-11-02")
BENCH = BenchSpeed(8, prompt_seconds=0.02, steps=[(1, 0.5), (8, 1.6)], day="2026-11-01")


def look(folder: Path, done: list[str] | None = None, reading: Reading | None = None) -> dict[str, Foreseen]:
    table = ImaginedTable(Row(str(folder / name), "ok", "") for name in done or [])
    found = foresee(Folder.at(str(folder)), table, ByPath(), reading or Reading())
    return {Path(document.path).name: document for document in found}


def test_documents_are_looked_at_as_a_run_would(tmp_path: Path) -> None:
    make_pdf(tmp_path / "a.pdf", "1 0 0", "0 1 0", "0 0 1")
    saved(tmp_path / "b.tif", frames(2, (40, 30)))
    Image.new("RGB", (60, 20)).save(tmp_path / "c.JPG")
    found = look(tmp_path, reading=Reading(PageSelection.parse("1-2")))
    assert {name: (one.kind, one.pages, len(one.sized)) for name, one in found.items()} == {
        "a.pdf": ("PDF", 2, 2), "b.tif": ("TIFF", 2, 2), "c.JPG": ("JPEG", 1, 1),
    }  # fmt: skip
    assert found["b.tif"].sized == [Sized(f"{tmp_path}/b.tif#page={n}", (30, 40)) for n in (1, 2)]
    assert found["c.JPG"].sized == [Sized(f"{tmp_path}/c.JPG", (20, 60))]


def test_pages_that_are_done_are_counted_and_not_looked_at(tmp_path: Path) -> None:
    make_pdf(tmp_path / "a.pdf", "1 0 0", "0 1 0", "0 0 1")
    (tmp_path / "b.png").write_bytes(b"damaged since")
    found = look(tmp_path, ["a.pdf#page=2", "b.png"])
    assert (found["a.pdf"].pages, found["a.pdf"].done, len(found["a.pdf"].sized)) == (3, 1, 2)
    assert (found["b.png"].pages, found["b.png"].done, found["b.png"].troubles) == (1, 1, [])


def test_what_cannot_be_read_is_said_as_the_results_will_say_it(tmp_path: Path) -> None:
    (tmp_path / "locked.pdf").write_bytes(locked_pdf("secret"))
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    Image.new("RGB", (200, 100)).save(tmp_path / "huge.png")
    found = look(tmp_path, reading=Reading(max_pixels=1000))
    assert {name: one.troubles[0].status.split(":")[1] for name, one in found.items()} == {
        "locked.pdf": "locked", "empty.png": "unreadable", "gone.png": "broken-link", "huge.png": "too-large",
    }  # fmt: skip
    why = "error:locked: the PDF is locked with a password; --password takes it"
    assert found["locked.pdf"].troubles == [Trouble(str(tmp_path / "locked.pdf"), why)]


def test_a_long_run_says_how_long_the_next_one_takes() -> None:
    found = duration(Known([RUN], BENCH), None, pages=10, prompt_tokens=2000, answer=ANSWER)
    assert found is not None
    assert found.seconds == pytest.approx(2000 * 0.01 + 10 * 100 * 0.1)
    assert found.origin == "a run of 1,000 pages on 2026-11-02"


def test_a_run_too_short_to_fill_its_slots_again_gives_way_to_the_bench() -> None:
    short = RunSpeed(None, 8, 10, 0.01, 0.1, 100, "2026-11-02")
    with_bench = duration(Known([short], BENCH), None, 10, 2000, ANSWER)
    alone = duration(Known([short]), None, 10, 2000, ANSWER)
    assert with_bench is not None
    assert alone is not None
    assert with_bench.seconds == pytest.approx(2000 * 0.02 + 10 * 100 * 1.6 / 8)
    assert (with_bench.origin, alone.origin) == (
        "`mlx-chandra bench` on 2026-11-01", "a run of 10 pages on 2026-11-02",
    )  # fmt: skip


def test_a_run_with_another_batch_size_says_nothing() -> None:
    assert duration(Known([RUN]), 1, 10, 2000, ANSWER) is None
    found = duration(Known([RUN], BENCH), 1, 10, 2000, ANSWER)
    assert found is not None
    assert found.seconds == pytest.approx(2000 * 0.02 + 10 * 100 * 0.5)


def test_the_disk_takes_the_table_texts_and_each_format() -> None:
    bare = disk_bytes(Writing(False, ()), 5, 10, 60, ANSWER)
    assert bare == 10 * (60 + 20 + 400)
    assert disk_bytes(Writing(True, ()), 5, 10, 60, ANSWER) == bare + 10 * 400
    one = disk_bytes(Writing(False, ["html"]), 5, 10, 60, ANSWER)
    two = disk_bytes(Writing(False, ["html", "json"]), 5, 10, 60, ANSWER)
    assert bare < one < two
