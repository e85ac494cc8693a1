"""A whole run but for its options: documents in, rows and texts out, with a scripted engine."""

import csv
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image

from mlx_chandra.documents.discover import Folder
from mlx_chandra.documents.opened import OpenDocuments
from mlx_chandra.documents.page import Document, Page, PageResult, ReadSettings
from mlx_chandra.engine.responses import GenerationResponse, PromptResponse
from mlx_chandra.engine.retries import Retries
from mlx_chandra.engine.service import Service
from mlx_chandra.reading.progress import Snapshot, Summary
from mlx_chandra.reading.read import ReadOptions
from mlx_chandra.reading.run import RunSettings, run
from mlx_chandra.store.store import Start, Store
from tests.fakes import EVER, Answer, FakeGenerator, FakeProcessor, Inputs, Script

LOOP = Answer("words of a page, and then " + "again " * 40)
WELL = Answer("read well")


class Watcher:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.seen: list[Snapshot] = []
        self.warnings: list[str] = []
        self.results: list[PageResult] = []

    def update(self, now: Snapshot) -> None:
        self.seen.append(now)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def stored(self, results: Sequence[PageResult]) -> None:
        self.results.extend(results)


def make_pages(folder: Path, count: int) -> list[str]:
    """Pages whose top left pixel says their number: colours 000001, 000002, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:03}.png" for number in range(1, count + 1)]
    for number, name in enumerate(names, start=1):
        Image.new("RGB", (8, 8), (0, number // 256, number % 256)).save(folder / name)
    return names


def rows(folder: Path) -> dict[str, tuple[str, str]]:
    """Status and text by the page's name, in the order of the CSV."""
    with open(folder / "results.csv", encoding="utf-8", newline="") as file:
        found = [(Path(row[0]).name, (row[1], row[2])) for row in list(csv.reader(file))[1:]]
    assert len({name for name, _ in found}) == len(found), "a page has two rows"
    return dict(found)


def go(
    folder: Path,
    generator: FakeGenerator | Script | None = None,
    processor: FakeProcessor | None = None,
    *,
    source: "Folder | Source | None" = None,
    start: Start = Start.FRESH,
    settings: RunSettings | None = None,
    watcher: Watcher | None = None,
    stop: threading.Event | None = None,
) -> Summary:
    """Read a folder into `results.csv` in it."""
    if not isinstance(generator, FakeGenerator):
        generator = FakeGenerator(generator)
    with Store(folder / "results.csv", ReadSettings("test", "fake"), start) as store:
        return run(
            source or Folder.at(str(folder)),
            store,
            lambda: Service(generator, processor or FakeProcessor()),  # type: ignore[arg-type]
            settings or RunSettings(workers=2, texts=False),
            watcher or Watcher(),
            stop or threading.Event(),
        )


class Source:
    """Documents from a function, which is asked once for each iteration."""

    def __init__(self, documents: Callable[[], Iterator[Document]]) -> None:
        self._documents = documents

    def __iter__(self) -> Iterator[Document]:
        return self._documents()


def retrying(most: int = 3, truncated: bool = False) -> RunSettings:
    return RunSettings(2, texts=False, options=ReadOptions(retries=Retries(most, truncated)))


def test_each_page_gets_the_row_that_its_answer_deserves(tmp_path: Path) -> None:
    make_pages(tmp_path, 9)
    (tmp_path / "008.png").write_bytes(b"")
    (tmp_path / "009.png").unlink()
    (tmp_path / "009.png").symlink_to("gone.png")
    Image.new("RGB", (1, 5000)).save(tmp_path / "010.png")
    answers = {
        "000001": Answer("read"),
        "000002": Answer(""),
        "000003": Answer(" \n"),
        "000004": Answer("so far", "length"),
        "000005": Answer("again again", "repetition"),
        "000006": Answer("x", "error"),
    }
    summary = go(tmp_path, Script(answers=answers, refused=["000007"]))
    found = rows(tmp_path)
    assert found.pop("009.png")[0].startswith("error:broken-link: ")
    assert found == {
        "001.png": ("ok", "read"),
        "002.png": ("error:empty", ""),
        "003.png": ("error:empty", ""),
        "004.png": ("error:truncated", "so far"),
        "005.png": ("error:repetition", "again again"),
        "006.png": ("error:overflow: the model's numbers overflowed.", ""),
        "007.png": ("error:too-long: the prompt is longer than a slot", ""),
        "008.png": ("error:unreadable: the file is empty", ""),
        "010.png": ("error:shape: the picture is too long and thin", ""),
    }
    counts = summary.counts
    assert (counts.ok, counts.empty, counts.truncated, counts.repetition, counts.error) == (1, 2, 1, 1, 5)
    assert (counts.pages, counts.failed, summary.skipped, summary.stopped) == (10, 9, 0, False)


