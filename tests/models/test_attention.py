"""Every form of attention against its plain meaning, written out."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_chandra.models.attention import (
    DecodeView,
    SegmentPass,
    decode_attention,
    decode_view,
    reference_decode,
    segment_attention,
)
from mlx_chandra.models.backend import DecodeAttention, PrefillForm

# Outputs are averages of standard normal values, so these are absolute errors of numbers up to about 4:
# float16 and bfloat16 round such a number by at most 0.002 and 0.016, and their probabilities a little too.
TOLERANCES = {mx.float32: 1e-5, mx.float16: 4e-3, mx.bfloat16: 4e-2}
RUBBISH = 1e3  # in places of the cache that no page owns; finite, as what pages leave behind


@dataclass(frozen=True)
class Heads:
    """Head counts and size of one layer."""

    queries: int
    shared: int  # key/value heads
    size: int

    def __str__(self) -> str:
        return f"{self.queries}x{self.shared}x{self.size}"


HEADS = [Heads(4, 4, 16), Heads(4, 2, 64), Heads(6, 1, 32), Heads(8, 2, 80), Heads(32, 8, 128)]
LENGTHS = [(1,), (256,), (1, 1, 1), (1, 7, 63, 64, 65, 200), (200, 3)]


def normal(seed: int, *shape: int) -> mx.array:
    return mx.array(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def cache_array(seed: int, heads: Heads, lengths: tuple[int, ...]) -> mx.array:
    """[slots, kv_heads, capacity, d]: normal values where the pages' tokens are, rubbish everywhere else."""
    array = np.full((len(lengths) + 2, heads.shared, 320, heads.size), RUBBISH, np.float32)
    for row, length in enumerate(lengths):
        array[row, :, :length] = np.array(normal(seed + row, heads.shared, length, heads.size))
    return mx.array(array)


def view_of(
    lengths: tuple[int, ...], window: int, form: DecodeAttention, dtype: mx.Dtype, heads: Heads = HEADS[0]
) -> DecodeView:
    return decode_view(lengths, mx.array(lengths), window, form, dtype, (heads.queries, heads.shared))


def attended(queries: mx.array, keys: mx.array, values: mx.array, view: DecodeView) -> mx.array:
    """Attention to the part of the cache's rows that the view is of."""
    seen = (slice(len(queries)), slice(None), slice(view.window))
    return decode_attention(queries, keys[seen], values[seen], view)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("form", DecodeAttention)
def test_every_form_of_decode_attention_means_the_same_and_reads_no_unused_place(
    form: DecodeAttention, heads: Heads, lengths: tuple[int, ...]
) -> None:
    queries = normal(1, len(lengths), heads.queries, heads.size)
    keys, values = cache_array(100, heads, lengths), cache_array(200, heads, lengths)
    view = view_of(lengths, 256, form, mx.float32, heads)
    ours = attended(queries, keys, values, view)
    assert ours.shape == (len(lengths), heads.queries * heads.size)
    assert_close(ours, reference_decode(queries, keys, values, lengths), mx.float32)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("form", DecodeAttention)
def test_every_form_means_the_same_in_16_bits_within_their_rounding(
    form: DecodeAttention, dtype: mx.Dtype
) -> None:
    heads, lengths = Heads(8, 2, 64), (1, 7, 100, 250)
    queries = normal(1, len(lengths), heads.queries, heads.size).astype(dtype)
    keys = cache_array(100, heads, lengths).astype(dtype)
    values = cache_array(200, heads, lengths).astype(dtype)
    view = view_of(lengths, 256, form, dtype, heads)
    ours = attended(queries, keys, values, view)
    assert ours.dtype == dtype
    assert_close(ours, reference_decode(queries, keys, values, lengths), dtype)


@pytest.mark.parametrize("form", DecodeAttention)
def test_a_page_with_one_token_gets_exactly_that_tokens_values(form: DecodeAttention) -> None:
    heads, lengths = Heads(4, 2, 16), (1, 30)
    keys, values = cache_array(100, heads, lengths), cache_array(200, heads, lengths)
    view = view_of(lengths, 64, form, mx.float32, heads)
    ours = attended(normal(1, 2, 4, 16), keys, values, view)
    expected = mx.repeat(values[0, :, 0], 2, axis=0).reshape(-1)  # both query heads of a shared one
    assert_close(ours[0], expected, mx.float32)


