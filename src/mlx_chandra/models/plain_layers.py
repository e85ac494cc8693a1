"""Puts another form of the decoder layers, which computes the same from the same weights, in their place."""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

_LINEAR_LAYERS = (
    *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")),
    *(f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")),
)


def replace_plain_layers(
    layers: Sequence[Any], replacement: Callable[[Any, int], nn.Module], dtype: mx.Dtype | None = None
) -> list[Any]:
    """Replace decoder layers (qwen3_vl.DecoderLayer); one whose matrices aren't plain stays as it is.

    Evaluates layer by layer, so that only one layer's weights are in memory twice.

    Args:
        replacement: Of a layer and its number; takes over its weights.
        dtype: Only of layers whose matrices have this one.
    """
    replaced: list[Any] = []
    for number, layer in enumerate(layers):
        named = dict(layer.named_modules())
        plain = all(_is_plain(named[name], dtype) for name in _LINEAR_LAYERS)
        replaced.append(replacement(layer, number) if plain else layer)
        mx.eval(replaced[-1].parameters())
        if plain:
            layer.clear()  # gives the parts' memory back
    return replaced


def _is_plain(module: nn.Module, dtype: mx.Dtype | None) -> bool:
    """Neither quantised nor with a bias."""
    return (
        type(module) is nn.Linear and "bias" not in module and (dtype is None or module.weight.dtype == dtype)
    )
