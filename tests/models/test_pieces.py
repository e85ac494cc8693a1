"""Layers run piece by piece."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_chandra.models.pieces import in_pieces


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
