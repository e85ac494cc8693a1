"""A decoder layer in few launches, for backends where each costs the host more than what it launches.

Queries, keys and values are one product and so are gate and up; residuals are added by the product before
them; and in a decode step, what lies between two attention calls is compiled, once for all layers. Views cost
the host time too, so matrices are kept turned, and keys and values stay in one array from their product to
the cache. It computes what qwen3_vl.DecoderLayer does, from the same weights.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_chandra.models.attention import AttentionPass
from mlx_chandra.models.config import TextConfig
from mlx_chandra.models.rope import Rotation, StepRotation

_LINEAR_LAYERS = (
    *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")),
    *(f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")),
)


def fused_layers(layers: Sequence[Any], config: TextConfig) -> list[Any]:
    """Replace decoder layers (qwen3_vl.DecoderLayer); one whose matrices aren't plain stays as it is.

    Evaluates layer by layer, so that only one layer's weights are in memory twice.
    """
    functions = _Functions(config)
    fused: list[Any] = []
    for number, layer in enumerate(layers):
        named = dict(layer.named_modules())
        plain = all(type(named[name]) is nn.Linear and "bias" not in named[name] for name in _LINEAR_LAYERS)
        fused.append(FusedLayer(layer, number, config, functions) if plain else layer)
        mx.eval(fused[-1].parameters())
        if plain:
            layer.clear()  # gives the parts' memory back
    return fused


class _Functions:
    """A layer before and behind attention, compiled once for all layers of a model: weights are arguments.

    Args:
        config: Of the text tower.

    Attributes:
        before: See `_before`.
        after: See `_after`.
        is_value: bool [heads + 2 * kv_heads, 1, 1], true for the heads of values.
    """

    def __init__(self, config: TextConfig) -> None:
        turned = config.num_attention_heads + config.num_key_value_heads
        self.is_value = mx.arange(turned + config.num_key_value_heads)[:, None, None] >= turned
        self.before: Callable[..., mx.array] = mx.compile(partial(_before, config))
        self.after: Callable[..., mx.array] = mx.compile(partial(_after, config))


class FusedLayer(nn.Module):
    """Takes the place of one decoder layer."""

    def __init__(self, layer: Any, number: int, config: TextConfig, functions: _Functions) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self._layer, self._config, self._functions = number, config, functions
        self.input_norm = layer.input_layernorm.weight
        self.qkv = mx.concatenate(
            [p.weight for p in (attention.q_proj, attention.k_proj, attention.v_proj)]
        ).T
        norms = _head_norms(attention, config)
        self.head_norms = norms.reshape(len(norms), 2, -1)
        self.swapped_norms = mx.contiguous(self.head_norms[:, ::-1])
        self.output = attention.o_proj.weight.T
        self.post_norm = layer.post_attention_layernorm.weight
        self.gate_up = mx.concatenate([mlp.gate_proj.weight, mlp.up_proj.weight]).T
        self.down = mlp.down_proj.weight.T

    def __call__(self, x: mx.array, rotation: Rotation, attention: AttentionPass) -> mx.array:
        """x [T, hidden] -> the same behind this layer; kept compiled for each T."""
        return self._run(x, *rotation.apart, attention)

    def step(self, x: mx.array, rotation: StepRotation, attention: AttentionPass) -> mx.array:
        """The same for one token of each of n pages."""
        return self._run(x, rotation.cos, rotation.sin, attention)

    def _run(self, x: mx.array, cos: mx.array, sin: mx.array, attention: AttentionPass) -> mx.array:
        joined = self._functions.before(x, cos, sin, *self._weights_before)
        attended = attention.attend_joined(self._layer, joined, self._config.num_key_value_heads)
        return self._functions.after(x, attended, *self._weights_after)

    @property
    def _weights_before(self) -> tuple[mx.array, ...]:
        is_value = self._functions.is_value
        return is_value, self.input_norm, self.qkv, self.head_norms, self.swapped_norms

    @property
    def _weights_after(self) -> tuple[mx.array, ...]:
        return self.output, self.post_norm, self.gate_up, self.down


def _head_norms(attention: Any, config: TextConfig) -> mx.array:
    """[heads + 2 kv_heads, d]: what each query and key head is scaled with; values aren't."""
    heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    query, key = attention.q_norm.weight, attention.k_norm.weight
    return mx.concatenate(
        [
            mx.broadcast_to(query, (heads, width)),
            mx.broadcast_to(key, (kv_heads, width)),
            mx.ones((kv_heads, width), key.dtype),
        ]
    )


def _before(
    config: TextConfig,
    x: mx.array,
    cos: mx.array,
    sin: mx.array,
    is_value: mx.array,
    norm: mx.array,
    qkv: mx.array,
    head_norms: mx.array,
    swapped_norms: mx.array,
) -> mx.array:
    """Queries, keys and values [T, heads + 2 * kv_heads, d] of x [T, hidden].

    Args:
        cos, sin: A rotation's, halves apart: [T, 1, 2, d / 2].
        head_norms, swapped_norms: `_head_norms` as [heads + 2 * kv_heads, 2, d / 2]; its halves swapped.
    """
    eps, width = config.rms_norm_eps, config.head_dim
    heads = (mx.fast.rms_norm(x, norm, eps) @ qkv).reshape(x.shape[0], -1, width)
    apart = (*heads.shape[:2], 2, width // 2)
    normed = mx.fast.rms_norm(heads, None, eps).reshape(apart)
    turned = normed * head_norms * cos + normed[:, :, ::-1] * swapped_norms * sin  # a view swaps the halves
    return mx.where(is_value, heads.reshape(apart), turned).reshape(heads.shape)


def _after(
    config: TextConfig,
    x: mx.array,
    attended: mx.array,
    output: mx.array,
    norm: mx.array,
    gate_up: mx.array,
    down: mx.array,
) -> mx.array:
    """x [T, hidden] with the attention's outcome [T, heads * d] and then the MLP's added."""
    x = mx.addmm(x, attended, output)
    gate, up = mx.split(mx.fast.rms_norm(x, norm, config.rms_norm_eps) @ gate_up, 2, axis=-1)
    return mx.addmm(x, gate * mx.sigmoid(gate) * up, down)
