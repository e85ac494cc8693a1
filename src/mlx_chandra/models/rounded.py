"""Attention by segments at rounded lengths, for kernels that keep a plan for every length they meet.

A causal segment just reads on into what follows it: nobody looks that far ahead. Segments that see all of
themselves are spread over the places of a layout and gathered again, by one launch each whatever their
number, and those of one rounded length go through in one call.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import mlx.core as mx
import numpy as np

_MOST_TOGETHER = 4  # segments in one call
_MARK_WIDTH, _UNSEEN = 8, -3e4  # kernels want widths that are multiples of 8; float16 reaches to 65504


def rounded_causal_attention(
    queries: mx.array, keys: mx.array, values: mx.array, lengths: Sequence[int], multiple: int
) -> mx.array:
    """Causal attention within consecutive segments of T tokens, which more tokens may follow.

    Args:
        queries: [T, heads, d]; keys, values: [T, kv_heads, d]; T at least the sum of lengths.
        lengths: Tokens of each segment, each rounded up to a `multiple`.

    Returns:
        [T, heads * d]; anything behind the last segment.
    """
    scale = queries.shape[-1] ** -0.5
    outputs = []
    start = 0
    for length in lengths:
        size = -(-length // multiple) * multiple
        batch = (as_batch(_from(x, start, size), 1) for x in (queries, keys, values))
        out = mx.fast.scaled_dot_product_attention(*batch, scale=scale, mask="causal")
        outputs.append(as_list(out)[:length])
        start += length
    return together(outputs, len(queries)).reshape(len(queries), -1)


def _from(x: mx.array, start: int, size: int) -> mx.array:
    """x[start : start + size], with zeros where x ends before; a view if it doesn't."""
    here = x[start : start + size]
    missing = size - len(here)
    return mx.pad(here, [(0, missing), (0, 0), (0, 0)]) if missing else here


def as_batch(x: mx.array, count: int) -> mx.array:
    """[count * length, heads, d] -> [count, heads, length, d]"""
    return x.reshape(count, -1, *x.shape[1:]).swapaxes(1, 2)


def as_list(x: mx.array) -> mx.array:
    """[count, heads, length, d] -> [count * length, heads, d]"""
    return x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3])


def together(outputs: list[mx.array], tokens: int) -> mx.array:
    """Outputs one behind the other, and zeros behind them up to so many tokens."""
    missing = tokens - sum(map(len, outputs))
    if missing:
        outputs = [*outputs, mx.zeros((missing, *outputs[0].shape[1:]), outputs[0].dtype)]
    return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs)


@dataclass(frozen=True)
class RoundedLayout:
    """Where a pass's T tokens stand among R places, the same for all layers.

    Attributes:
        groups: Rounded length and number of segments of each call, in the order of their places.
        tokens: int32 [R], the token at each place, some other one of its segment where none is; None where
            places and tokens are the same.
        places: int32 [T], the place of each token, any place for one that is in no segment; None likewise.
        marks: [R, 1, 8] to widen keys by, where queries get ones: times each other they add 0 to a token's
            score, and to that of a place without one so much that nobody sees it. So kernels need no mask,
            which makes them slower. None where there is no such place.
    """

    groups: tuple[tuple[int, int], ...]
    tokens: mx.array | None
    places: mx.array | None
    marks: mx.array | None

    def spread(self, x: mx.array) -> mx.array:
        """[T, ...] -> [R, ...]"""
        return x if self.tokens is None else x[self.tokens]

    def gathered(self, x: mx.array) -> mx.array:
        """[R, ...] -> [T, ...]"""
        return x if self.places is None else x[self.places]


def rounded_layout(lengths: Sequence[int], total: int, multiple: int, dtype: mx.Dtype) -> RoundedLayout:
    """The layout of segments of `lengths`, each rounded up to a `multiple`, at the start of `total` tokens.

    Args:
        dtype: Of the marks.
    """
    rounded = [-(-length // multiple) * multiple for length in lengths]
    order = sorted(range(len(lengths)), key=lambda segment: rounded[segment])
    runs = groupby(rounded[segment] for segment in order)
    groups = tuple((size, count) for size, run in runs for count in _shared_counts(len(list(run))))
    starts = np.cumsum([0, *lengths])
    tokens, places, seen = [], np.zeros(total, np.int32), []
    first = 0
    for segment in order:
        length, start = lengths[segment], starts[segment]
        here = np.arange(rounded[segment])
        tokens.append(start + np.minimum(here, length - 1))
        places[start : start + length] = first + here[:length]
        seen.append(here < length)
        first += rounded[segment]
    if np.array_equal(places, np.arange(first)):
        return RoundedLayout(groups, None, None, None)
    marks = None
    if list(lengths) != rounded:
        column = mx.array(np.where(np.concatenate(seen), 0.0, _UNSEEN).astype(np.float32)).astype(dtype)
        marks = mx.broadcast_to(column[:, None, None], (first, 1, _MARK_WIDTH))
    indices = mx.array(np.concatenate(tokens).astype(np.int32))
    return RoundedLayout(groups, indices, mx.array(places), marks)


def _shared_counts(count: int) -> list[int]:
    """`count` as a sum of few different numbers: there is a plan for each of them, too."""
    counts = []
    while count:
        counts.append(min(_MOST_TOGETHER, 1 << (count.bit_length() - 1)))
        count -= counts[-1]
    return counts


def rounded_attention(queries: mx.array, keys: mx.array, values: mx.array, layout: RoundedLayout) -> mx.array:
    """Attention within a layout's segments, where a token sees all of its own.

    Args:
        queries, keys, values: [T, heads, d]

    Returns:
        [T, heads * d]
    """
    scale = queries.shape[-1] ** -0.5
    q, k, v = (layout.spread(x) for x in (queries, keys, values))
    if layout.marks is not None:
        ones = mx.ones((1, 1, layout.marks.shape[-1]), q.dtype)
        q, k = (
            mx.concatenate([x, mx.broadcast_to(added, (*x.shape[:2], added.shape[-1]))], axis=-1)
            for x, added in ((q, ones), (k, layout.marks))
        )
    outputs = []
    start = 0
    for length, count in layout.groups:
        here = slice(start, start + length * count)
        batch = (as_batch(x[here], count) for x in (q, k, v))
        outputs.append(as_list(mx.fast.scaled_dot_product_attention(*batch, scale=scale)))
        start = here.stop
    return layout.gathered(together(outputs, start).reshape(start, -1))