def test_the_observer_hears_of_each_page_once_its_row_is_there(tmp_path: Path) -> None:
    make_pages(tmp_path, 9)
    (tmp_path / "002.png").write_bytes(b"")

    class Reader(Watcher):
        def stored(self, results: Sequence[PageResult]) -> None:
            there = rows(tmp_path)
            assert all(there[Path(result.page.path).name][0] == result.status for result in results)
            super().stored(results)

    watcher = Reader()
    summary = go(tmp_path, watcher=watcher)
    names = [Path(result.page.path).name for result in watcher.results]
    assert sorted(names) == [f"00{number}.png" for number in range(1, 10)]
    assert (summary.counts.read, summary.counts.prompt_tokens) == (8, 800)
    tokens = sum(result.generated_tokens for result in watcher.results)
    assert summary.counts.generated_tokens == tokens > 0
    last = watcher.seen[-1]
    assert last.counts == summary.counts
    assert last.stats.generation_tokens == tokens
    pages = [now.counts.pages for now in watcher.seen]
    assert pages == sorted(pages)


@pytest.mark.parametrize(("workers", "answer"), [(1, None), (7, None), (3, LOOP)])
def test_every_one_of_many_pages_is_read_once_and_stands_in_the_order_of_the_input(
    tmp_path: Path, workers: int, answer: Answer | None
) -> None:
    names = make_pages(tmp_path, 200)
    answers = {f"{number:06x}": answer for number in range(1, 201)} if answer else {}
    generator = FakeGenerator(
        Script(slots=8, step=0.002, answers=answers, again={key: [WELL] for key in answers})
    )
    assert go(tmp_path, generator, settings=RunSettings(workers, texts=False)).counts.ok == 200
    assert list(rows(tmp_path)) == names
    assert generator.most_at_once == 8
    assert generator.most_in_hand <= 16  # retries don't flood it either


def test_pages_are_prepared_only_a_few_ahead_of_the_engine(tmp_path: Path) -> None:
    make_pages(tmp_path, 60)
    stop, prepared = threading.Event(), threading.Semaphore(0)

    class Counting(FakeProcessor):
        count = 0

        def prepare(self, image: Image.Image, prompt: object, max_size: int | None = None) -> Inputs:
            Counting.count += 1
            prepared.release()
            return super().prepare(image, prompt, max_size)

    class Slow(FakeGenerator):
        def next(self) -> tuple[list[PromptResponse], list[GenerationResponse]]:
            while prepared.acquire(timeout=0.2):  # until the workers come no further
                pass
            stop.set()
            return super().next()

    go(tmp_path, Slow(Script(slots=4, answers={"000001": EVER})), Counting(), stop=stop)
    in_service, pending, queued, in_hand = 4 + 4, 1, 2 + 2, 2
    assert Counting.count <= in_service + pending + queued + in_hand


def test_a_slow_file_holds_up_none_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pages(tmp_path, 40)
    others = threading.Event()
    page_of = OpenDocuments.page

    class Watching(Watcher):
        def stored(self, results: Sequence[PageResult]) -> None:
            super().stored(results)
            if len(self.results) == 39:
                others.set()

    def slow(opened: OpenDocuments, page: Page) -> Image.Image:
        if page.path.endswith("001.png"):
            assert others.wait(20), "the others waited"
        return page_of(opened, page)

    monkeypatch.setattr(OpenDocuments, "page", slow)
    assert go(tmp_path, watcher=Watching()).counts.ok == 40


