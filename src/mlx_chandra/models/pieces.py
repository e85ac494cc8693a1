"""Large passes in pieces, so that what lies between a piece's operations stays in a CPU's caches.

Each MLX stream of a CPU has one thread, so pieces that don't need each other go to two of them at a time.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial

import mlx.core as mx

LANES = 2  # more would share what is the narrowest, memory

Arrays = tuple[mx.array, ...]


def compute(pieces: Sequence[Callable[[], Arrays]]) -> list[Arrays]:
    """Compute independent arrays one after another, as many at once as there are lanes.

    Each is computed before the next ones are put together: its memory is used again by them, and while all
    lanes compute, no processor is left to put anything together.
    """
    lanes = _lanes()
    done: list[Arrays] = []
    for start in range(0, len(pieces), lanes):
        round_of = []
        for lane, piece in enumerate(pieces[start : start + lanes]):
            with _lane(lane):
                round_of.append(piece())
        mx.eval(round_of)
        done.extend(round_of)
    return done


def in_pieces(layers: Callable[..., Arrays], arrays: Arrays, rows: int) -> Arrays:
    """layers(*arrays), computed for at most `rows` rows of the arrays at a time, as many pieces on each lane;
    0: in one piece, when it is needed.
    """
    count = len(arrays[0])
    if not rows or count <= rows:
        return layers(*arrays)
    mx.eval(arrays)  # or both lanes would wait for it in each other's queue
    rounds = -(-count // (rows * _lanes()))
    size = -(-count // (rounds * _lanes()))
    pieces = [
        partial(layers, *(array[start : start + size] for array in arrays)) for start in range(0, count, size)
    ]
    return tuple(mx.concatenate(list(parts)) for parts in zip(*compute(pieces), strict=True))


def _lanes() -> int:
    return min(LANES, os.cpu_count() or 1)


def _lane(number: int) -> AbstractContextManager[object]:
    return mx.stream(_further_stream(number)) if number else nullcontext()


@cache
def _further_stream(number: int) -> mx.ThreadLocalStream:
    """The same one each time: a stream keeps its thread for good."""
    return mx.new_thread_local_stream(mx.cpu)
