"""Attention without padding, in MLX's own calls; `AttentionForm` is where a backend puts another form.

Prompts and pictures attend by segment: neighbouring segments of one length go through one call. A decode step
has one query a page, against that page's slot of the cache.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby
from typing import Protocol

import mlx.core as mx

Attend = Callable[[mx.array, mx.array, mx.array], mx.array]  # queries, keys, values -> [T, heads * d]


class AttentionPass(Protocol):
    """How one pass over a flat list of tokens attends, and what it stores. Layers know nothing else of it."""

    def attend(self, layer: int, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        """queries [T, heads, d], keys and values [T, kv_heads, d] -> [T, heads * d]."""
        ...


@dataclass(frozen=True)
class AttentionForm:
    """One way to attend; every form computes the same.

    Attributes:
        segments: See `segments`. The output for tokens behind the last segment means nothing.
        step_mask: Prepares a decode step's mask, once for all layers: see `step_mask`.
        step: Attends with one query a page: queries [n, heads, d] or [n, kv_heads, heads / kv_heads, d], keys
            and values [n, kv_heads, window, d], and that mask -> [n, heads * d].
        multiple: Passes over prompts and pictures are padded to a multiple of so many tokens; 0: not at all.
    """

    segments: Callable[[Sequence[int], int, bool, mx.Dtype], Attend]
    step_mask: Callable[[mx.array, int, int, int, mx.Dtype], mx.array]
    step: Callable[[mx.array, mx.array, mx.array, mx.array], mx.array]
    multiple: int = 0


@cache
def constant(value: float, dtype: mx.Dtype) -> mx.array:
    """Return an array [] of this number, the same one each time.

    A plain number in an expression becomes a new array in the host's memory. On CUDA such memory moves to the
    device page by page, which costs a decode step up to 0.25 ms.
    """
    return mx.array(value, dtype)


def segments(lengths: Sequence[int], total: int, causal: bool, dtype: mx.Dtype) -> Attend:
    """Prepare attention within consecutive segments, once for all layers of a pass of `total` tokens.

    Returns a function of queries [T, heads, d] and keys and values [T, kv_heads, d]. No head size is padded:
    MLX 0.32.4 has Metal kernels for those of both towers. Padding 72 to 80 or 96 there is *unmeasured*.
    """
    return partial(_by_segment, tuple(lengths), causal)


def _by_segment(
    lengths: tuple[int, ...], causal: bool, queries: mx.array, keys: mx.array, values: mx.array
) -> mx.array:
    outputs = []
    start = 0
    for length, run in groupby(lengths):
        count = len(list(run))
        stop = start + count * length
        batch = (as_batch(x[start:stop], count) for x in (queries, keys, values))
        scale, mask = queries.shape[-1] ** -0.5, "causal" if causal else None
        outputs.append(as_list(mx.fast.scaled_dot_product_attention(*batch, scale=scale, mask=mask)))
        start = stop
    return together(outputs, len(queries)).reshape(len(queries), -1)


def as_batch(x: mx.array, count: int) -> mx.array:
    """[count * length, heads, d] -> [count, heads, length, d]"""
    return x.reshape(count, -1, *x.shape[1:]).swapaxes(1, 2)


def as_list(x: mx.array) -> mx.array:
    """[count, heads, length, d] -> [count * length, heads, d]"""
    return x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3])


def together(outputs: list[mx.array], tokens: int) -> mx.array:
    """Join outputs, with zeros behind them up to so many tokens."""
    missing = tokens - sum(map(len, outputs))
    if missing:
        outputs = [*outputs, mx.zeros((missing, *outputs[0].shape[1:]), outputs[0].dtype)]
    return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs)


def step_mask(lengths: mx.array, window: int, heads: int, kv_heads: int, dtype: mx.Dtype) -> mx.array:
    """Return True where a page with `lengths` [n] tokens in its slot may look: [n, heads, 1, window].

    It is contiguous because Metal's kernel would else copy it in every layer. What that wins is *unmeasured*.
    """
    seen = mx.arange(window)[None, :] < lengths[:, None]  # [n, window]
    return mx.contiguous(mx.broadcast_to(seen[:, None, None, :], (len(lengths), heads, 1, window)))


def step_attention(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array) -> mx.array:
    """Attend with one query a page in MLX's own call: see `AttentionForm.step`."""
    count, width = len(keys), keys.shape[-1]
    q = queries.reshape(count, -1, 1, width)
    out = mx.fast.scaled_dot_product_attention(q, keys, values, scale=width**-0.5, mask=mask)
    return out.reshape(count, -1)


def grouped_mask(lengths: mx.array, window: int, heads: int, kv_heads: int, dtype: mx.Dtype) -> mx.array:
    """Return what is added to scores, 0 or minus infinity: [n, kv_heads, heads / kv_heads, window].

    In memory each key/value head has a row of its own, so that all products find theirs at even distances.
    """
    seen = mx.arange(window)[None, :] < lengths[:, None]  # [n, window]
    added = mx.where(seen, constant(0.0, dtype), constant(-mx.inf, dtype))[:, None, None, :]
    rows = mx.contiguous(mx.broadcast_to(added, (len(lengths), kv_heads, 1, window)))
    return mx.broadcast_to(rows, (len(lengths), kv_heads, heads // kv_heads, window))


def grouped_attention(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array) -> mx.array:
    """Attend with the queries that share a key/value head in one matrix product."""
    count, kv_heads, _, width = keys.shape
    q = queries if queries.ndim == 4 else queries.reshape(count, kv_heads, -1, width)
    scores = mx.addmm(mask, q, keys.swapaxes(-1, -2), alpha=width**-0.5)
    return (mx.softmax(scores, axis=-1, precise=True) @ values).reshape(count, -1)


PLAIN = AttentionForm(segments, step_mask, step_attention)


@dataclass(frozen=True)
class SegmentPass:
    """Causal attention inside each segment, nothing stored: the plain forward pass."""

    lengths: tuple[int, ...]
    form: AttentionForm = PLAIN

    def attend(self, layer: int, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        attend = self.form.segments(self.lengths, len(queries), True, queries.dtype)
        return attend(queries, keys, values)