def test_what_has_a_result_is_skipped_and_no_model_is_loaded_for_nothing(tmp_path: Path) -> None:
    make_pages(tmp_path, 4)
    assert go(tmp_path).counts.ok == 4
    names = make_pages(tmp_path, 6)
    watcher = Watcher()
    summary = go(tmp_path, start=Start.RESUME, watcher=watcher)
    assert (summary.counts.ok, summary.skipped) == (2, 4)
    assert watcher.seen[-1].total in (2, None)  # None while they are being counted
    (tmp_path / "copy of 1.png").write_bytes((tmp_path / "001.png").read_bytes())
    with Store(tmp_path / "results.csv", ReadSettings("test", "fake"), Start.RESUME) as store:
        summary = run(
            Folder.at(str(tmp_path)),
            store,
            lambda: pytest.fail("a model was loaded for nothing"),
            RunSettings(),
            Watcher(),
            threading.Event(),
        )
    assert (summary.counts.pages, summary.counts.copied, summary.skipped, summary.stopped) == (1, 1, 6, False)
    assert list(rows(tmp_path)) == [*names, "copy of 1.png"]


def test_the_observer_learns_how_many_pages_there_are(tmp_path: Path) -> None:
    make_pages(tmp_path, 9)
    counted = threading.Event()

    class Waiting(FakeGenerator):
        def next(self) -> tuple[list[PromptResponse], list[GenerationResponse]]:
            counted.wait(10)
            return super().next()

    class Noting(Watcher):
        def update(self, now: Snapshot) -> None:
            super().update(now)
            if now.total is not None:
                counted.set()

    watcher = Noting()
    go(tmp_path, Waiting(), watcher=watcher)
    assert counted.is_set()
    assert watcher.seen[-1].total == 9


def test_copies_of_a_page_in_work_wait_for_it_and_get_its_row_and_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pages(tmp_path, 3)
    planned, plan = threading.Event(), Store.plan

    def noting(store: Store, paths: Sequence[str]) -> None:
        plan(store, paths)
        if paths[-1].endswith("129.png"):
            planned.set()

    class Waiting(FakeGenerator):
        def next(self) -> tuple[list[PromptResponse], list[GenerationResponse]]:
            assert planned.wait(20), "copies aren't planned while the engine works"
            return super().next()

    monkeypatch.setattr(Store, "plan", noting)
    for number in range(100, 130):
        shutil.copy(tmp_path / "001.png", tmp_path / f"{number}.png")
    generator = Waiting(Script(answers={"000001": LOOP}, again={"000001": [Answer("cut", "length")]}))
    watcher = Watcher()
    settings = RunSettings(workers=2, options=ReadOptions(retries=Retries(1)))
    summary = go(tmp_path, generator, settings=settings, watcher=watcher)
    found = rows(tmp_path)
    texts = {found[f"{number}.png"] for number in range(100, 130)} | {found["001.png"]}
    assert texts == {("error:repetition", LOOP.text)}
    assert len(generator.retries) == 1
    counts = summary.counts
    assert (counts.read, counts.copied, counts.ok, counts.repetition) == (3, 30, 2, 31)
    assert (tmp_path / "129_ocr.txt").read_text() == LOOP.text
    origins = [result.copy_of for result in watcher.results if result.copy_of]
    assert len(set(origins)) == 1
    assert [Path(result.page.path).name for result in watcher.results].index(Path(origins[0]).name) < 31


def test_a_stop_keeps_what_is_finished_and_drops_what_is_not(tmp_path: Path) -> None:
    make_pages(tmp_path, 50)
    stop = threading.Event()

    class Stopping(FakeGenerator):
        def next(self) -> tuple[list[PromptResponse], list[GenerationResponse]]:
            if self.stats().steps == 60:
                stop.set()
            return super().next()

    shutil.copy(tmp_path / "002.png", tmp_path / "copy of 2.png")
    generator = Stopping(Script(answers={"000002": EVER}))
    summary = go(tmp_path, generator, stop=stop)
    assert (summary.stopped, generator.closed) == (True, True)
    found = rows(tmp_path)
    assert 0 < len(found) == summary.counts.ok < 50
    assert all(status == "ok" and text.endswith("</p>") for status, text in found.values())
    assert not {"002.png", "copy of 2.png"} & set(found)


