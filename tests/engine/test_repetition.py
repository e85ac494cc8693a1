"""Telling a page that repeats itself without end from one that does so rightly."""

import numpy as np
import pytest
from chandra.model.util import detect_repeat_token
from hypothesis import event, given, settings
from hypothesis import strategies as st

from mlx_chandra.engine.repetition import (
    MINIMUM_SPAN,
    ends_in_repetition,
    is_repeated_text,
    is_repeating,
)

FRESH = np.random.default_rng(0).integers(0, 50_000, 2500).tolist()
WORDS = " ".join(f"word{number * 7919 % 1000}" for number in range(300))

# Answers that ended, as the models give them; the official client says which repeat themselves at their end.
ANSWERS = {
    "nothing": "",
    "one letter": "a",
    "fresh words": WORDS,
    "16 dots": WORDS + "." * 16,
    "17 dots": WORDS + "." * 17,
    "dots before a short ending": f"<p>{WORDS}{'.' * 300} 12</p></div>",
    "dots before an ending of 50": WORDS + "." * 17 + "x y z " * 8 + "ab",
    "dots before an ending of 51": WORDS + "." * 16 + "x y z " * 8 + "abc",
    "dots inside": f"<p>Contents{'.' * 300}12</p><p>{WORDS}</p>",
    "a word four times": WORDS + "again " * 4,
    "a word six times": WORDS + "again " * 6,
    "a word seven times": WORDS + "again " * 7,
    "a line five times": WORDS + "<p>The same line over and over.</p>" * 5,
    "a line four times": WORDS + "<p>The same line over and over.</p>" * 4,
    "a cut line at the end": WORDS + "<p>The same line over and over.</p>" * 9 + "<p>The sa",
    "a unit of 250": WORDS + WORDS[100:350] * 5,
    "a unit of 250, four times": WORDS + WORDS[100:350] * 4,
    "a unit of 251": WORDS + WORDS[100:351] * 6,
    "an empty table": f"<table>{'<tr><td></td><td></td></tr>' * 9}</table></div>",
    "an empty table that more follows": f"<table>{'<tr><td></td></tr>' * 9}</table><p>{WORDS}</p>",
    "a table with numbers": "".join(f"<tr><td>{n}</td><td>{n * 37 % 101}</td></tr>" for n in range(40)),
    "only one letter": "z" * 17,
    "only one letter, 16 times": "z" * 16,
    "repetition of several bytes": WORDS + "日本" * 12,
    "spaces": WORDS + " " * 40,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_finished_answer_repeats_itself_exactly_when_the_official_client_says_so(name: str) -> None:
    text = ANSWERS[name]
    theirs = detect_repeat_token(text) or (len(text) > 50 and detect_repeat_token(text, cut_from_end=50))
    assert ends_in_repetition(text) is theirs


def test_the_answers_above_are_of_both_kinds() -> None:
    flagged = {name for name, text in ANSWERS.items() if ends_in_repetition(text)}
    assert {"17 dots", "a word seven times", "an empty table", "a unit of 250"} <= flagged
    assert not {"16 dots", "dots inside", "an empty table that more follows", "a unit of 251"} & flagged


@settings(max_examples=500, deadline=None, database=None)
@given(
    before=st.text("abcdef", max_size=80),
    unit=st.text("ab<>. \u65e5\u0301", min_size=1, max_size=9).flatmap(
        lambda unit: st.sampled_from([1, 1, 1, 10, 28]).map(lambda times: (unit * times)[:251])
    ),
    times=st.integers(0, 24),
    after=st.integers(0, 52).map(lambda length: ("xyz" * 18)[:length]),
)
def test_any_mixture_of_units_counts_as_for_the_official_client(
    before: str, unit: str, times: int, after: str
) -> None:
    text = before + unit * times + after
    theirs = detect_repeat_token(text) or (len(text) > 50 and detect_repeat_token(text, cut_from_end=50))
    event("repeats itself" if theirs else "does not")
    assert ends_in_repetition(text) is theirs


@pytest.mark.parametrize("unit", [1, 2, 7, 40, 100, 240])
def test_one_unit_over_and_over_is_seen_whatever_its_length(unit: int) -> None:
    assert is_repeating(FRESH[:300] + FRESH[:unit] * (1 + max(MINIMUM_SPAN, 6 * unit) // unit))


@pytest.mark.parametrize("unit", [1, 40, 100])
def test_a_repetition_that_was_left_again_is_no_endless_repetition(unit: int) -> None:
    assert not is_repeating(FRESH[:unit] * (2000 // unit) + FRESH[500:510])


def test_fresh_text_is_no_endless_repetition() -> None:
    assert not is_repeating(FRESH)


def test_a_dotted_line_in_work_is_no_endless_repetition_yet() -> None:
    assert not is_repeating(FRESH + [13] * 200)


def test_an_empty_table_in_work_of_twenty_rows_is_no_endless_repetition_yet() -> None:
    row = [5, *[1, 2, 3, 4] * 10, 6, 7]  # <tr>, ten empty cells, </tr>
    assert not is_repeating(FRESH[:300] + row * 20)


def test_a_long_paragraph_that_stands_there_thrice_is_no_endless_repetition() -> None:
    assert not is_repeating(FRESH[:200] + FRESH[500:740] * 3)


@pytest.mark.parametrize("unit", ["a", ".. ", "<td></td>", WORDS[:250]])
def test_a_text_of_one_unit_is_seen_wherever_it_begins_and_ends(unit: str) -> None:
    text = unit * (3000 // len(unit))
    assert is_repeated_text(text)
    assert is_repeated_text(text[1:-1])
    assert is_repeated_text("\ufffd" + text + "\ufffd\ufffd")  # characters that the cut went through


@pytest.mark.parametrize("text", ["", "a", WORDS, "." * 3000 + "1", "1" + "." * 3000, WORDS[:250] * 4])
def test_a_text_with_anything_else_in_it_or_few_units_is_none(text: str) -> None:
    assert not is_repeated_text(text)
