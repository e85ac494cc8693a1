"""The measurement of starvation at toy size: real files through the real pipeline into a small made model."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import starvation
from benchmarks.clocked_engine import Engine, made_engine
from benchmarks.page_files import write_pages
from benchmarks.starvation import Settings, main, pages_of, parse, read, settings_from
from benchmarks.workloads import Workload, plan
from mlx_chandra.processing.processor import PageInputs, Processor

SETTINGS = Settings(Workload.W1, pages=6, batch=2, workers=2, scale=1, max_size=1024, toy=True)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return made_engine(toy=True, batch=SETTINGS.batch, max_size=SETTINGS.max_size)


def test_page_files_are_jpegs_of_the_shapes_asked_for_and_no_two_are_alike(tmp_path: Path) -> None:
    paths = write_pages(tmp_path, [(128, 96), (128, 96), (96, 128)], scale=2)
    pictures = [Image.open(path) for path in paths]
    assert [(picture.format, picture.size) for picture in pictures] == [
        ("JPEG", (192, 256)), ("JPEG", (192, 256)), ("JPEG", (256, 192)),
    ]  # fmt: skip
    assert len({path.read_bytes() for path in paths}) == 3
    assert all(min(picture.convert("L").getextrema()) < 100 for picture in pictures)  # something is written


def test_every_page_is_read_and_answered_at_its_length(tmp_path: Path, engine: Engine) -> None:
    pages = pages_of(SETTINGS, tmp_path)
    times = read(SETTINGS, engine, pages, tmp_path)
    assert times.pages == 6
    assert times.seconds > times.first_page > 0
    assert times.cpu_seconds > 0
    assert all(work.wall > 0 for work in times.workers.values())
    texts = [path.read_text(encoding="utf-8").split() for path in (tmp_path / "texts").rglob("*.txt")]
    lengths = [page.output_tokens for page in plan(Workload.W1, 6, toy=True)]
    assert sorted(len(text) for text in texts) == sorted(lengths)


def test_an_engine_that_waits_for_its_pages_is_seen_to_starve(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, slow = Processor.prepare, 0.4  # seconds; more than the engine needs for a page

    def slowly(*arguments: object) -> PageInputs:
        time.sleep(slow)
        return prepare(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Processor, "prepare", slowly)
    times = read(replace(SETTINGS, workers=1), engine, pages_of(SETTINGS, tmp_path), tmp_path)
    assert times.first_page >= slow
    assert times.idle > 0.1
    assert times.no_page_ready > slow
    assert times.ready_least == 0
    assert times.workers["prepare"].wall >= slow > times.workers["prepare"].cpu


def test_inputs_made_beforehand_are_given_in_their_order(tmp_path: Path, engine: Engine) -> None:
    pages, keep = pages_of(SETTINGS, tmp_path), list[PageInputs]()
    (tmp_path / "run").mkdir()
    read(SETTINGS, engine, pages, tmp_path / "run", keep)
    again = list[PageInputs]()
    (tmp_path / "again").mkdir()
    read(SETTINGS, engine, pages, tmp_path / "again", again, keep)
    assert {id(page) for page in again} == {id(page) for page in keep}
    assert len({page.image.pixels.tobytes() for page in keep}) == 6


def test_a_page_that_cannot_be_read_makes_the_figures_void(tmp_path: Path, engine: Engine) -> None:
    pages = pages_of(SETTINGS, tmp_path)
    pages.paths[3].write_bytes(b"")
    with pytest.raises(SystemExit, match="Of 6 pages 5 came to the engine"):
        read(SETTINGS, engine, pages, tmp_path)


def test_the_figures_are_said_and_kept_with_what_they_were_measured_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "starvation.json"
    asked = ["--workload", "W1", "--toy", "--pages", "4", "--batch", "2", "--workers", "1", "--compare"]
    status = main([*asked, "--folder", str(tmp_path), "--output", str(output)])
    kept = json.loads(output.read_text(encoding="utf-8"))
    assert kept["settings"]["batch"] == 2
    assert kept["machine"]["cores"] >= 1
    assert [run["pages"] for run in kept["runs"].values()] == [4, 4]
    assert status == (kept["runs"]["from files"]["idle"] >= 0.03)
    said = capsys.readouterr().out
    assert "from files: 4 pages in " in said
    assert "prepared: 4 pages in " in said
    assert list(tmp_path.iterdir()) == [output]


def test_the_example_pages_are_no_more_than_there_are() -> None:
    settings = settings_from(parse(["--pages", "1000", "--toy"]))
    assert (settings.pages, settings.toy, settings.scale) == (len(starvation.example_pages()), False, 1)


def test_workers_are_as_many_as_the_program_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    assert settings_from(parse([])).workers == 8
    assert settings_from(parse(["--workers", "3"])).workers == 3