def test_a_stop_before_the_model_is_loaded_loads_none(tmp_path: Path) -> None:
    make_pages(tmp_path, 3)
    stop = threading.Event()
    stop.set()
    generator = FakeGenerator()
    assert go(tmp_path, generator, stop=stop).stopped
    assert not generator.threads
    assert rows(tmp_path) == {}


def test_counting_ends_with_the_run(tmp_path: Path) -> None:
    names, asked = make_pages(tmp_path, 3), []

    def documents() -> Iterator[Document]:
        asked.append(True)
        if len(asked) == 1:
            yield from (Document(str(tmp_path / name), "", name) for name in names)
            return
        while True:  # who counts never comes to the end
            yield Document(str(tmp_path / "gone.png"), "", "gone")

    watcher = Watcher()
    assert go(tmp_path, source=Source(documents), watcher=watcher).counts.ok == 3
    assert watcher.seen[-1].total is None
    for thread in threading.enumerate():
        if thread.name == "count":
            thread.join(10)
            assert not thread.is_alive()


def test_a_stop_drops_a_page_between_its_attempts_and_the_next_run_reads_it(tmp_path: Path) -> None:
    make_pages(tmp_path, 4)
    stop = threading.Event()

    class Stopping(FakeGenerator):
        def next(self) -> tuple[list[PromptResponse], list[GenerationResponse]]:
            if self.retries:
                stop.set()
            return super().next()

    retried = Script(answers={"000002": LOOP}, again={"000002": [EVER]})
    assert go(tmp_path, Stopping(retried), stop=stop).stopped
    assert "002.png" not in rows(tmp_path)
    summary = go(tmp_path, Script(answers={"000002": LOOP}, again={"000002": [WELL]}), start=Start.RESUME)
    assert not summary.stopped
    assert rows(tmp_path)["002.png"] == ("ok", WELL.text)
    assert list(rows(tmp_path)) == [f"00{number}.png" for number in range(1, 5)]


def test_pages_that_were_read_again_are_counted(tmp_path: Path) -> None:
    make_pages(tmp_path, 4)
    answers = {"000001": LOOP, "000002": Answer("cut", "length"), "000003": LOOP}
    script = Script(answers=answers, again={"000001": [LOOP, WELL]})
    counts = go(tmp_path, script, settings=retrying(2)).counts
    assert (counts.retried, counts.recovered, counts.truncated, counts.repetition) == (2, 1, 1, 1)
    assert rows(tmp_path)["001.png"] == ("ok", WELL.text)
    assert counts.generated_tokens > 5 * len(LOOP.text)


@pytest.mark.parametrize(
    ("settings", "status"), [(retrying(0), "error:truncated"), (retrying(1, truncated=True), "ok")]
)
def test_the_retries_asked_for_come_to_the_service(
    tmp_path: Path, settings: RunSettings, status: str
) -> None:
    make_pages(tmp_path, 1)
    script = Script(answers={"000001": Answer("wor", "length")}, again={"000001": [WELL]})
    go(tmp_path, script, settings=settings)
    assert rows(tmp_path)["001.png"][0] == status


def test_retries_have_the_same_seeds_in_every_run_and_any_crowd(tmp_path: Path) -> None:
    make_pages(tmp_path, 8)
    answers = {f"{number:06x}": LOOP for number in range(1, 9)}
    seen = []
    for slots in (1, 5):
        generator = FakeGenerator(Script(answers=answers, slots=slots))
        go(tmp_path, generator, start=Start.OVERWRITE)
        seen.append({(colour, sampling.seed) for colour, sampling in generator.retries})
    assert len(seen[0]) == 24
    assert seen[0] == seen[1]
