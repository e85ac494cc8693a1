"""Pieces give what the whole gives, in order, on whatever thread they are asked for."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import mlx.core as mx
import numpy as np
import pytest

from mlx_chandra.models.pieces import compute, in_pieces


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7, 8])
def test_layers_run_in_pieces_give_what_they_give_in_one(rows: int) -> None:
    x = mx.array(np.arange(21, dtype=np.float32).reshape(7, 3))
    y = mx.arange(7, dtype=mx.float32)
    seen: list[int] = []

    def layers(piece: mx.array, further: mx.array) -> tuple[mx.array, mx.array]:
        seen.append(len(piece))
        return piece[:, :2] * 2, further + 1

    doubled, added = in_pieces(layers, (x, y), rows)
    assert mx.array_equal(doubled, x[:, :2] * 2)
    assert mx.array_equal(added, y + 1)
    assert sum(seen) == 7
    assert max(seen) <= (rows or 7)


def test_pieces_are_as_long_as_each_other_so_that_no_lane_waits_long() -> None:
    seen: list[int] = []

    def layers(piece: mx.array) -> tuple[mx.array]:
        seen.append(len(piece))
        return (piece,)

    in_pieces(layers, (mx.ones((100, 2)),), 90)
    assert seen in ([50, 50], [100])  # where there is one processor, there is one lane
    assert in_pieces(layers, (mx.ones((90, 2)),), 90)[0].shape == (90, 2)
    assert seen[-1] == 90


def test_pieces_come_back_in_their_order_and_can_be_used_together() -> None:
    x = mx.arange(40, dtype=mx.float32)

    def squares(start: int) -> tuple[mx.array]:
        return (mx.square(x[start : start + 8]),)

    answers = compute([partial(squares, start) for start in range(0, 40, 8)])
    assert mx.concatenate([array for (array,) in answers]).tolist() == [
        number * number for number in range(40)
    ]
    assert compute([]) == []


def test_every_thread_can_compute_pieces() -> None:
    def total() -> float:
        x = mx.ones((6, 4))
        (products,) = in_pieces(lambda piece: (piece @ x[:4],), (x,), 2)
        return float(products.sum().item())

    with ThreadPoolExecutor(3) as pool:
        assert [answer.result() for answer in [pool.submit(total) for _ in range(6)]] == [96.0] * 6
    assert total() == 96.0
