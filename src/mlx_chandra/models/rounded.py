"""Segments of a flat list of tokens at rounded lengths, for kernels that keep a plan for every length.

Only attention sees them so: a pass is spread over the places of a layout before it and gathered behind it, by
one launch each whatever the number of segments, and segments of one rounded length go through in one call.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import mlx.core as mx
import numpy as np

_MOST_TOGETHER = 4  # segments in one call
_MARK_WIDTH, _UNSEEN = 8, -3e4  # kernels want widths that are multiples of 8; float16 reaches to 65504


@dataclass(frozen=True)
class RoundedLayout:
    """Where a pass's T tokens stand among R places, the same for all layers.

    Attributes:
        causal: Whether a token sees only itself and those before it in its segment.
        groups: Rounded length and number of segments of each call, in the order of their places.
        tokens: int32 [R], the token at each place, some other one of its segment where none is; None where
            places and tokens are the same.
        places: int32 [T], the place of each token; None likewise.
        marks: [R, 1, 8] to widen keys by, where queries get ones: times each other they add 0 to a token's
            score, and to that of a place without one so much that nobody sees it. So kernels need no mask,
            which makes them slower. None where there is no such place, or nobody looks that far ahead.
    """

    causal: bool
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


def rounded_layout(lengths: Sequence[int], causal: bool, multiple: int, dtype: mx.Dtype) -> RoundedLayout:
    """The layout of segments of `lengths`, each rounded up to a `multiple`; marks are of `dtype`."""
    rounded = [-(-length // multiple) * multiple for length in lengths]
    order = sorted(range(len(lengths)), key=lambda segment: rounded[segment])
    runs = groupby(rounded[segment] for segment in order)
    groups = tuple((size, count) for size, run in runs for count in _shared_counts(len(list(run))))
    starts = np.cumsum([0, *lengths])
    tokens, places, seen = [], np.empty(starts[-1], np.int32), []
    first = 0
    for segment in order:
        length, start = lengths[segment], starts[segment]
        here = np.arange(rounded[segment])
        tokens.append(start + np.minimum(here, length - 1))
        places[start : start + length] = first + here[:length]
        seen.append(here < length)
        first += rounded[segment]
    if np.array_equal(places, np.arange(first)):
        return RoundedLayout(causal, groups, None, None, None)
    marks = None
    if not causal and list(lengths) != rounded:
        column = mx.array(np.where(np.concatenate(seen), 0.0, _UNSEEN).astype(np.float32)).astype(dtype)
        marks = mx.broadcast_to(column[:, None, None], (first, 1, _MARK_WIDTH))
    indices = mx.array(np.concatenate(tokens).astype(np.int32))
    return RoundedLayout(causal, groups, indices, mx.array(places), marks)


def _shared_counts(count: int) -> list[int]:
    """`count` as a sum of few different numbers: there is a plan for each of them, too."""
    counts = []
    while count:
        counts.append(min(_MOST_TOGETHER, 1 << (count.bit_length() - 1)))
        count -= counts[-1]
    return counts
