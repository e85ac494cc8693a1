"""When a page is read again, what its readings are worth, and which is kept."""

from collections.abc import Sequence

import pytest

from mlx_chandra.attempts import Attempt, Retries, best, judged, result_of, seed_of
from mlx_chandra.documents.page import Document, Page
from mlx_chandra.engine.responses import OVERFLOW
from mlx_chandra.errors import PageState
from mlx_chandra.outputs.layout import Size

WORDS = " ".join(f"word{number * 7919 % 1000}" for number in range(200))
LOOP = "<td></td>" * 100


def decode(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))


def attempt(text: str, reason: str = "stop") -> Attempt:
    error = OVERFLOW if reason == "error" else None
    return judged(decode, [ord(c) for c in text], reason, 2.0, error)


def page(path: str) -> Page:
    return Page(Document(path, "", "a"))


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

    found = judged(broken, [1, 2], "stop", 1.0)
    assert (found.state, found.status) == (PageState.ERROR, "error:internal: KeyError: 'poison'")


@pytest.mark.parametrize("most", [0, 1, 3])
def test_a_page_in_circles_is_read_again_so_often_and_no_more(most: int) -> None:
    attempts: list[Attempt] = [attempt(LOOP)]
    while Retries(most).wants_another(attempts):
        attempts.append(attempt(LOOP))
    assert len(attempts) == 1 + most


def test_a_page_that_was_read_well_or_is_empty_or_failed_is_not_read_again() -> None:
    for found in (attempt(WORDS), attempt(""), attempt("x", "error")):
        assert not Retries().wants_another([found])

    assert not Retries().wants_another([attempt(LOOP), attempt(WORDS)])


def test_a_page_that_was_cut_off_is_read_again_only_where_that_is_wished() -> None:
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
    failed = attempt(WORDS, "error")
    circles = attempt("few words" + LOOP)
    assert best([circles, failed]) is circles
    assert best([failed]) is failed


def test_a_result_counts_all_attempts_and_tells_those_of_the_kept_one_apart() -> None:
    kept, other = attempt(WORDS + LOOP), attempt(LOOP)
    result = result_of(page("/in/a.png"), Size(3, 4), 50, [other, kept, other])
    assert (result.state, result.status, result.text) == (kept.state, "error:repetition", kept.text)
    assert (result.attempts, result.seconds, result.prompt_tokens) == (3, 6.0, 50)
    assert result.answer_tokens == kept.tokens
    assert result.generated_tokens == kept.tokens + 2 * other.tokens


def test_a_pages_seed_is_its_own_for_each_attempt_and_the_same_in_another_folder() -> None:
    seeds = {seed_of(page(f"/in/{name}"), number) for name in ("a.png", "b.png") for number in (1, 2, 3)}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert seed_of(page("/in/a.png"), 2) == seed_of(page("/elsewhere/a.png"), 2)
    document = Document("/in/a.pdf", "", "a")
    assert seed_of(Page(document, 1), 1) != seed_of(Page(document, 2), 1)
    assert seed_of(page("/in/\udcff.png"), 1) >= 0
