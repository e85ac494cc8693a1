"""Measured speeds are remembered by machine, model and number format, and nothing depends on them."""

import json
import os
import threading
from pathlib import Path

import pytest

from mlx_chandra import speeds
from mlx_chandra.outputs.lock import Lock
from mlx_chandra.speeds import BenchSpeed, Known, RunSpeed, Subject, recall, remember_bench, remember_run

MAC = Subject("Apple M2", "demo", None)
BENCH = BenchSpeed(planned=8, prompt_seconds=0.001, steps=[(1, 0.01), (4, 0.02), (8, 0.04)], day="2026-11-01")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLX_CHANDRA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def a_run(pages: int, day: str = "2026-11-02", batch_size: int | None = None, slots: int = 8) -> RunSpeed:
    return RunSpeed(batch_size, slots, pages, 0.002, 0.003, 500.0, day)


def test_what_was_measured_is_there_for_the_same_machine_model_and_format_alone() -> None:
    remember_run(MAC, a_run(100))
    remember_bench(MAC, BENCH)
    assert recall(MAC) == Known([a_run(100)], BENCH)
    for other in (
        Subject("Apple M3", "demo", None),
        Subject("Apple M2", "x", None),
        Subject("Apple M2", "demo", "float16"),
    ):
        assert recall(other) == Known()
        remember_run(other, a_run(50))
    assert recall(MAC) == Known([a_run(100)], BENCH)


def test_a_later_run_takes_the_place_of_an_earlier_one_with_its_batch_size() -> None:
    remember_run(MAC, a_run(1000, "2026-11-01"))
    remember_run(MAC, a_run(20, "2026-11-02"))
    remember_run(MAC, a_run(30, "2026-11-03", batch_size=1))
    assert recall(MAC).run(None) == a_run(20, "2026-11-02")
    assert recall(MAC).run(1) == a_run(30, "2026-11-03", batch_size=1)
    assert recall(MAC).run(2) is None


def test_a_few_pages_that_were_tried_out_do_not_replace_a_nights_reading() -> None:
    remember_run(MAC, a_run(4))
    assert recall(MAC) == Known()
    remember_run(MAC, a_run(1000, slots=32))
    remember_run(MAC, a_run(20, "2026-11-09", slots=32))
    assert recall(MAC).run(None) == a_run(1000, slots=32)


def test_a_bench_says_what_a_token_takes_at_the_batch_size_that_is_asked_for() -> None:
    assert BENCH.answer_seconds(None) == pytest.approx(0.04 / 8)
    assert BENCH.answer_seconds(5) == pytest.approx(0.02 / 4)
    assert BENCH.answer_seconds(1) == pytest.approx(0.01)
    assert BenchSpeed(8, 0.001, [(4, 0.02)], "").answer_seconds(2) == pytest.approx(0.02 / 4)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"form": 99}',
        '{"form": 1, "speeds": [5, {"subject": null}]}',
        '{"form": 1, "speeds": 7}',
    ],
)
def test_a_file_that_makes_no_sense_is_as_good_as_none(cache: Path, content: str) -> None:
    cache.mkdir()
    (cache / "speeds.json").write_text(content)
    assert recall(MAC) == Known()
    remember_run(MAC, a_run(100))
    assert recall(MAC).run(None) == a_run(100)


def test_an_entry_of_another_shape_is_passed_over(cache: Path) -> None:
    remember_run(MAC, a_run(100))
    content = json.loads((cache / "speeds.json").read_text())
    del content["speeds"][0]["runs"][0]["pages"]
    (cache / "speeds.json").write_text(json.dumps(content))
    assert recall(MAC) == Known()


def test_programs_that_end_together_lose_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one writes only after the second one had time to read the file, write to it and be gone."""
    other = threading.Thread(target=remember_run, args=(MAC, a_run(50, batch_size=1)))
    write_whole = speeds.write_whole

    def slowly(path: str, content: bytes, tag: str) -> None:
        if other.ident is None:
            other.start()
            other.join(timeout=0.2)
        write_whole(path, content, tag)

    monkeypatch.setattr(speeds, "write_whole", slowly)
    remember_run(MAC, a_run(100))
    other.join()
    assert sorted(run.pages for run in recall(MAC).runs) == [50, 100]
    assert os.listdir(cache) == ["speeds.json"]


@pytest.mark.parametrize("is_busy", [True, False])
def test_a_lock_that_cannot_be_taken_stops_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, is_busy: bool
) -> None:
    monkeypatch.setattr(speeds, "_PATIENCE", 0.1)
    path = cache / "speeds.json.lock"
    cache.mkdir()
    if is_busy:
        lock = Lock(str(path), "", "")
    else:
        path.mkdir()
    remember_run(MAC, a_run(100))
    remember_bench(MAC, BENCH)
    assert recall(MAC) == Known([a_run(100)], BENCH)
    if is_busy:
        lock.release()


def test_a_cache_that_cannot_be_written_is_no_error(cache: Path) -> None:
    cache.write_text("a file, no folder")
    remember_run(MAC, a_run(100))
    assert recall(MAC) == Known()
