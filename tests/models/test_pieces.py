"""Pieces give what the whole gives, in order, on whatever thread they are asked for."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import mlx.core as mx
import numpy as np
import pytest

from mlx_chandra.models.pieces import compute, in_pieces


@pytest.mark.parametrize("rows", [0, 1, 3, 7, 8])
def test_layers_run_in_pieces_give_what_they_give_in_one(rows: int) -> None:
    x = mx.array(np.arange(21, dtype=np.float32).reshape(7, 3))
    seen: list[int] = []

    def layers(piece: mx.array) -> mx.array:
        seen.append(len(piece))
        return piece[:, :2] * 2

    assert mx.array_equal(in_pieces(layers, x, rows), x[:, :2] * 2)
    assert sum(seen) == 7
    assert max(seen) == min(rows or 7, 7)


def test_pieces_come_back_in_their_order_and_can_be_used_together() -> None:
    x = mx.arange(40, dtype=mx.float32)
    assert mx.concatenate(compute([partial(mx.square, x[n : n + 8]) for n in range(0, 40, 8)])).tolist() == [
        number * number for number in range(40)
    ]
    assert compute([]) == []


def test_every_thread_can_compute_pieces() -> None:
    def total() -> float:
        x = mx.ones((6, 4))
        return float(in_pieces(lambda piece: piece @ x[:4], x, 2).sum().item())

    with ThreadPoolExecutor(3) as pool:
        assert [answer.result() for answer in [pool.submit(total) for _ in range(6)]] == [96.0] * 6
    assert total() == 96.0
