"""A decoder layer in few launches, for backends where each costs the host more than what it launches.

Queries, keys and values are one product and so are gate and up; residuals are added by the product before
them; and in a decode step, a layer with its attention is one compiled function, the same for all layers: it
takes Python less time than making each of its operations anew. Views cost the host time too, so matrices are
kept turned, and keys and values stay in one array from their product to the cache. It computes what
qwen3_vl.DecoderLayer does, from the same weights.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_chandra.models.attention import AttentionPass
from mlx_chandra.models.cache_passes import ShelfArrays, StepPass, StepShape
from mlx_chandra.models.config import TextConfig
from mlx_chandra.models.plain_layers import replace_plain_layers
from mlx_chandra.models.rope import Rotation, StepRotation
from mlx_chandra.models.shelves import finite

_SHAPES_KEPT = 64  # of steps; one more takes a third of a millisecond


def fused_layers(layers: Sequence[Any], config: TextConfig, kept: mx.Dtype) -> list[Any]:
    """The layers in this form, where they are plain; `kept` is the dtype of what the cache keeps."""
    functions = _Functions(config, kept)
    return replace_plain_layers(layers, lambda layer, number: FusedLayer(layer, number, config, functions))


class _Functions:
    """What layers are made of, compiled once for all layers of a model: weights are arguments.

    Args:
        config: Of the text tower.
        kept: The dtype in which the cache wants what a decode step brings.

    Attributes:
        before: See `_before`.
        after: See `_after`.
        step: `_step` of a shape.
    """

    def __init__(self, config: TextConfig, kept: mx.Dtype) -> None:
        self.before: Callable[..., tuple[mx.array, mx.array]] = mx.compile(partial(_before, config))
        self.after: Callable[..., mx.array] = mx.compile(partial(_after, config))

        # one function a shape: MLX would look for it among all that it has compiled, and keep them for good
        @lru_cache(_SHAPES_KEPT)
        def step(shape: StepShape) -> Callable[..., tuple[mx.array, list[mx.array]]]:
            return mx.compile(partial(_step, config, kept, shape))

        self.step = step


class FusedLayer(nn.Module):
    """Takes the place of one decoder layer."""

    def __init__(self, layer: Any, number: int, config: TextConfig, functions: _Functions) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self._layer, self._functions = number, functions
        projections = [p.weight for p in (attention.q_proj, attention.k_proj, attention.v_proj)]
        self.before = [
            layer.input_layernorm.weight,
            _by_group(projections, config).T,
            *_head_norms(attention, config),
        ]
        self.after = [
            attention.o_proj.weight.T,
            layer.post_attention_layernorm.weight,
            mx.concatenate([mlp.gate_proj.weight, mlp.up_proj.weight]).T,
            mlp.down_proj.weight.T,
        ]

    def __call__(self, x: mx.array, rotation: Rotation, attention: AttentionPass) -> mx.array:
        """x [T, hidden] -> the same behind this layer; kept compiled for each T."""
        queries, joined = self._functions.before(self.before, x, *rotation.apart)
        attended = attention.attend_joined(self._layer, queries, joined)
        return self._functions.after(self.after, x, attended)

    def step(self, x: mx.array, rotation: StepRotation, attention: StepPass) -> mx.array:
        """The same for one token of each of n pages."""
        step = self._functions.step(attention.shape)
        x, kept = step(
            attention.kept(self._layer),
            attention.arrays,
            self.before,
            self.after,
            x,
            rotation.cos,
            rotation.sin,
        )
        attention.keep(self._layer, kept)
        return x


def _by_group(weights: Sequence[mx.array], config: TextConfig) -> mx.array:
    """Rows of the matrices of queries, keys and values in one, by key/value head: its queries, it, its value.

    So what belongs to a head stands at even distances, which a product with its keys needs, and no copy.
    """
    kv_heads = config.num_key_value_heads
    apart = [weight.reshape(kv_heads, -1, *weight.shape[1:]) for weight in weights]
    return mx.concatenate(apart, axis=1).reshape(-1, *weights[0].shape[1:])


def _head_norms(attention: Any, config: TextConfig) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """What heads [heads + 2 * kv_heads, 2, d / 2], in the order of `_by_group`, are scaled with; the same
    with the halves swapped; which are values [heads + 2 * kv_heads, 1, 1]; and ones [d].

    The ones are for MLX's norm, which without a weight reads one from the host's memory.
    """
    heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    query, key = attention.q_norm.weight, attention.k_norm.weight
    ones = mx.ones((width,), key.dtype)
    rows = [
        mx.broadcast_to(weight, (count, width))
        for weight, count in ((query, heads), (key, kv_heads), (ones, kv_heads))
    ]
    scales = _by_group(rows, config).reshape(-1, 2, width // 2)
    is_value = _by_group(
        [mx.zeros((heads, 1)), mx.zeros((kv_heads, 1)), mx.ones((kv_heads, 1))], config
    ).astype(mx.bool_)
    return scales, mx.contiguous(scales[:, ::-1]), is_value[:, :, None], ones


def _heads(
    config: TextConfig, x: mx.array, norm: mx.array, qkv: mx.array, ones: mx.array
) -> tuple[mx.array, mx.array]:
    """All heads [T, heads + 2 * kv_heads, 2, d / 2] of x [T, hidden], as they are and normalised."""
    eps, width = config.rms_norm_eps, config.head_dim
    heads = (mx.fast.rms_norm(x, norm, eps) @ qkv).reshape(x.shape[0], -1, width)
    apart = (*heads.shape[:2], 2, width // 2)
    return heads.reshape(apart), mx.fast.rms_norm(heads, ones, eps).reshape(apart)


def _step(
    config: TextConfig,
    dtype: mx.Dtype,
    shape: StepShape,
    kept: list[mx.array],
    arrays: list[ShelfArrays],
    before: list[mx.array],
    after: list[mx.array],
    x: mx.array,
    cos: mx.array,
    sin: mx.array,
) -> tuple[mx.array, list[mx.array]]:
    """x [n, hidden] behind a layer, and what the cache's shelves keep of the layer then.

    Args:
        dtype: Of what the cache keeps.
        kept, arrays: See `StepShape`.
        before, after: A layer's.
        cos, sin: A rotation's, halves apart: [n, 1, 2, d / 2].
    """
    norm, qkv, scales, swapped_scales, is_value, ones = before
    heads, normed = _heads(config, x, norm, qkv, ones)
    turned = normed * scales * cos + normed[:, :, ::-1] * swapped_scales * sin  # a view swaps the halves
    joined = finite(mx.where(is_value, heads, turned), dtype)
    by_group = joined.reshape(len(x), config.num_key_value_heads, -1, config.head_dim)
    attended, kept = shape.attend_joined(kept, arrays, by_group[:, :, :-2], by_group[:, :, -2:])
    return _after(config, after, x, attended), kept


def _before(
    config: TextConfig, weights: list[mx.array], x: mx.array, cos: mx.array, sin: mx.array
) -> tuple[mx.array, mx.array]:
    """Queries [T, heads, d], and keys and values [T, kv_heads, 2, d], of prompts' tokens x [T, hidden].

    Each an array of its own, because prompts attend to queries that stand side by side.
    """
    norm, qkv, scales, swapped_scales, is_value, ones = weights
    kv_heads, width = config.num_key_value_heads, config.head_dim
    heads, normed = (
        array.reshape(len(x), kv_heads, -1, 2, width // 2) for array in _heads(config, x, norm, qkv, ones)
    )
    straight, swapped = (
        array[: heads.shape[2]] for array in (scales, swapped_scales)
    )  # all groups are alike

    def turned(some: slice) -> mx.array:
        halves, exchanged = normed[:, :, some], normed[:, :, some, ::-1]
        return halves * straight[some] * cos[:, None] + exchanged * swapped[some] * sin[:, None]

    queries, rest = turned(slice(-2)), slice(-2, None)
    pairs = mx.where(is_value[: heads.shape[2]][rest], heads[:, :, rest], turned(rest))
    return queries.reshape(len(x), -1, width), pairs.reshape(len(x), kv_heads, 2, width)


def _after(config: TextConfig, weights: list[mx.array], x: mx.array, attended: mx.array) -> mx.array:
    """x [T, hidden] with the attention's outcome [T, heads * d] and then the MLP's added."""
    output, norm, gate_up, down = weights
    x = mx.addmm(x, attended.astype(x.dtype), output)
    gate, up = mx.split(mx.fast.rms_norm(x, norm, config.rms_norm_eps) @ gate_up, 2, axis=-1)
    return mx.addmm(x, gate * mx.sigmoid(gate) * up, down)
