"""The way of the pages, in one process, with a scripted reader: statuses, room, stopping, trouble."""

import csv
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from mlx_chandra.attempts import PageResult
from mlx_chandra.documents.discover import Folder
from mlx_chandra.documents.page import Document
from mlx_chandra.engine.responses import GenerationResponse, PromptResponse
from mlx_chandra.errors import DiskFullError, MlxChandraError
from mlx_chandra.outputs.results_csv import ResultsFile, Row, Start
from mlx_chandra.pipeline import Settings, Snapshot, Summary, run
from tests import fakes
from tests.fakes import Answer, FakeReader, Script


class Watcher:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.seen: list[Snapshot] = []
        self.warnings: list[str] = []
        self.pages: list[PageResult] = []

    def update(self, now: Snapshot) -> None:
        self.seen.append(now)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def finished(self, pages: Sequence[PageResult]) -> None:
        self.pages.extend(pages)


def make_pages(folder: Path, count: int) -> list[str]:
    """Pages whose top left pixel says their number: colours 000001, 000002, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:03}.png" for number in range(1, count + 1)]
    for number, name in enumerate(names, start=1):
        Image.new("RGB", (8, 8), (0, number // 256, number % 256)).save(folder / name)
    return names


def rows(path: Path) -> dict[str, tuple[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        found = [(Path(row[0]).name, (row[1], row[2])) for row in list(csv.reader(file))[1:]]
    assert len({name for name, _ in found}) == len(found), "a page has two rows"
    return dict(found)


def go(
    folder: Path,
    reader: FakeReader,
    *,
    start: Start = Start.FRESH,
    settings: Settings | None = None,
    watcher: Watcher | None = None,
    stop: threading.Event | None = None,
) -> Summary:
    with ResultsFile(folder / "results.csv", start) as results:
        return run(
            Folder.at(str(folder)),
            results,
            lambda: reader,
            settings or Settings(workers=2, texts=False),
            watcher or Watcher(),
            stop or threading.Event(),
        )


def test_each_page_gets_the_status_that_its_answer_deserves(tmp_path: Path) -> None:
    make_pages(tmp_path, 7)
    script = Script(
        answers={
            "000001": Answer("read"),
            "000002": Answer(""),
            "000003": Answer(" \n"),
            "000004": Answer("so far", "length"),
            "000005": Answer("again again", "repetition"),
            "000006": Answer("x", "error"),
        },
        refused=["000007"],
    )
    summary = go(tmp_path, FakeReader(script))
    assert rows(tmp_path / "results.csv") == {
        "001.png": ("ok", "read"),
        "002.png": ("error:empty", ""),
        "003.png": ("error:empty", ""),
        "004.png": ("error:truncated", "so far"),
        "005.png": ("error:repetition", "again again"),
        "006.png": ("error:overflow: the model's numbers overflowed.", ""),
        "007.png": ("error:too-long: the prompt is longer than a slot", ""),
    }
    assert (summary.ok, summary.failed, summary.skipped, summary.stopped) == (1, 6, 0, False)


def test_the_observer_is_told_of_each_page_once_its_row_is_there(tmp_path: Path) -> None:
    make_pages(tmp_path, 9)
    (tmp_path / "002.png").write_bytes(b"")

    class Reader(Watcher):
        def finished(self, pages: Sequence[PageResult]) -> None:
            stored = rows(tmp_path / "results.csv")
            assert all(stored[Path(page.page.path).name][0] == page.status for page in pages)
            super().finished(pages)

    watcher = Reader()
    summary = go(tmp_path, FakeReader(), watcher=watcher)
    assert sorted(Path(page.page.path).name for page in watcher.pages) == [f"00{n}.png" for n in range(1, 10)]
    assert summary.work.pages == 8
    assert summary.work.prompt_tokens == 800
    assert summary.work.generated_tokens == sum(page.generated_tokens for page in watcher.pages) > 0
    assert watcher.seen[-1].work == summary.work


def test_pages_that_cannot_be_read_stand_between_those_that_can(tmp_path: Path) -> None:
    make_pages(tmp_path, 5)
    (tmp_path / "002.png").write_bytes(b"")
    (tmp_path / "004.png").unlink()
    (tmp_path / "004.png").symlink_to("gone.png")
    Image.new("RGB", (1, 5000)).save(tmp_path / "006.png")
    summary = go(tmp_path, FakeReader())
    found = rows(tmp_path / "results.csv")
    assert [found[f"00{n}.png"][0] for n in (1, 3, 5)] == ["ok"] * 3
    assert found["002.png"] == ("error:unreadable: the file is empty", "")
    assert found["004.png"][0].startswith("error:broken-link: ")
    assert found["006.png"] == ("error:shape: the picture is too long and thin", "")
    assert (summary.ok, summary.failed) == (3, 3)


def test_every_one_of_many_pages_is_read_once_whatever_the_workers(tmp_path: Path) -> None:
    names = make_pages(tmp_path, 300)
    for workers in (1, 7):
        summary = go(tmp_path, FakeReader(), start=Start.OVERWRITE, settings=Settings(workers, texts=False))
        assert summary.ok == 300
        assert sorted(rows(tmp_path / "results.csv")) == names


def test_the_engine_is_kept_full_but_not_flooded(tmp_path: Path) -> None:
    make_pages(tmp_path, 60)
    reader = FakeReader(Script(slots=8, step=0.005))
    go(tmp_path, reader)
    assert reader.most_at_once == 8
    assert reader.most_in_hand <= 16


def test_pages_are_prepared_only_a_few_ahead(tmp_path: Path) -> None:
    make_pages(tmp_path, 60)
    prepared: list[float] = []

    class Counting(FakeReader):
        def prepare(self, image: Image.Image) -> fakes.Inputs:
            prepared.append(time.monotonic())
            return super().prepare(image)

        def next(self) -> tuple[list[PromptResponse], list[GenerationResponse]]:
            time.sleep(0.3)  # the workers have time to run as far ahead as they may
            stop.set()
            return super().next()

    stop = threading.Event()
    go(tmp_path, Counting(Script(slots=4)), stop=stop)
    assert 4 <= len(prepared) <= 4 + 4 + (2 + 2) + 2  # slots, waiting, queue, in the workers' hands


def test_what_is_done_is_skipped_and_no_reader_is_opened_for_nothing(tmp_path: Path) -> None:
    make_pages(tmp_path, 4)
    go(tmp_path, FakeReader())
    make_pages(tmp_path, 6)
    reader = FakeReader()
    summary = go(tmp_path, reader, start=Start.RESUME)
    assert (summary.ok, summary.skipped) == (2, 4)
    with ResultsFile(tmp_path / "results.csv", Start.RESUME) as results:
        summary = run(
            Folder.at(str(tmp_path)),
            results,
            lambda: pytest.fail("a model was loaded for nothing"),
            Settings(),
            Watcher(),
            threading.Event(),
        )
    assert (summary.ok, summary.failed, summary.skipped) == (0, 0, 6)


def test_the_observer_learns_how_many_pages_there_are_and_how_it_ended(tmp_path: Path) -> None:
    make_pages(tmp_path, 9)
    with ResultsFile(tmp_path / "results.csv") as results:
        results.append([Row(str(tmp_path / "001.png"), "ok", "")])
    watcher = Watcher()
    go(tmp_path, FakeReader(Script(step=0.02)), start=Start.RESUME, watcher=watcher)
    last = watcher.seen[-1]
    assert (last.ok, last.failed, last.total) == (8, 0, 8)
    assert last.stats.generation_tokens > 0
    counts = [now.pages for now in watcher.seen]
    assert counts == sorted(counts)


def test_a_stop_keeps_what_is_finished_and_drops_what_is_not(tmp_path: Path) -> None:
    make_pages(tmp_path, 50)
    stop = threading.Event()

    class Stopping(FakeReader):
        def next(self) -> tuple[list[PromptResponse], list[GenerationResponse]]:
            if self.stats().steps == 60:
                stop.set()
            return super().next()

    reader = Stopping()
    summary = go(tmp_path, reader, stop=stop)
    assert summary.stopped
    assert reader.closed
    assert 0 < summary.ok < 50
    assert len(rows(tmp_path / "results.csv")) == summary.ok
    assert all(
        status == "ok" and text.endswith("</p>") for status, text in rows(tmp_path / "results.csv").values()
    )


def test_an_engine_that_fails_loses_no_finished_page(tmp_path: Path) -> None:
    make_pages(tmp_path, 50)
    reader = FakeReader(Script(fails_after=60))
    with pytest.raises(MlxChandraError, match="device is gone"):
        go(tmp_path, reader)
    done = rows(tmp_path / "results.csv")
    assert 0 < len(done) < 50
    assert go(tmp_path, FakeReader(), start=Start.RESUME).ok == 50 - len(done)
    assert len(rows(tmp_path / "results.csv")) == 50


def test_an_unexpected_failure_with_one_page_is_that_pages_error(tmp_path: Path) -> None:
    make_pages(tmp_path, 5)

    class Stumbling(FakeReader):
        def prepare(self, image: Image.Image) -> fakes.Inputs:
            if fakes.colour_of(image) == "000002":
                raise ZeroDivisionError("division by zero")
            return super().prepare(image)

        def decode(self, ids: Sequence[int]) -> str:
            text = super().decode(ids)
            if text == "poison":
                raise KeyError("poison")
            return text

    go(tmp_path, Stumbling(Script(answers={"000004": Answer("poison")})))
    found = rows(tmp_path / "results.csv")
    assert found["002.png"] == ("error:internal: ZeroDivisionError: division by zero", "")
    assert found["004.png"] == ("error:internal: KeyError: 'poison'", "")
    assert [found[f"00{n}.png"][0] for n in (1, 3, 5)] == ["ok"] * 3


def test_an_error_that_concerns_every_page_ends_the_run(tmp_path: Path) -> None:
    make_pages(tmp_path, 5)

    class Misled(FakeReader):
        def prepare(self, image: Image.Image) -> fakes.Inputs:
            raise MlxChandraError("The prompt holds the token that stands for the picture.")

    with pytest.raises(MlxChandraError, match="The prompt holds"):
        go(tmp_path, Misled())


def test_a_source_that_breaks_ends_the_run_instead_of_hanging_it(tmp_path: Path) -> None:
    names = make_pages(tmp_path, 3)

    def pages() -> "list[Document]":
        yield Document(str(tmp_path / names[0]), "", "001")
        raise RuntimeError("the disk was pulled out")

    class Source:
        def __iter__(self) -> object:
            return pages()

    with ResultsFile(tmp_path / "r.csv") as results, pytest.raises(RuntimeError, match="pulled out"):
        run(Source(), results, FakeReader, Settings(2, False), Watcher(), threading.Event())


def test_results_that_cannot_be_written_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pages(tmp_path, 30)
    calls = []

    def full(self: ResultsFile, rows: Sequence[Row]) -> None:
        calls.append(len(rows))
        raise DiskFullError("The disk is full.")

    monkeypatch.setattr(ResultsFile, "append", full)
    reader = FakeReader(Script(step=0.01))
    with pytest.raises(DiskFullError):
        go(tmp_path, reader)
    assert len(calls) == 1
    assert reader.closed
    assert reader.stats().steps < 100


def test_a_text_is_on_the_disk_before_its_row_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pages(tmp_path, 20)
    append = ResultsFile.append

    def checking(self: ResultsFile, rows: Sequence[Row]) -> None:
        for row in rows:
            text = Path(row.image_path).with_name(Path(row.image_path).stem + "_ocr.txt")
            assert text.read_text() == row.text
        append(self, rows)

    monkeypatch.setattr(ResultsFile, "append", checking)
    assert go(tmp_path, FakeReader(), settings=Settings(workers=2)).ok == 20


def test_pages_without_text_get_no_text_file_and_pages_cut_short_do(tmp_path: Path) -> None:
    make_pages(tmp_path, 3)
    answers = {"000001": Answer(""), "000002": Answer("so far", "length"), "000003": Answer("all")}
    go(tmp_path, FakeReader(Script(answers=answers)), settings=Settings())
    assert sorted(p.name for p in tmp_path.glob("*.txt")) == ["002_ocr.txt", "003_ocr.txt"]


def test_texts_that_find_no_place_are_said_once_and_the_rows_have_them(tmp_path: Path) -> None:
    make_pages(tmp_path, 8)
    for number in range(1, 4):
        (tmp_path / f"00{number}_ocr.txt").mkdir()
    watcher = Watcher()
    summary = go(tmp_path, FakeReader(), settings=Settings(), watcher=watcher)
    assert (summary.ok, summary.failed, summary.unwritten_texts) == (8, 0, 3)
    assert len(watcher.warnings) == 1
    assert "--text-dir" in watcher.warnings[0]
    assert all(text for _, text in rows(tmp_path / "results.csv").values())
