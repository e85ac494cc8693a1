"""A decoder layer in few launches, for backends where each costs the host more than what it launches.

Queries, keys and values are one product and so are gate and up; residuals are added by the product before
them; and in a decode step, what lies between two attention calls is compiled, once for all layers. Views cost
the host time too, so matrices are kept turned, and keys and values stay in one array from their product to
the cache. It computes what qwen3_vl.DecoderLayer does, from the same weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_chandra.models.attention import AttentionPass, StepAttention
from mlx_chandra.models.config import TextConfig
from mlx_chandra.models.rope import Rotate, StepRotation

_LINEAR_LAYERS = (
    *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")),
    *(f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")),
)


def fused_layers(layers: Sequence[Any], config: TextConfig) -> list[Any]:
    """Replace decoder layers (qwen3_vl.DecoderLayer); one whose matrices aren't plain stays as it is.

    Evaluates layer by layer, so that only one layer's weights are in memory twice.
    """
    functions = _Functions.of(config)
    fused: list[Any] = []
    for number, layer in enumerate(layers):
        named = dict(layer.named_modules())
        plain = all(type(named[name]) is nn.Linear and "bias" not in named[name] for name in _LINEAR_LAYERS)
        fused.append(FusedLayer(layer, number, config, functions) if plain else layer)
        mx.eval(fused[-1].parameters())
        if plain:
            layer.clear()  # gives the parts' memory back
    return fused


@dataclass(frozen=True)
class _Functions:
    """Both sides of a step's attention, compiled for all layers of a model: their weights are arguments.

    Attributes:
        before: See `_before_step`.
        after: See `_after`.
        is_value: bool [heads + 2 * kv_heads, 1, 1], true for the heads of values.
    """

    before: Callable[..., Any]
    after: Callable[..., Any]
    is_value: mx.array

    @classmethod
    def of(cls, config: TextConfig) -> "_Functions":
        def before(x: mx.array, *others: mx.array) -> Any:
            return _before_step(x, config, *others)

        def after(x: mx.array, attended: mx.array, *weights: mx.array) -> mx.array:
            return _after(x, attended, config, *weights)

        turned = config.num_attention_heads + config.num_key_value_heads
        is_value = mx.arange(turned + config.num_key_value_heads)[:, None, None] >= turned
        return cls(mx.compile(before), mx.compile(after), is_value)


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
        self.head_norms = _head_norms(attention, config)
        apart = self.head_norms.reshape(len(self.head_norms), 2, -1)
        self.norms_apart, self.norms_swapped = apart, mx.contiguous(apart[:, ::-1])
        self.output = attention.o_proj.weight.T
        self.post_norm = layer.post_attention_layernorm.weight
        self.gate_up = mx.concatenate([mlp.gate_proj.weight, mlp.up_proj.weight]).T
        self.down = mlp.down_proj.weight.T

    def __call__(self, x: mx.array, rotate: Rotate, attention: AttentionPass) -> mx.array:
        """x [T, hidden] -> the same behind this layer."""
        weights = self.input_norm, self.qkv, self.head_norms
        attended = attention.attend(self._layer, *_before(x, rotate, self._config, *weights))
        return _after(x, attended, self._config, *self._weights_after)

    def step(self, x: mx.array, rotation: StepRotation, attention: StepAttention) -> mx.array:
        """The same for one token of each of n pages, compiled."""
        weights = self.input_norm, self.qkv, self.norms_apart, self.norms_swapped
        before, is_value = self._functions.before, self._functions.is_value
        joined = before(x, rotation.cos, rotation.sin, is_value, *weights)
        attended = attention.attend_joined(self._layer, *joined)
        result: mx.array = self._functions.after(x, attended, *self._weights_after)
        return result

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
    x: mx.array, rotate: Rotate, config: TextConfig, norm: mx.array, qkv: mx.array, head_norms: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    """Queries [T, heads, d], keys and values [T, kv_heads, d] of x [T, hidden].

    The values are normalised and turned along, and that isn't used: it costs less than to leave them out.
    """
    eps, queries = config.rms_norm_eps, config.num_attention_heads
    values = queries + config.num_key_value_heads
    heads = (mx.fast.rms_norm(x, norm, eps) @ qkv).reshape(x.shape[0], -1, config.head_dim)
    turned = rotate(mx.fast.rms_norm(heads, None, eps) * head_norms)
    return turned[:, :queries], turned[:, queries:values], heads[:, values:]


def _before_step(
    x: mx.array,
    config: TextConfig,
    cos: mx.array,
    sin: mx.array,
    is_value: mx.array,
    norm: mx.array,
    qkv: mx.array,
    head_norms: mx.array,
    swapped_norms: mx.array,
) -> tuple[mx.array, mx.array]:
    """Queries [n, kv_heads, heads / kv_heads, d], keys and then values [n, 2 * kv_heads, d] of x [n, hidden].

    Scaling, rotation and the choice of what isn't turned become one launch, since a view swaps the halves.

    Args:
        cos, sin: [n, 1, 2, d / 2], from StepRotation.
        head_norms, swapped_norms: `_head_norms` as [heads + 2 * kv_heads, 2, d / 2]; its halves swapped.
    """
    eps, queries, width = config.rms_norm_eps, config.num_attention_heads, config.head_dim
    rows, kv_heads = x.shape[0], config.num_key_value_heads
    heads = (mx.fast.rms_norm(x, norm, eps) @ qkv).reshape(rows, -1, width)
    apart = (*heads.shape[:2], 2, width // 2)
    normed = mx.fast.rms_norm(heads, None, eps).reshape(apart)
    turned = normed * head_norms * cos + normed[:, :, ::-1] * swapped_norms * sin
    both = mx.where(is_value, heads.reshape(apart), turned)
    return (
        both[:, :queries].reshape(rows, kv_heads, -1, width),
        both[:, queries:].reshape(rows, 2 * kv_heads, width),
    )


def _after(
    x: mx.array,
    attended: mx.array,
    config: TextConfig,
    output: mx.array,
    norm: mx.array,
    gate_up: mx.array,
    down: mx.array,
) -> mx.array:
    """x [T, hidden] with the attention's outcome [T, heads * d] and then the MLP's added."""
    x = mx.addmm(x, attended, output)
    both = mx.fast.rms_norm(x, norm, config.rms_norm_eps) @ gate_up
    gate, up = mx.split(both, 2, axis=-1)
    return mx.addmm(x, gate * mx.sigmoid(gate) * up, down)
