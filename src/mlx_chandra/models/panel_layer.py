"""A decoder layer for CPUs, whose matrices lie in panels of a few columns each.

A decode step's product reads a whole matrix for a few rows. OpenBLAS does so at the speed of memory where
the matrix is small and lies there as it is read; else it copies the matrix first, or jumps through it. So
matrices are cut into panels: a step takes half the time for its products, and a prompt's take 6 % more. A
panel of queries, keys or values is one head, so heads come out as attention wants them, side by side.

MLX's CPU backend has no kernels for norms and rotations and makes them up of many operations, each of which
takes longer to start than to compute in a decode step; here they have few. It computes what
qwen3_vl.DecoderLayer does, from the same weights.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_chandra.models.attention import AttentionPass
from mlx_chandra.models.backend import Backend
from mlx_chandra.models.config import TextConfig
from mlx_chandra.models.pieces import in_pieces
from mlx_chandra.models.plain_layers import replace_plain_layers
from mlx_chandra.models.rope import Rotation, StepRotation

MOST_COLUMNS = 64  # of a panel


def panel_layers(layers: Sequence[Any], config: TextConfig, backend: Backend) -> list[Any]:
    """The layers in this form, where they are plain and in float32."""
    return replace_plain_layers(
        layers, lambda layer, number: PanelLayer(layer, number, config, backend), mx.float32
    )


def panels(weight: mx.array, columns: int | None = None) -> mx.array:
    """A linear layer's weight [out, in] as [panels, in, columns], each panel by itself in memory.

    Args:
        columns: Of each panel, a divisor of out; the largest one of at most MOST_COLUMNS by default.
    """
    out, inputs = weight.shape
    columns = columns or max(size for size in range(1, MOST_COLUMNS + 1) if out % size == 0)
    return mx.contiguous(weight.reshape(out // columns, columns, inputs).swapaxes(1, 2))


def joined(x: mx.array) -> mx.array:
    """What a product with panels gives, [panels, T, columns], as that with the whole matrix, [T, out]."""
    return x.swapaxes(0, 1).reshape(x.shape[1], -1)


class PanelLayer(nn.Module):
    """Takes the place of one decoder layer."""

    def __init__(self, layer: Any, number: int, config: TextConfig, backend: Backend) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self._layer, self._kv_heads = number, config.num_key_value_heads
        self._heads, self._eps = config.num_attention_heads, config.rms_norm_eps
        self._silu, self._rows = backend.activations.silu, backend.rows_together
        projections = [p.weight for p in (attention.q_proj, attention.k_proj, attention.v_proj)]
        norm = _root_scaled(layer.input_layernorm.weight)
        self.qkv = panels(mx.concatenate(projections) * norm, config.head_dim)
        self.head_norms = _head_norms(attention, config)
        self._is_value = mx.arange(len(self.head_norms))[:, None] >= self._heads + self._kv_heads
        self.output = panels(attention.o_proj.weight)
        norm = _root_scaled(layer.post_attention_layernorm.weight)
        self.gate_up = mx.concatenate([panels(p.weight * norm) for p in (mlp.gate_proj, mlp.up_proj)])
        self.down = panels(mlp.down_proj.weight)

    def __call__(self, x: mx.array, rotation: Rotation, attention: AttentionPass) -> mx.array:
        """x [T, hidden] -> the same behind this layer."""
        turned, v = in_pieces(self._before, (x, rotation.cos, rotation.sin), self._rows)
        q, k = turned[:, : self._heads], turned[:, self._heads :]
        (x,) = in_pieces(self._behind, (x, attention.attend(self._layer, q, k, v)), self._rows)
        return x

    def step(self, x: mx.array, rotation: StepRotation, attention: AttentionPass) -> mx.array:
        """The same for one token of each of n pages."""
        heads = (self._norm(x) @ self.qkv).swapaxes(0, 1)  # [n, heads + 2 * kv_heads, d]
        normed = (self._norm(heads) * self.head_norms).reshape(*heads.shape[:2], 2, -1)
        turned = normed * rotation.cos + normed[:, :, ::-1] * rotation.sin
        # values are turned too, and then left as they were: less to launch than if they were parted
        heads = mx.where(self._is_value, heads, turned.reshape(heads.shape))
        queries, pairs = heads[:, : self._heads], heads[:, self._heads :]
        pairs = pairs.reshape(len(x), 2, self._kv_heads, -1).swapaxes(1, 2)  # each key beside its value
        attended = attention.attend_joined(self._layer, queries, pairs)
        (x,) = self._behind(x, attended)
        return x

    def _before(self, x: mx.array, cos: mx.array, sin: mx.array) -> tuple[mx.array, mx.array]:
        """Queries and keys, turned [T, heads + kv_heads, d], and values [T, kv_heads, d], for some rows."""
        heads = (self._norm(x) @ self.qkv).swapaxes(0, 1)  # [T, heads + 2 * kv_heads, d]
        turned, v = heads[:, : -self._kv_heads], heads[:, -self._kv_heads :]
        return Rotation(cos, sin)(self._norm(turned) * self.head_norms[: -self._kv_heads]), v

    def _behind(self, x: mx.array, attended: mx.array) -> tuple[mx.array]:
        """What follows attention, for some of the rows."""
        x = self._added(x, attended, self.output)
        gate, up = mx.split(self._norm(x) @ self.gate_up, 2)
        return (self._added(x, joined(self._silu(gate) * up), self.down),)

    def _norm(self, x: mx.array) -> mx.array:
        """RMSNorm but for its weight and the root of its length, which are in the matrices behind it."""
        return x * mx.rsqrt(mx.square(x).sum(axis=-1, keepdims=True) + self._eps * x.shape[-1])

    def _added(self, x: mx.array, y: mx.array, weight: mx.array) -> mx.array:
        """x [T, out] + the product of y and panels."""
        parts = x.reshape(len(x), len(weight), -1)
        return (parts + (y @ weight).swapaxes(0, 1)).reshape(x.shape)


def _root_scaled(norm: mx.array) -> mx.array:
    """A norm's weight, for what was divided by the root of its sum of squares instead of their mean's."""
    return norm * norm.shape[-1] ** 0.5


def _head_norms(attention: Any, config: TextConfig) -> mx.array:
    """[heads + 2 * kv_heads, d]: what each query and key head is scaled with; values aren't."""
    heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    query, key = _root_scaled(attention.q_norm.weight), _root_scaled(attention.k_norm.weight)
    return mx.concatenate(
        [
            mx.broadcast_to(query, (heads, width)),
            mx.broadcast_to(key, (kv_heads, width)),
            mx.ones((kv_heads, width), key.dtype),
        ]
    )