def test_a_mask_says_what_each_page_sees_where_that_is_not_everything() -> None:
    assert view_of((64, 64), 64, DecodeAttention.WRITTEN_OUT, mx.float32).mask is None
    written_out = view_of((3, 64), 64, DecodeAttention.WRITTEN_OUT, mx.float32).mask
    assert written_out is not None
    assert (written_out == 0).sum().item() == 67
    masked = view_of((3,), 64, DecodeAttention.MASKED, mx.float32).mask
    added = view_of((3,), 64, DecodeAttention.PRODUCTS, mx.float16).mask
    assert masked is not None
    assert masked.shape == (1, 1, 1, 64)
    assert masked.dtype == mx.bool_
    assert masked.sum().item() == 3
    assert added is not None
    assert added.shape == (1, 4, 1, 64)  # for each key/value head
    assert added.dtype == mx.float16
    assert (added == 0).sum().item() == 4 * 3


FORMS = (
    PrefillForm(),
    PrefillForm((24, 64)),
    PrefillForm((72,)),
    PrefillForm((64, 80, 128)),
    PrefillForm(multiple=4),
    PrefillForm(multiple=64),
    PrefillForm(scores=1),
    PrefillForm(scores=20),
    PrefillForm(scores=100_000),
)


def plain_segments(
    queries: mx.array, keys: mx.array, values: mx.array, lengths: tuple[int, ...], causal: bool
) -> NDArray[np.float64]:
    """Attention one segment, head and token at a time, in float64: [T, heads * d]."""
    q, k, v = (np.array(x).astype(np.float64) for x in (queries, keys, values))
    share = q.shape[1] // k.shape[1]
    out = np.zeros_like(q)
    start = 0
    for length in lengths:
        for token in range(start, start + length):
            stop = token + 1 if causal else start + length
            for head in range(q.shape[1]):
                scores = k[start:stop, head // share] @ q[token, head] * q.shape[2] ** -0.5
                weights = np.exp(scores - scores.max())
                out[token, head] = weights @ v[start:stop, head // share] / weights.sum()
        start += length
    return out.reshape(len(q), -1)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("lengths", [(1,), (9,), (1, 1, 1), (5, 5, 5), (4, 1, 1, 6, 6, 2, 4)], ids=str)
@pytest.mark.parametrize("causal", [True, False])
def test_attention_by_segments_equals_a_plain_loop(
    causal: bool, lengths: tuple[int, ...], form: PrefillForm
) -> None:
    for heads in (Heads(4, 2, 16), Heads(2, 2, 72)):
        queries = normal(1, sum(lengths), heads.queries, heads.size)
        keys, values = (normal(seed, sum(lengths), heads.shared, heads.size) for seed in (2, 3))
        ours = segment_attention(queries, keys, values, lengths, causal, form)
        expected = plain_segments(queries, keys, values, lengths, causal)
        np.testing.assert_allclose(np.array(ours), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_written_out_attention_holds_however_far_apart_the_scores_are(causal: bool) -> None:
    heads, lengths = Heads(4, 2, 16), (7, 5)
    queries = normal(1, sum(lengths), heads.queries, heads.size) * 300  # scores up to about 3,000
    keys, values = (normal(seed, sum(lengths), heads.shared, heads.size) for seed in (2, 3))
    ours = segment_attention(queries, keys, values, lengths, causal, PrefillForm(scores=20))
    expected = plain_segments(queries, keys, values, lengths, causal)
    np.testing.assert_allclose(np.array(ours), expected, rtol=0, atol=2e-3)  # scores are rounded to 2e-4


def test_a_segments_attention_does_not_depend_on_its_neighbours() -> None:
    queries, keys, values = normal(1, 12, 4, 16), normal(2, 12, 2, 16), normal(3, 12, 2, 16)
    before = segment_attention(queries, keys, values, (4, 4, 4), False)
    keys[:4], values[8:] = RUBBISH, -RUBBISH
    after = segment_attention(queries, keys, values, (4, 4, 4), False)
    assert mx.array_equal(before[4:8], after[4:8])
    assert not mx.array_equal(before, after)


def test_the_plain_forward_pass_is_causal_inside_each_segment() -> None:
    queries, keys, values = normal(1, 7, 4, 16), normal(2, 7, 2, 16), normal(3, 7, 2, 16)
    ours = SegmentPass((3, 4), PrefillForm((64,))).attend(0, queries, keys, values)
    expected = plain_segments(queries, keys, values, (3, 4), causal=True)
    np.testing.assert_allclose(np.array(ours), expected, rtol=0, atol=1e-5)


def assert_close(ours: mx.array, expected: mx.array, dtype: mx.Dtype) -> None:
    ours, expected = ours.astype(mx.float32), expected.astype(mx.float32)
    np.testing.assert_allclose(np.array(ours), np.array(expected), rtol=0, atol=TOLERANCES[dtype])
