"""Pages that are read more than once, in one process, with a scripted reader."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from mlx_chandra.attempts import Retries
from mlx_chandra.engine.responses import OUT_OF_MEMORY, GenerationResponse, PromptResponse
from mlx_chandra.outputs.results_csv import Start
from mlx_chandra.pipeline import Settings
from tests.fakes import Answer, FakeReader, Inputs, Script
from tests.test_pipeline import Watcher, go, make_pages, rows

WORDS = " ".join(f"word{number * 7919 % 1000}" for number in range(60))
CIRCLES = Answer(WORDS + "<td></td>" * 60, "repetition")
WELL = Answer("read well")


def settings(most: int = 3, truncated: bool = False) -> Settings:
    return Settings(workers=2, texts=False, retries=Retries(most, truncated))


def test_a_page_in_circles_that_reads_well_the_second_time_is_ok(tmp_path: Path) -> None:
    make_pages(tmp_path, 6)
    reader = FakeReader(Script(answers={"000003": CIRCLES}, again={"000003": [WELL]}))
    summary = go(tmp_path, reader, settings=settings())
    assert rows(tmp_path / "results.csv")["003.png"] == ("ok", "read well")
    assert (summary.ok, summary.failed) == (6, 0)
    assert (summary.endings.retried, summary.endings.mended, summary.endings.repetition) == (1, 1, 0)
    assert [(colour, number) for colour, number, _ in reader.retries] == [("000003", 1)]


def test_a_page_that_goes_in_circles_each_time_is_kept_and_marked(tmp_path: Path) -> None:
    make_pages(tmp_path, 3)
    says_most = Answer(WORDS + " and more " + WORDS[::-1] + "<td></td>" * 60, "repetition")
    script = Script(answers={"000002": CIRCLES}, again={"000002": [CIRCLES, says_most, CIRCLES]})
    reader = FakeReader(script)
    summary = go(tmp_path, reader, settings=settings())
    assert rows(tmp_path / "results.csv")["002.png"] == ("error:repetition", says_most.text)
    assert (summary.ok, summary.failed, summary.endings.repetition) == (2, 1, 1)
    assert [number for _, number, _ in reader.retries] == [1, 2, 3]
    assert len({seed for _, _, seed in reader.retries}) == 3


def test_without_retries_the_first_answer_is_kept(tmp_path: Path) -> None:
    make_pages(tmp_path, 2)
    reader = FakeReader(Script(answers={"000001": CIRCLES}, again={"000001": [WELL]}))
    go(tmp_path, reader, settings=settings(0))
    assert rows(tmp_path / "results.csv")["001.png"] == ("error:repetition", CIRCLES.text)
    assert not reader.retries


def test_a_finished_answer_that_the_official_client_would_read_again_is_read_again(tmp_path: Path) -> None:
    make_pages(tmp_path, 2)
    dots = Answer(WORDS + "." * 17)  # with a stop token behind it
    reader = FakeReader(Script(answers={"000001": dots}, again={"000001": [dots, WELL]}))
    go(tmp_path, reader, settings=settings())
    assert rows(tmp_path / "results.csv")["001.png"] == ("ok", "read well")
    assert len(reader.retries) == 2


@pytest.mark.parametrize(("retried", "status"), [(False, "error:truncated"), (True, "ok")])
def test_a_page_that_was_cut_off_is_read_again_where_that_is_wished(
    tmp_path: Path, retried: bool, status: str
) -> None:
    make_pages(tmp_path, 2)
    script = Script(answers={"000001": Answer("read w", "length")}, again={"000001": [WELL]})
    go(tmp_path, FakeReader(script), settings=settings(truncated=retried))
    assert rows(tmp_path / "results.csv")["001.png"][0] == status


def test_a_text_in_circles_is_stopped_as_it_happens_and_its_slot_goes_on(tmp_path: Path) -> None:
    make_pages(tmp_path, 5)
    endless = Answer(WORDS + ".. " * 200_000, "length")
    reader = FakeReader(Script(answers={"000001": endless}, again={"000001": [WELL]}, slots=1))
    summary = go(tmp_path, reader, settings=settings())
    assert reader.evicted == ["000001"]
    assert reader.stats().generation_tokens < 4000
    assert rows(tmp_path / "results.csv")["001.png"] == ("ok", "read well")
    assert summary.ok == 5


def test_a_text_that_was_stopped_in_circles_is_kept_as_far_as_it_came(tmp_path: Path) -> None:
    make_pages(tmp_path, 1)
    script = Script(answers={"000001": Answer(WORDS + ".. " * 200_000, "length")})
    go(tmp_path, FakeReader(script), settings=settings(0))
    status, text = rows(tmp_path / "results.csv")["001.png"]
    assert status == "error:repetition"
    assert text.startswith(WORDS + ".. ")
    assert len(text) < 4000


def test_a_long_dotted_line_or_empty_table_that_the_page_goes_on_after_is_ok(tmp_path: Path) -> None:
    make_pages(tmp_path, 2)
    answers = {
        "000001": Answer(f"<p>Contents{'.' * 900}12</p><p>{WORDS}</p>"),
        "000002": Answer(f"<table>{'<tr><td></td><td></td></tr>' * 30}</table><p>{WORDS}</p>"),
    }
    reader = FakeReader(Script(answers=answers))
    assert go(tmp_path, reader, settings=settings()).ok == 2
    assert not reader.retries


def test_a_retry_that_fails_leaves_what_was_read_before(tmp_path: Path) -> None:
    make_pages(tmp_path, 2)

    class Full(FakeReader):
        def retry(self, page: Inputs, number: int, seed: int) -> int:
            uid = super().retry(page, number, seed)
            del self._left[uid]
            self._refused.append(PromptResponse(uid, 100, OUT_OF_MEMORY))
            return uid

    answers = {"000001": CIRCLES, "000002": CIRCLES}
    go(tmp_path, Full(Script(answers=answers)), settings=settings())
    assert rows(tmp_path / "results.csv") == {
        "001.png": ("error:repetition", CIRCLES.text),
        "002.png": ("error:repetition", CIRCLES.text),
    }


def test_retries_have_the_same_seeds_in_every_run_and_any_company(tmp_path: Path) -> None:
    make_pages(tmp_path, 8)
    answers = {f"{number:06x}": CIRCLES for number in range(1, 9)}
    seen = []
    for slots in (1, 5):
        reader = FakeReader(Script(answers=answers, slots=slots))
        (tmp_path / "results.csv").unlink(missing_ok=True)
        go(tmp_path, reader, settings=settings())
        seen.append(sorted(reader.retries))
    assert len(seen[0]) == 24
    assert seen[0] == seen[1]


def test_the_engine_is_not_flooded_by_retries(tmp_path: Path) -> None:
    make_pages(tmp_path, 60)
    answers = {f"{number:06x}": CIRCLES for number in range(1, 61)}
    reader = FakeReader(Script(answers=answers, slots=8))
    summary = go(tmp_path, reader, settings=settings())
    assert summary.endings.retried == 60
    assert reader.most_at_once == 8
    assert reader.most_in_hand <= 16


def test_a_stop_drops_a_page_between_its_attempts_and_the_next_run_reads_it(tmp_path: Path) -> None:
    make_pages(tmp_path, 4)
    stop = threading.Event()

    class Stopping(FakeReader):
        def next(self) -> tuple[list[PromptResponse], list[GenerationResponse]]:
            if self.retries:
                stop.set()
            return super().next()

    script = Script(answers={"000002": CIRCLES}, again={"000002": [WELL]})
    assert go(tmp_path, Stopping(script), settings=settings(), stop=stop).stopped
    assert "002.png" not in rows(tmp_path / "results.csv")
    go(tmp_path, FakeReader(script), settings=settings(), start=Start.RESUME)
    assert rows(tmp_path / "results.csv")["002.png"] == ("ok", "read well")


def test_the_observer_learns_of_pages_that_were_read_again(tmp_path: Path) -> None:
    make_pages(tmp_path, 3)
    watcher = Watcher()
    script = Script(answers={"000001": CIRCLES, "000002": Answer("cut", "length")}, again={"000001": [WELL]})
    go(tmp_path, FakeReader(script), settings=settings(), watcher=watcher)
    last = watcher.seen[-1].endings
    assert (last.retried, last.mended, last.truncated) == (1, 1, 1)


def test_a_page_whose_text_cannot_be_looked_at_in_work_gets_its_error_at_its_end(tmp_path: Path) -> None:
    make_pages(tmp_path, 2)

    class Stumbling(FakeReader):
        def decode(self, ids: Sequence[int]) -> str:
            text = super().decode(ids)
            if "word" in text:
                raise KeyError("poison")
            return text

    summary = go(tmp_path, Stumbling(Script(answers={"000001": Answer(WORDS * 10)})), settings=settings())
    assert rows(tmp_path / "results.csv")["001.png"][0] == "error:internal: KeyError: 'poison'"
    assert (summary.ok, summary.endings.error) == (1, 1)
