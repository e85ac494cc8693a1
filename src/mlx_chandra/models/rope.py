"""Rotary positions: 2-D on patches (vision), interleaved M-RoPE on tokens (text).

Positions are numpy arrays, made once a page on the host. Angles are MLX arrays, made once a pass for all
layers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_chandra.models.config import TextConfig, VisionConfig
from mlx_chandra.models.inputs import Grid

IntArray = NDArray[np.int32]
Rotate = Callable[[mx.array], mx.array]  # [T, heads, head_dim] -> the same, turned by position


@dataclass(frozen=True)
class Rotation:
    """cos and sin for a flat list of T tokens, each [T, head_dim], the first half of the sines negated."""

    cos: mx.array
    sin: mx.array

    @property
    def apart(self) -> tuple[mx.array, mx.array]:
        """cos and sin with the halves apart, for all heads: [T, 1, 2, head_dim / 2]."""
        shape = (len(self.cos), 1, 2, -1)
        return self.cos.reshape(shape), self.sin.reshape(shape)

    def __call__(self, x: mx.array) -> mx.array:
        """Rotate x [T, heads, head_dim] by pairing its two halves (transformers' apply_rotary_pos_emb)."""
        return _turned(x, _swapped(x), self.cos[:, None, :], self.sin[:, None, :])

    def compiled(self, x: mx.array) -> mx.array:
        """The same in fewer launches, kept compiled for each shape of x."""
        return _turned_at_once(x, _swapped(x), self.cos[:, None, :], self.sin[:, None, :])


def _swapped(x: mx.array) -> mx.array:
    half = x.shape[-1] // 2
    return mx.concatenate([x[..., half:], x[..., :half]], axis=-1)


def _turned(x: mx.array, swapped: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    return x * cos + swapped * sin


_turned_at_once = mx.compile(_turned)


@dataclass(frozen=True)
class StepRotation:
    """The rotation of one decode step: text has the same position on all three axes, so it is plain RoPE."""

    positions: mx.array  # int32 [n], one token's each, on the device
    cos: mx.array  # as a `Rotation`'s, with the halves apart: [n, 1, 2, head_dim / 2]; computed only
    sin: mx.array  # where a layer writes its rotation out
    dims: int  # the head's
    theta: float
    kernel: bool  # whether to use MLX's own RoPE

    def __call__(self, x: mx.array) -> mx.array:
        if not self.kernel:
            halves = x.reshape(*x.shape[:2], 2, -1)
            return (halves * self.cos + halves[:, :, ::-1] * self.sin).reshape(x.shape)
        turned = mx.fast.rope(
            x[:, :, None], self.dims, traditional=False, base=self.theta, scale=1.0, offset=self.positions
        )
        return turned[:, :, 0]


def _rotation(angles: mx.array, dtype: mx.Dtype) -> Rotation:
    cos, sin = mx.cos(angles).astype(dtype), mx.sin(angles).astype(dtype)  # [T, head_dim / 2]
    return Rotation(mx.concatenate([cos, cos], axis=-1), mx.concatenate([-sin, sin], axis=-1))


class TextRope:
    """Interleaved M-RoPE (transformers' Qwen3VLTextRotaryEmbedding)."""

    def __init__(self, config: TextConfig) -> None:
        dims = config.head_dim
        self._dims, self._theta = dims, config.rope_theta
        exponents = np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims)
        frequencies = (1.0 / np.float32(config.rope_theta) ** exponents).astype(np.float32)
        self._inverse_frequencies = mx.array(frequencies)  # made once: see StepTable
        self._axis = _frequency_axes(config.mrope_section)

    def rotation(self, positions: IntArray, dtype: mx.Dtype) -> Rotation:
        """Return the angles for tokens at `positions` [3, T] (time, height, width)."""
        chosen = mx.array(positions[self._axis].T.astype(np.float32))  # [T, head_dim / 2]
        return _rotation(chosen * self._inverse_frequencies, dtype)

    def step_rotation(self, positions: mx.array, dtype: mx.Dtype, kernel: bool = True) -> StepRotation:
        """Return the rotation of one token of each of n pages at text `positions` [n]."""
        angles = positions[:, None].astype(mx.float32) * self._inverse_frequencies
        return StepRotation(positions, *_rotation(angles, dtype).apart, self._dims, self._theta, kernel)


def _frequency_axes(sections: tuple[int, int, int]) -> NDArray[np.intp]:
    """The position axis that each frequency follows: T H W T H W ..., T where H and W have run out."""
    axes = np.zeros(sum(sections), dtype=np.intp)
    for axis in (1, 2):
        axes[axis : 3 * sections[axis] : 3] = axis
    return axes


def page_positions(token_ids: IntArray, image_token_id: int, grid: Grid, merge: int) -> IntArray:
    """M-RoPE positions [3, T] of one page's prompt with one image in it.

    Text counts on by one on all three axes; the image's tokens keep the time of its start and take their row
    and column; the text after it starts behind the larger side (transformers' Qwen3VLModel.get_rope_index).
    The next token's position is `positions.max() + 1`.

    Raises:
        ValueError: The image tokens are not one run of the grid's size.
    """
    rows, columns = grid.h // merge, grid.w // merge
    image = np.flatnonzero(token_ids == image_token_id)
    tokens = grid.t * rows * columns
    if len(image) != tokens or (tokens and image[-1] - image[0] + 1 != tokens):
        raise ValueError(
            f"expected one run of {tokens} image tokens for a grid of {grid}, found {len(image)}"
        )
    if not tokens:
        return np.broadcast_to(np.arange(len(token_ids), dtype=np.int32), (3, len(token_ids)))
    start, end = int(image[0]), int(image[-1]) + 1
    positions = np.empty((3, len(token_ids)), dtype=np.int32)
    positions[:, :start] = np.arange(start)
    t, h, w = np.meshgrid(np.arange(grid.t), np.arange(rows), np.arange(columns), indexing="ij")
    positions[:, start:end] = start + np.stack([t, h, w]).reshape(3, -1)
    positions[:, end:] = start + max(rows, columns, grid.t) + np.arange(len(token_ids) - end)
    return positions


def vision_rotation(rows: IntArray, columns: IntArray, config: VisionConfig, dtype: mx.Dtype) -> Rotation:
    """2-D rotary angles of P patches at `rows`, `columns` [P].

    Source: transformers' Qwen3VLVisionRotaryEmbedding.
    """
    dims = config.head_dim // 2
    exponents = np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims)
    frequencies = (1.0 / np.float32(10_000.0) ** exponents).astype(np.float32)  # [head_dim / 4]
    places = np.stack([rows, columns], axis=-1).astype(np.float32)  # [P, 2]
    angles = (places[..., None] * frequencies).reshape(len(rows), -1)  # [P, head_dim / 2]
    return _rotation(mx.array(angles), dtype)
