"""Choosing tokens from logits."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_chandra.engine.sampler import GREEDY, NOT_A_TOKEN, Sampling, sample

LOGITS = mx.log(mx.array([0.05, 0.5, 0.3, 0.15]))


def draws(sampling: dict[str, float], count: int) -> list[int]:
    rows = mx.broadcast_to(LOGITS, (count, 4))
    samplings = [Sampling(seed=seed, **sampling) for seed in range(count)]  # type: ignore[arg-type]
    return [int(token) for token in np.array(sample(rows, samplings, [0] * count))]


def test_temperature_zero_takes_the_likeliest_token() -> None:
    assert sample(LOGITS[None], [GREEDY], [0]).item() == 1


def test_draws_follow_the_shares_of_the_tokens() -> None:
    shares = np.bincount(draws({"temperature": 1.0}, 600), minlength=4) / 600
    assert np.abs(shares - np.exp(np.array(LOGITS))).max() < 0.07


def test_a_low_temperature_draws_the_likeliest_more_often() -> None:
    assert draws({"temperature": 0.2}, 200).count(1) > 170


def test_top_p_draws_only_from_the_smallest_set_with_that_share() -> None:
    assert set(draws({"temperature": 1.0, "top_p": 0.6}, 200)) == {1, 2}
    assert set(draws({"temperature": 1.0, "top_p": 0.4}, 50)) == {1}


def test_the_same_seed_and_step_give_the_same_draw_and_others_differ() -> None:
    wide = mx.zeros((1, 1000))
    sampling = Sampling(temperature=1.0, seed=7)
    first, again, later = (sample(wide, [sampling], [step]).item() for step in (3, 3, 4))
    assert first == again
    assert first != later


def test_greedy_rows_are_untouched_by_drawn_neighbours() -> None:
    rows = mx.broadcast_to(LOGITS, (3, 4))
    tokens = sample(rows, [GREEDY, Sampling(temperature=5.0, seed=1), GREEDY], [0, 0, 0])
    assert tokens[0].item() == tokens[2].item() == 1


@pytest.mark.parametrize("settings", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="temperature"):
        Sampling(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.0, top_p=0.9)], ids=["greedy", "drawn"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_no_numbers_give_no_token(number: float, sampling: Sampling) -> None:
    rows = mx.stack([mx.array([0.1, number, 0.3, 0.2]), LOGITS])
    first, second = np.array(sample(rows, [sampling, GREEDY], [0, 0])).tolist()
    assert (first, second) == (NOT_A_TOKEN, 1)
