"""Large passes in pieces, so that what lies between a piece's operations stays in a CPU's caches.

Each MLX stream of a CPU has one thread, so pieces that don't need each other go to two of them at a time.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial

import mlx.core as mx

LANES = 2  # more would share what is the narrowest, memory


def compute(pieces: Sequence[Callable[[], mx.array]]) -> list[mx.array]:
    """Compute independent arrays one after another, as many at once as there are lanes.

    Each is computed before the next ones are put together: its memory is used again by them.
    """
    lanes = min(LANES, os.cpu_count() or 1)
    done: list[mx.array] = []
    for start in range(0, len(pieces), lanes):
        arrays = []
        for lane, piece in enumerate(pieces[start : start + lanes]):
            with _lane(lane):
                arrays.append(piece())
        mx.eval(arrays)
        done.extend(arrays)
    return done


def in_pieces(layers: Callable[[mx.array], mx.array], x: mx.array, rows: int) -> mx.array:
    """layers(x) [n, m] for x [n, k], computed `rows` rows at a time; 0: in one piece, when it is needed."""
    if not rows or len(x) <= rows:
        return layers(x)
    mx.eval(x)  # or both lanes would wait for it in each other's queue
    starts = range(0, len(x), rows)
    return mx.concatenate(compute([partial(layers, x[start : start + rows]) for start in starts]))


def _lane(number: int) -> AbstractContextManager[object]:
    return mx.stream(_further_stream(number)) if number else nullcontext()


@cache
def _further_stream(number: int) -> mx.ThreadLocalStream:
    """The same one each time: a stream keeps its thread for good."""
    return mx.new_thread_local_stream(mx.cpu)
