"""Telling a page in circles from one that repeats itself rightly."""

import numpy as np
import pytest

from mlx_chandra.engine.repeats import MINIMUM_SPAN, is_repeating

FRESH = np.random.default_rng(0).integers(0, 50_000, 2000).tolist()


@pytest.mark.parametrize("piece", [1, 2, 7, 40, 100, 240])
def test_one_piece_over_and_over_is_seen_whatever_its_length(piece: int) -> None:
    assert is_repeating(FRESH[:300] + FRESH[:piece] * (1 + max(MINIMUM_SPAN, 6 * piece) // piece))


@pytest.mark.parametrize("piece", [1, 40, 100])
def test_a_repetition_that_was_left_again_is_no_circle(piece: int) -> None:
    assert not is_repeating(FRESH[:piece] * (2000 // piece) + FRESH[500:510])


def test_fresh_text_is_no_circle() -> None:
    assert not is_repeating(FRESH)


def test_a_dotted_line_is_no_circle() -> None:
    assert not is_repeating(FRESH + [13] * 200)


def test_a_long_paragraph_that_stands_there_thrice_is_no_circle() -> None:
    assert not is_repeating(FRESH[:200] + FRESH[500:740] * 3)
