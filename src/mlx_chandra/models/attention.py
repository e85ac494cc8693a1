"""Attention without padding, in the forms that each backend is quick at.

Prefill and vision attend by segment: runs of neighbouring segments of one length go through in one call.
Decode has one query per page against that page's slot of the cache; `models/backend.py` chooses its form, and
`reference_decode` is the plain meaning that tests compare every form with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from math import gcd
from typing import Protocol

import mlx.core as mx

from mlx_chandra.models.backend import DecodeAttention, PrefillForm
from mlx_chandra.models.constants import constant
from mlx_chandra.models.pieces import compute
from mlx_chandra.models.powers import LOG2_E, power_of_two
from mlx_chandra.models.rounded import (
    as_batch,
    as_list,
    rounded_attention,
    rounded_causal_attention,
    rounded_layout,
    together,
)

LEAST_EXPONENT = 100.0  # 2**-100 is as good as nothing beside the largest weight, which is about 1
MLX_ATTENTION = PrefillForm()
_MOST_CAUSAL = 128  # queries in one block of a prompt that is written out
_KEYS_TOGETHER = 128  # in one product of a decode step that is written out
_FEW_SCORES = 8192


class AttentionPass(Protocol):
    """How one pass over a flat list of tokens attends, and what it keeps; layers know nothing else of it."""

    def attend(self, layer: int, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        """queries [T, heads, d], keys and values [T, kv_heads, d] -> [T, heads * d]."""
        ...

    def attend_joined(self, layer: int, queries: mx.array, joined: mx.array) -> mx.array:
        """The same for keys and values in one array [T, kv_heads, 2, d]: less to launch. Queries may come by
        key/value head: [T, kv_heads, heads / kv_heads, d]."""
        ...


@dataclass(frozen=True)
class SegmentPass:
    """Causal attention inside each segment, nothing kept: the plain forward pass."""

    lengths: tuple[int, ...]
    form: PrefillForm = MLX_ATTENTION

    def attend(self, layer: int, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        return segment_attention(queries, keys, values, self.lengths, True, self.form)

    def attend_joined(self, layer: int, queries: mx.array, joined: mx.array) -> mx.array:
        return self.attend(layer, queries, joined[:, :, 0], joined[:, :, 1])


def segment_attention(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    lengths: Sequence[int],
    causal: bool,
    form: PrefillForm = MLX_ATTENTION,
) -> mx.array:
    """Attend within consecutive segments of a flat list of T tokens.

    Args:
        queries: [T, heads, d]; keys, values: [T, kv_heads, d], heads a multiple of kv_heads.
        lengths: Tokens of each segment; they add up to T or less. What comes out for tokens behind the last
            segment means nothing.
        causal: Whether a token sees only itself and those before it in its segment.
        form: The backend's form.

    Returns:
        [T, heads * d]
    """
    if form.multiple and causal:
        return rounded_causal_attention(queries, keys, values, lengths, form.multiple)
    if form.multiple:
        layout = rounded_layout(lengths, len(keys), form.multiple, keys.dtype)
        return rounded_attention(queries, keys, values, layout)
    scale = queries.shape[-1] ** -0.5
    width = _padded_width(queries.shape[-1], form.fused_head_dims)
    outputs = []
    start = 0
    for length, run in groupby(lengths):
        count = len(list(run))
        stop = start + count * length
        q, k, v = (_widened(as_batch(x[start:stop], count), width) for x in (queries, keys, values))
        if form.scores:
            out = _written_out_attention(q, k, v, scale, causal, form.scores)
        else:
            out = mx.fast.scaled_dot_product_attention(
                q, k, v, scale=scale, mask="causal" if causal else None
            )
        outputs.append(as_list(out)[:, :, : queries.shape[-1]])
        start = stop
    return together(outputs, len(queries)).reshape(len(queries), -1)


def _written_out_attention(
    q: mx.array, k: mx.array, v: mx.array, scale: float, causal: bool, most_scores: int
) -> mx.array:
    """Attention of q [n, heads, L, d] to k, v [n, kv_heads, L, d] in blocks, each computed at once."""
    n, heads, length, width = q.shape
    share = heads // k.shape[1]
    # contiguous, or every product copies them anew; one array for each head, or it copies them for the others
    dtype, q = q.dtype, (q * (scale * LOG2_E)).reshape(n * heads, length, width)
    q, k, v = (x.astype(mx.float32) for x in (q, k, v))  # as powers of two need it
    q = mx.contiguous(q)
    k, v = (mx.contiguous(mx.repeat(x, share, axis=1).reshape(q.shape)) for x in (k, v))
    # queries; where they see what is before them, much of a long block would be computed to be thrown away
    block = min(length, max(1, most_scores // length), _MOST_CAUSAL if causal else length)
    together = max(1, most_scores // (length * block))  # heads
    mask = _causal_mask(length, block) if causal else None
    mx.eval(q, k, v, mask)
    starts = range(0, length, block)

    def attend(some: slice, start: int) -> tuple[mx.array]:
        stop = min(start + block, length)
        if mask is None:
            return (_block(q[some, start:stop], k[some], v[some], None),)
        seen = mask[length - start : length - start + stop, : stop - start]
        return (_block(q[some, start:stop], k[some, :stop], v[some, :stop], seen),)

    groups = [slice(first, first + together) for first in range(0, n * heads, together)]
    pieces = [partial(attend, some, start) for some in groups for start in starts]
    blocks = [array for (array,) in compute(pieces)]
    columns = range(0, len(blocks), len(starts))
    outputs = [mx.concatenate(blocks[first : first + len(starts)], axis=1) for first in columns]
    return mx.concatenate(outputs).reshape(n, heads, length, width).astype(dtype)


def _causal_mask(length: int, block: int) -> mx.array:
    """What is added to scores [S, B] of the queries from `start` on: the rows from length - start on.

    Returns:
        [length + block, block]; row r is for the key that stands r - length behind the first query.
    """
    behind = mx.arange(-length, block)[:, None]
    return mx.where(behind <= mx.arange(block), 0.0, -mx.inf)


def _block(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None) -> mx.array:
    """softmax in powers of two of q [h, B, d] and k [h, S, d], times v [h, S, d].

    Scores are kept with a query's keys in a column: MLX's CPU backend takes maxima and sums of columns for
    many queries at once, those of rows one number after another.

    Args:
        mask: [S, B], added.
    """
    scores = k @ q.swapaxes(-1, -2)  # [h, S, B]
    if mask is not None:
        scores = scores + mask
    top = mx.round(scores.max(axis=1, keepdims=True))  # whole, so that it changes nothing but the exponent
    weights = power_of_two(mx.maximum(scores, top - LEAST_EXPONENT), top)
    sums = weights.sum(axis=1)[..., None]  # [h, B, 1]
    return (weights.swapaxes(-1, -2) @ v) / sums


def _padded_width(width: int, fused: tuple[int, ...]) -> int:
    return min((size for size in fused if size >= width), default=width)


def _widened(x: mx.array, width: int) -> mx.array:
    """[count, heads, length, d] with zeros behind d up to `width`."""
    added = width - x.shape[-1]
    return mx.pad(x, [(0, 0), (0, 0), (0, 0), (0, added)]) if added else x


@dataclass(frozen=True)
class DecodeView:
    """What one decode step sees of each page, the same for all layers.

    Attributes:
        window: The longest page's tokens, this step's own included, rounded up to a size that many steps
            share.
        mask: [n, 1, 1, window], for PRODUCTS [n, kv_heads, heads / kv_heads, window]; True, or 0 where added,
            at what a page may see. None where each sees all.
        form: The backend's form.
    """

    window: int
    mask: mx.array | None
    form: DecodeAttention


def decode_view(
    lengths: Sequence[int],
    on_device: mx.array,
    window: int,
    form: DecodeAttention,
    dtype: mx.Dtype,
    heads: tuple[int, int],
) -> DecodeView:
    """Of pages with so many tokens in their slots, this step's own included.

    Args:
        lengths: On the host; on_device: the same [n] there.
        heads: Of queries, and of keys.
    """
    if form is DecodeAttention.WRITTEN_OUT and min(lengths) == window:
        return DecodeView(window, None, form)
    seen = mx.arange(window)[None, :] < on_device[:, None]  # [n, window]
    if form is not DecodeAttention.MASKED:
        seen = mx.where(seen, constant(0.0, dtype), constant(-mx.inf, dtype))
    mask = seen[:, None, None, :]
    if form is DecodeAttention.PRODUCTS:
        # a row in memory for each head's product, so that all products stand at even distances
        count, (queries, shared) = len(lengths), heads
        mask = mx.contiguous(mx.broadcast_to(mask, (count, shared, 1, window)))
        mask = mx.broadcast_to(mask, (count, shared, queries // shared, window))
    return DecodeView(window, mask, form)


def decode_attention(queries: mx.array, keys: mx.array, values: mx.array, view: DecodeView) -> mx.array:
    """One query per page against the first `lengths[i]` entries of its row of the cache.

    Args:
        queries: [n, heads, d] or, by key/value head, [n, kv_heads, heads / kv_heads, d]
        keys, values: [n, kv_heads, window, d]

    Returns:
        [n, heads * d]
    """
    n, kv_heads, _, width = keys.shape
    scale = width**-0.5
    if view.form is DecodeAttention.MASKED:
        q = queries.reshape(n, -1, 1, width)
    else:  # the queries that share a key/value head side by side, as if they were a short sequence
        q = queries if queries.ndim == 4 else queries.reshape(n, kv_heads, -1, width)  # each view costs time
    if view.form is DecodeAttention.WRITTEN_OUT:
        out = _in_blocks_of_keys(q * (scale * LOG2_E), keys, values, view.mask)
    elif view.form is DecodeAttention.PRODUCTS:
        assert view.mask is not None, "decode_view makes one"
        scores = mx.addmm(view.mask, q, keys.swapaxes(-1, -2), alpha=scale)
        out = mx.softmax(scores, axis=-1, precise=True) @ values
    else:
        out = mx.fast.scaled_dot_product_attention(q, keys, values, scale=scale, mask=view.mask)
    return out.reshape(n, -1)


def _in_blocks_of_keys(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None) -> mx.array:
    """softmax in powers of two of q [n, kv_heads, share, d] and k, times v, both [n, kv_heads, window, d].

    A few keys at a time for each product, so that it is small: OpenBLAS reads a small one's matrices where
    they are, and copies those of a large one beforehand, which takes longer than the product of a few rows.
    """
    n, kv_heads, window, width = k.shape
    keys = gcd(window, _KEYS_TOGETHER)
    blocks = (n, kv_heads, window // keys, keys)
    k, v = k.reshape(*blocks, width), v.reshape(*blocks, width)
    scores = q[:, :, None] @ k.swapaxes(-1, -2)  # [n, kv_heads, blocks, share, keys]
    if mask is not None:
        scores = scores + mask.reshape(n, 1, -1, 1, keys)
    scores = scores - scores.max(axis=(2, 4), keepdims=True)
    if scores.size <= _FEW_SCORES:  # one operation takes less time to start than many
        weights = mx.power(2.0, scores)
    else:
        weights = power_of_two(mx.maximum(scores, -LEAST_EXPONENT))
    sums = weights.sum(axis=(2, 4), keepdims=True)  # [n, kv_heads, 1, share, 1]
    return (weights @ v).sum(axis=2, keepdims=True) / sums


def reference_decode(queries: mx.array, keys: mx.array, values: mx.array, lengths: Sequence[int]) -> mx.array:
    """The same as `decode_attention`, written out: softmax of scaled scores, one page and head at a time."""
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
