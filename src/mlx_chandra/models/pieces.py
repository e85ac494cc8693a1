"""Wide layers over a few rows at a time, so that what lies between them stays in a CPU's caches."""

from collections.abc import Callable

import mlx.core as mx


def in_pieces(layers: Callable[[mx.array], mx.array], x: mx.array, rows: int) -> mx.array:
    """layers(x) [n, m] for x [n, k], computed `rows` rows at a time; 0: in one piece, when it is needed."""
    if not rows or len(x) <= rows:
        return layers(x)
    pieces = []
    for start in range(0, len(x), rows):
        pieces.append(layers(x[start : start + rows]))
        mx.eval(pieces[-1])
    return mx.concatenate(pieces)
