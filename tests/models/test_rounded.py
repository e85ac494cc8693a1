"""Rounded lengths: what kernels see of segments, and that nothing of it shows outside."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_chandra.models.attention import segment_attention
from mlx_chandra.models.backend import PrefillForm
from mlx_chandra.models.rounded import rounded_layout


def test_segments_of_one_rounded_length_go_through_together_in_few_different_numbers() -> None:
    layout = rounded_layout([5, 17, 8, 3, 6, 1, 2, 7], 49, 8, mx.float32)
    assert layout.groups == ((8, 4), (8, 2), (8, 1), (24, 1))


def test_every_token_comes_back_to_its_place() -> None:
    layout = rounded_layout([5, 17, 8], 40, 8, mx.float32)
    tokens = mx.arange(40)[:, None]
    assert layout.gathered(layout.spread(tokens))[:30, 0].tolist() == list(range(30))


def test_nothing_is_spread_or_marked_where_lengths_are_round_already() -> None:
    layout = rounded_layout([8, 8, 16], 32, 8, mx.float32)
    assert (layout.tokens, layout.places, layout.marks) == (None, None, None)


@pytest.mark.parametrize("causal", [True, False])
def test_tokens_behind_the_last_segment_change_nothing(causal: bool) -> None:
    q, k, v = (mx.random.normal((20, heads, 16), key=mx.random.key(heads)) for heads in (4, 2, 2))
    if not causal:
        k, v = mx.repeat(k, 2, axis=1), mx.repeat(v, 2, axis=1)
    alone = segment_attention(q[:13], k[:13], v[:13], (9, 4), causal)
    k[13:], v[13:] = 1e4, -1e4
    for form in (PrefillForm(), PrefillForm(multiple=8), PrefillForm(multiple=16)):
        longer = segment_attention(q, k, v, (9, 4), causal, form)
        assert longer.shape == (20, 64)
        np.testing.assert_allclose(np.array(longer[:13]), np.array(alone), rtol=0, atol=1e-5)
