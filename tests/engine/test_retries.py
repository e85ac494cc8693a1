"""When a page is read again, how, and which attempt is kept."""

from collections.abc import Sequence

import pytest

from mlx_chandra.engine.responses import OVERFLOW
from mlx_chandra.engine.retries import Answer, Attempt, Retries, best, retry_sampling, seed_of
from mlx_chandra.engine.sampler import Sampling
from mlx_chandra.errors import PageState
from mlx_chandra.processing.prompt import ModelFamily

WORDS = " ".join(f"word{number * 7919 % 1000}" for number in range(200))
LOOP = "<td></td>" * 100


def decode(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))


def attempt(text: str, reason: str = "stop") -> Attempt:
    error = OVERFLOW if reason == "error" else None
    return Attempt.of(decode, [ord(c) for c in text], reason, 2.0, error)


def test_chandra_1_is_sampled_at_one_temperature() -> None:
    for retry in (1, 2, 7):
        assert retry_sampling(ModelFamily.CHANDRA_1, retry, 5) == Sampling(0.3, 0.95, 5)


@pytest.mark.parametrize(
    ("retry", "temperature"), [(1, 0.2), (2, 0.4), (3, 0.6), (4, 0.8), (5, 0.8), (9, 0.8)]
)
def test_chandra_2_is_sampled_more_freely_each_time(retry: int, temperature: float) -> None:
    sampling = retry_sampling(ModelFamily.CHANDRA_2, retry, 11)
    assert sampling.temperature == pytest.approx(temperature)
    assert (sampling.top_p, sampling.seed) == (0.95, 11)


def test_the_first_attempt_is_no_retry() -> None:
    with pytest.raises(ValueError, match="no retry"):
        retry_sampling(ModelFamily.CHANDRA_1, 0, 0)


def test_a_name_has_its_own_seed_for_each_retry_and_always_the_same() -> None:
    seeds = {seed_of(name, number) for name in ("a.png", "b.png") for number in (1, 2, 3)}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert seed_of("a.png", 1) == seed_of(b"a.png", 1) == 326923706  # as version 0.1 had it
    assert seed_of("\udcff.png", 1) >= 0


@pytest.mark.parametrize(
    ("text", "reason", "state"),
    [
        ("read", "stop", PageState.OK),
        ("", "stop", PageState.EMPTY),
        (" \n", "stop", PageState.EMPTY),
        ("so far", "length", PageState.TRUNCATED),
        ("", "length", PageState.TRUNCATED),
        ("anything", "repetition", PageState.REPETITION),
        (WORDS + LOOP, "stop", PageState.REPETITION),
        (WORDS + LOOP, "length", PageState.REPETITION),
        ("x", "error", PageState.ERROR),
    ],
)
def test_how_an_answer_ended_says_its_state(text: str, reason: str, state: PageState) -> None:
    found = attempt(text, reason)
    assert found.state is state
    assert found.tokens == len(text)
    assert found.text == ("" if state is PageState.EMPTY else text)


def test_an_answer_that_cannot_be_decoded_is_an_error_of_its_page() -> None:
    def broken(ids: Sequence[int]) -> str:
        raise KeyError("poison")

    found = Attempt.of(broken, [1, 2], "stop", 1.0)
    assert (found.state, found.status) == (PageState.ERROR, "error:internal: KeyError: 'poison'")


@pytest.mark.parametrize("most", [0, 1, 3])
def test_a_page_that_repeats_itself_is_read_again_so_often_and_no_more(most: int) -> None:
    attempts = [attempt(LOOP)]
    while Retries(most).wants_another(attempts):
        attempts.append(attempt(LOOP))
    assert len(attempts) == 1 + most


def test_a_page_that_was_read_well_or_is_empty_or_failed_is_not_read_again() -> None:
    for found in (attempt(WORDS), attempt(""), attempt("x", "error")):
        assert not Retries().wants_another([found])
    assert not Retries().wants_another([attempt(LOOP), attempt(WORDS)])


def test_a_truncated_page_is_read_again_only_where_that_is_asked_for() -> None:
    cut = attempt(WORDS, "length")
    assert not Retries().wants_another([cut])
    assert Retries(truncated=True).wants_another([cut])
    assert not Retries(0, truncated=True).wants_another([cut])


def test_an_empty_answer_is_not_believed_where_there_was_one_with_words() -> None:
    assert Retries().wants_another([attempt(WORDS + LOOP), attempt("")])


def test_a_whole_answer_is_kept_however_short_it_is() -> None:
    whole = attempt("short")
    assert best([attempt(WORDS + LOOP), whole]) is whole


def test_of_answers_that_are_not_whole_the_one_that_says_most_is_kept_not_the_longest() -> None:
    says_little, says_much = attempt(WORDS[:100] + LOOP * 10), attempt(WORDS + LOOP)
    assert best([says_little, says_much, attempt(""), attempt(LOOP)]) is says_much
    cut = attempt(WORDS * 2 + "and some more than all others", "length")
    assert best([says_little, says_much, cut]) is cut


def test_of_equals_the_first_answer_is_kept() -> None:
    first, second = attempt(WORDS + LOOP), attempt(WORDS + LOOP)
    assert best([first, second]) is first


def test_an_error_is_kept_only_where_there_is_nothing_else() -> None:
    failed, repeats = attempt(WORDS, "error"), attempt("few words" + LOOP)
    assert best([repeats, failed]) is repeats
    assert best([failed]) is failed


def test_an_answer_counts_all_attempts_and_tells_those_of_the_kept_one_apart() -> None:
    kept, other = attempt(WORDS + LOOP), attempt(LOOP)
    answer = Answer.of([other, kept, other], 50)
    assert (answer.status, answer.text) == ("error:repetition", kept.text)
    assert (answer.attempts, answer.seconds, answer.prompt_tokens) == (3, 6.0, 50)
    assert answer.output_tokens == kept.tokens
    assert answer.generated_tokens == kept.tokens + 2 * other.tokens
