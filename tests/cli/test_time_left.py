"""The time left comes from tokens: it knows long pages from short ones, and a machine that slows down."""

import pytest

from mlx_chandra.cli.time_left import TimeLeft
from mlx_chandra.engine.responses import GeneratorStats
from mlx_chandra.reading.progress import Counts, Snapshot


def moment(
    seconds: float,
    *,
    done: int,
    written: int,
    total: int | None = 100,
    in_answers: int | None = None,
    read: int = 0,
    reading: float = 0.0,
    in_work: int = 4,
    failed: int = 0,
) -> Snapshot:
    """After so many seconds: `done` pages answered with `in_answers` tokens (all that were written, unless
    pages in work have some already), `failed` ones never came to the model, `read` tokens of prompts took
    `reading` seconds, and all other time went into writing."""
    stats = GeneratorStats(
        prompt_tokens=read,
        prompt_time=reading,
        generation_tokens=written,
        generation_time=seconds - reading,
        steps=0,
        slots=4,
        active_slots=in_work,
        waiting=0,
        peak_memory=0,
    )
    answered = written if in_answers is None else in_answers
    counts = Counts(ok=done, error=failed, read=done, prompt_tokens=read, generated_tokens=answered)
    return Snapshot(counts, total, seconds, stats)


def test_nothing_is_said_before_two_pages_are_finished() -> None:
    left = TimeLeft()
    assert left.look(moment(1.0, done=0, written=100)) is None
    assert left.look(moment(2.0, done=1, written=300)) is None
    assert left.look(moment(3.0, done=2, written=400)) is not None


def test_while_most_pages_are_in_work_their_tokens_count_in_the_mean() -> None:
    # 2 finished pages of 50 tokens, 4 in work with 100 each: the mean is 250, not 50
    now = moment(5.0, done=2, written=500, in_answers=100, total=10)
    assert TimeLeft().look(now) == pytest.approx((4 * 250 + 4 * 250 - 400) / 100)


def test_nothing_is_said_without_a_total_or_when_all_is_done() -> None:
    assert TimeLeft().look(moment(9.0, done=50, written=5000, total=None)) is None
    assert TimeLeft().look(moment(9.0, done=50, written=5000, total=50, in_work=0)) is None


def test_what_is_left_is_the_pages_not_begun_and_the_rest_of_those_in_work() -> None:
    # 10 pages of 100 tokens in 10 s, 4 in work with 50 tokens each: 86 * 100 + 4 * 50 left, at 120 tokens/s
    now = moment(10.0, done=10, written=1200, in_answers=1000)
    assert TimeLeft().look(now) == pytest.approx((86 * 100 + 4 * 50) / 120)


def test_pages_in_work_that_are_longer_than_others_are_not_nearly_done_all_the_time() -> None:
    now = moment(10.0, done=96, written=9600 + 4000, in_answers=9600)
    assert TimeLeft().look(now) == pytest.approx(4 * 100 * 0.25 / 1360)


def test_prompts_cost_what_reading_takes() -> None:
    # of 20 s, 10 went into reading 10 + 4 prompts of 100 tokens
    stats = moment(20.0, done=10, written=1000, read=1000, reading=10.0, in_work=0, total=20)
    assert TimeLeft().look(stats) == pytest.approx(20.0)
    written_only = moment(20.0, done=10, written=1000, in_work=0, total=20)
    assert TimeLeft().look(written_only) == pytest.approx(20.0)


def test_pages_that_never_come_to_the_model_take_no_time() -> None:
    plain = TimeLeft().look(moment(10.0, done=10, written=1000, total=30, in_work=0))
    with_failed = TimeLeft().look(moment(10.0, done=10, written=1000, total=40, in_work=0, failed=10))
    assert plain == pytest.approx(20.0)
    assert with_failed == pytest.approx(10.0)


def test_the_rate_is_that_of_the_last_minute() -> None:
    left = TimeLeft()
    for second in range(61):  # a page a second
        left.look(moment(float(second), done=second, written=100 * second, total=300))
    for second in range(61, 181):  # then a page in two
        done = 60 + (second - 60) // 2
        said = left.look(moment(float(second), done=done, written=100 * done, total=300))
    assert said == pytest.approx(2 * (300 - done - 4 + 4), rel=0.1)


def test_a_minute_of_short_pages_does_not_promise_that_the_rest_is_short() -> None:
    """Half of the pages have 200 tokens and half 20; 100 tokens a second all the time."""
    left = TimeLeft()
    answers = [200] * 50 + [20] * 50
    tokens, seconds = 0, 0.0
    for done, answer in enumerate(answers, start=1):
        tokens, seconds = tokens + answer, seconds + answer / 100
        said = left.look(moment(seconds, done=done, written=tokens, total=200, in_work=0))
    assert said == pytest.approx(110.0)  # by the pages of the last minute, it would be 80


def test_times_that_the_engine_does_not_say_are_done_without() -> None:
    stats = GeneratorStats(1000, 0.0, 1000, 0.0, 0, 4, 0, 0, 0)
    counts = Counts(ok=10, read=10, prompt_tokens=1000, generated_tokens=1000)
    now = Snapshot(counts, 20, 10.0, stats)
    assert TimeLeft().look(now) == pytest.approx(10.0)
