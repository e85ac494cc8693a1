"""Every form of attention against its plain meaning, written out."""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_chandra.models import cpu, cuda
from mlx_chandra.models.attention import PLAIN, AttentionForm, SegmentPass

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


FORMS = {"plain": PLAIN, "cpu": cpu.ATTENTION, "cuda": cuda.rounded_form(64), "cuda 4": cuda.rounded_form(4)}
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


def attended(
    form: AttentionForm,
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    lengths: tuple[int, ...],
    window: int,
) -> mx.array:
    """A step's attention to the first entries of the cache's slots."""
    seen = (slice(len(queries)), slice(None), slice(window))
    heads, kv_heads = queries.shape[1], keys.shape[1]
    mask = form.step_mask(mx.array(lengths), window, heads, kv_heads, keys.dtype)
    return form.step(queries, keys[seen], values[seen], mask)


def reference_step(queries: mx.array, keys: mx.array, values: mx.array, lengths: tuple[int, ...]) -> mx.array:
    """The same written out: softmax of scaled scores, one page and head at a time."""
    n, heads, width = queries.shape
    share = heads // keys.shape[1]
    rows = []
    for i, length in enumerate(lengths):
        for head in range(heads):
            k = keys[i, head // share, :length].astype(mx.float32)  # [length, d]
            v = values[i, head // share, :length].astype(mx.float32)
            scores = k @ queries[i, head].astype(mx.float32) * width**-0.5
            rows.append(mx.softmax(scores) @ v)
    return mx.stack(rows).reshape(n, heads * width).astype(queries.dtype)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_step_attention_means_the_same_and_reads_no_unused_place(
    form: AttentionForm, heads: Heads, lengths: tuple[int, ...]
) -> None:
    queries = normal(1, len(lengths), heads.queries, heads.size)
    keys, values = cache_array(100, heads, lengths), cache_array(200, heads, lengths)
    ours = attended(form, queries, keys, values, lengths, 256)
    assert ours.shape == (len(lengths), heads.queries * heads.size)
    assert_close(ours, reference_step(queries, keys, values, lengths), mx.float32)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_means_the_same_in_16_bits_within_their_rounding(
    form: AttentionForm, dtype: mx.Dtype
) -> None:
    heads, lengths = Heads(8, 2, 64), (1, 7, 100, 250)
    queries = normal(1, len(lengths), heads.queries, heads.size).astype(dtype)
    keys = cache_array(100, heads, lengths).astype(dtype)
    values = cache_array(200, heads, lengths).astype(dtype)
    ours = attended(form, queries, keys, values, lengths, 256)
    assert ours.dtype == dtype
    assert_close(ours, reference_step(queries, keys, values, lengths), dtype)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_page_with_one_token_gets_exactly_that_tokens_values(form: AttentionForm) -> None:
    heads, lengths = Heads(4, 2, 16), (1, 30)
    keys, values = cache_array(100, heads, lengths), cache_array(200, heads, lengths)
    ours = attended(form, normal(1, 2, 4, 16), keys, values, lengths, 64)
    expected = mx.repeat(values[0, :, 0], 2, axis=0).reshape(-1)  # both query heads of a shared one
    assert_close(ours[0], expected, mx.float32)


def test_a_mask_says_what_each_page_sees_and_is_laid_out_as_its_form_reads_it() -> None:
    lengths = mx.array([3, 64])
    plain = PLAIN.step_mask(lengths, 64, 4, 2, mx.float16)
    assert (plain.shape, plain.dtype) == ((2, 4, 1, 64), mx.bool_)
    assert plain.sum(axis=-1)[:, :, 0].tolist() == [[3] * 4, [64] * 4]
    assert np.asarray(plain).flags.c_contiguous  # or Metal's kernel copies it in every layer
    added = FORMS["cuda"].step_mask(lengths, 64, 4, 2, mx.float16)
    assert (added.shape, added.dtype) == ((2, 2, 2, 64), mx.float16)
    assert (added == 0).sum(axis=-1).tolist() == [[[3] * 2] * 2, [[64] * 2] * 2]


def by_segment(
    form: AttentionForm,
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    lengths: tuple[int, ...],
    causal: bool,
) -> mx.array:
    return form.segments(lengths, len(queries), causal, queries.dtype)(queries, keys, values)


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


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("lengths", [(1,), (9,), (1, 1, 1), (5, 5, 5), (4, 1, 1, 6, 6, 2, 4)], ids=str)
@pytest.mark.parametrize("causal", [True, False])
def test_attention_by_segments_equals_a_plain_loop(
    causal: bool, lengths: tuple[int, ...], form: AttentionForm
) -> None:
    for heads in (Heads(4, 2, 16), Heads(2, 2, 72)):
        queries = normal(1, sum(lengths), heads.queries, heads.size)
        keys, values = (normal(seed, sum(lengths), heads.shared, heads.size) for seed in (2, 3))
        ours = by_segment(form, queries, keys, values, lengths, causal)
        expected = plain_segments(queries, keys, values, lengths, causal)
        np.testing.assert_allclose(np.array(ours), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_attention_on_a_cpu_holds_however_far_apart_the_scores_are(causal: bool) -> None:
    heads, lengths = Heads(4, 2, 16), (7, 5)
    queries = normal(1, sum(lengths), heads.queries, heads.size) * 300  # scores up to about 3,000
    keys, values = (normal(seed, sum(lengths), heads.shared, heads.size) for seed in (2, 3))
    ours = by_segment(cpu.ATTENTION, queries, keys, values, lengths, causal)
    expected = plain_segments(queries, keys, values, lengths, causal)
    np.testing.assert_allclose(np.array(ours), expected, rtol=0, atol=2e-3)  # scores are rounded to 2e-4


def test_a_segments_attention_does_not_depend_on_its_neighbours() -> None:
    queries, keys, values = normal(1, 12, 4, 16), normal(2, 12, 2, 16), normal(3, 12, 2, 16)
    before = by_segment(PLAIN, queries, keys, values, (4, 4, 4), False)
    keys[:4], values[8:] = RUBBISH, -RUBBISH
    after = by_segment(PLAIN, queries, keys, values, (4, 4, 4), False)
    assert mx.array_equal(before[4:8], after[4:8])
    assert not mx.array_equal(before, after)


def test_the_plain_forward_pass_is_causal_inside_each_segment() -> None:
    queries, keys, values = normal(1, 7, 4, 16), normal(2, 7, 2, 16), normal(3, 7, 2, 16)
    ours = SegmentPass((3, 4)).attend(0, queries, keys, values)
    expected = plain_segments(queries, keys, values, (3, 4), causal=True)
    np.testing.assert_allclose(np.array(ours), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_tokens_behind_the_last_segment_change_nothing(form: AttentionForm, causal: bool) -> None:
    q, k, v = normal(1, 20, 4, 16), normal(2, 20, 2, 16), normal(3, 20, 2, 16)
    if not causal:
        k, v = mx.repeat(k, 2, axis=1), mx.repeat(v, 2, axis=1)
    alone = by_segment(PLAIN, q[:13], k[:13], v[:13], (9, 4), causal)
    k[13:], v[13:] = 1e4, -1e4
    longer = by_segment(form, q, k, v, (9, 4), causal)
    assert longer.shape == (20, 64)
    np.testing.assert_allclose(np.array(longer[:13]), np.array(alone), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [64, 72, 80, 96, 128])
def test_no_head_size_is_padded(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    seen = []
    original = mx.fast.scaled_dot_product_attention

    def noted(q: mx.array, k: mx.array, v: mx.array, **settings: Any) -> mx.array:
        seen.append(q.shape[-1])
        return original(q, k, v, **settings)

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", noted)
    by_segment(PLAIN, *(normal(seed, 9, 2, size) for seed in (1, 2, 3)), (5, 4), False)
    assert set(seen) == {size}


def assert_close(ours: mx.array, expected: mx.array, dtype: mx.Dtype) -> None:
    ours, expected = ours.astype(mx.float32), expected.astype(mx.float32)
    np.testing.assert_allclose(np.array(ours), np.array(expected), rtol=0, atol=TOLERANCES[dtype])
