"""All that exists for CUDA alone: few shapes, few launches.

MLX keeps a plan of attention for every shape, takes 50 ms to make one, and raises after 513 of them; compiled
functions are kept for every shape too. So prompts and pictures attend at rounded lengths. A launch takes the
host 2 to 20 µs, more than most kernels of a decode step take the device, so decoder layers run in few
launches: whole runs of 64 pages are 1.5 times as fast with them on an H200.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_chandra.models.attention import (
    Attend,
    AttentionForm,
    AttentionPass,
    as_batch,
    as_list,
    grouped_attention,
    grouped_mask,
    together,
)
from mlx_chandra.models.config import TextConfig
from mlx_chandra.models.kv_cache import BucketArrays, StepPass, StepShape, finite
from mlx_chandra.models.rope import Rotation, StepRotation

_MARK_WIDTH, _UNSEEN = 8, -3e4  # kernels want widths that are multiples of 8; float16 reaches to 65504
_SHAPES_KEPT = 64  # of steps; one more takes a third of a millisecond


def configure() -> None:
    """Set MLX's variables, unless the user has. MLX reads them when it first computes something.

    It keeps every different graph of launches, and steps take the same time without them. It raises when it
    has made twice as many graphs or plans of attention as it keeps; a long run rather waits for the next one.
    """
    os.environ.setdefault("MLX_USE_CUDA_GRAPHS", "0")
    os.environ.setdefault("MLX_ENABLE_CACHE_THRASHING_CHECK", "0")


def rounded_form(multiple: int) -> AttentionForm:
    """Attention with lengths rounded up to a multiple of so many tokens, and few shapes of it."""
    return AttentionForm(partial(_rounded_segments, multiple), grouped_mask, grouped_attention, multiple)


def _rounded_segments(
    multiple: int, lengths: Sequence[int], total: int, causal: bool, dtype: mx.Dtype
) -> Attend:
    if causal:
        return partial(_causal_attention, multiple, tuple(lengths))
    return partial(_rounded_attention, rounded_layout(lengths, total, multiple, dtype))


def _causal_attention(
    multiple: int, lengths: tuple[int, ...], queries: mx.array, keys: mx.array, values: mx.array
) -> mx.array:
    """Attend by causal segments; each reads on into the tokens behind it, which none of its own looks at.

    Values there must be finite: a masked place weighs 0, and 0 * inf is no number.
    """
    values = mx.nan_to_num(values)
    outputs = []
    start = 0
    for length in lengths:
        size = -(-length // multiple) * multiple
        batch = (as_batch(_from(x, start, size), 1) for x in (queries, keys, values))
        scale = queries.shape[-1] ** -0.5
        out = mx.fast.scaled_dot_product_attention(*batch, scale=scale, mask="causal")
        outputs.append(as_list(out)[:length])
        start += length
    return together(outputs, len(queries)).reshape(len(queries), -1)


def _from(x: mx.array, start: int, size: int) -> mx.array:
    """Return x[start : start + size], with zeros where x ends before; a view if it doesn't."""
    here = x[start : start + size]
    missing = size - len(here)
    return mx.pad(here, [(0, missing), (0, 0), (0, 0)]) if missing else here


@dataclass(frozen=True)
class RoundedLayout:
    """Where the T tokens of a pass of pictures stand among R places; no arrays where these are the same.

    Keys are widened by marks, and queries by ones: times each other they add 0 to a token's score, and to
    that of an empty place so much that nobody sees it. So no mask is needed, which makes kernels slower.
    """

    sizes: tuple[int, ...]  # rounded length of each segment
    tokens: mx.array | None = None  # int32 [R], the token at each place, another of its segment if none is
    places: mx.array | None = None  # int32 [T], the place of each token, any for one that is in no segment
    marks: mx.array | None = None  # [R, 1, 8]


def rounded_layout(lengths: Sequence[int], total: int, multiple: int, dtype: mx.Dtype) -> RoundedLayout:
    """Lay out segments of `lengths`, at the start of `total` tokens, each rounded up to a `multiple`."""
    sizes = tuple(-(-length // multiple) * multiple for length in lengths)
    if sizes == tuple(lengths) and sum(sizes) == total:
        return RoundedLayout(sizes)
    here = np.concatenate([np.arange(size) for size in sizes])  # [R], each place's number in its segment
    length, start = (np.repeat(x, sizes) for x in (lengths, np.cumsum([0, *lengths[:-1]])))
    tokens = (start + np.minimum(here, length - 1)).astype(np.int32)
    places = np.zeros(total, np.int32)
    places[: sum(lengths)] = np.flatnonzero(here < length)
    column = mx.array(np.where(here < length, 0.0, _UNSEEN).astype(np.float32)).astype(dtype)
    marks = mx.broadcast_to(column[:, None, None], (len(here), 1, _MARK_WIDTH))
    return RoundedLayout(sizes, mx.array(tokens), mx.array(places), marks)


def _rounded_attention(
    layout: RoundedLayout, queries: mx.array, keys: mx.array, values: mx.array
) -> mx.array:
    scale, q, k, v = queries.shape[-1] ** -0.5, queries, keys, values
    if layout.tokens is not None and layout.marks is not None:
        ones = mx.ones((1, 1, _MARK_WIDTH), q.dtype)
        q, k, v = (x[layout.tokens] for x in (q, k, v))
        q, k = (
            mx.concatenate([x, mx.broadcast_to(added, (*x.shape[:2], _MARK_WIDTH))], axis=-1)
            for x, added in ((q, ones), (k, layout.marks))
        )
    outputs = []
    for stop, size in zip(accumulate(layout.sizes), layout.sizes, strict=True):
        batch = (as_batch(x[stop - size : stop], 1) for x in (q, k, v))
        outputs.append(as_list(mx.fast.scaled_dot_product_attention(*batch, scale=scale)))
    out = together(outputs, len(q)).reshape(len(q), -1)
    return out if layout.places is None else out[layout.places]


def fused_layers(layers: Sequence[Any], config: TextConfig, kept: mx.Dtype) -> list[Any]:
    """Replace decoder layers (qwen3_vl.DecoderLayer) by fused ones; a quantised layer stays as it is.

    Evaluates layer by layer: only one layer's weights are in memory twice. `kept` is the cache's dtype.
    """
    functions = _functions(config, kept)
    fused: list[Any] = []
    for number, layer in enumerate(layers):
        plain = _has_plain_matrices(layer)
        fused.append(FusedLayer(layer, number, config, functions) if plain else layer)
        mx.eval(fused[-1].parameters())
        if plain:
            layer.clear()  # gives the parts' memory back
    return fused


def _has_plain_matrices(layer: Any) -> bool:
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    matrices = (*projections, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    return all(type(matrix) is nn.Linear and "bias" not in matrix for matrix in matrices)


_Functions = tuple[
    Callable[..., tuple[mx.array, mx.array]],  # _before
    Callable[..., mx.array],  # _after
    Callable[[StepShape], Callable[..., tuple[mx.array, list[mx.array]]]],  # _step of a shape
]


def _functions(config: TextConfig, kept: mx.Dtype) -> _Functions:
    """Return the parts of a layer, compiled once for all layers of a model: weights are arguments."""

    # one function a shape: MLX would look for it among all that it has compiled, and keep them for good
    @lru_cache(_SHAPES_KEPT)
    def step(shape: StepShape) -> Callable[..., tuple[mx.array, list[mx.array]]]:
        return mx.compile(partial(_step, config, kept, shape))

    return mx.compile(partial(_before, config)), mx.compile(partial(_after, config)), step


class FusedLayer(nn.Module):
    """Takes the place of one decoder layer: the same numbers from the same weights, in few launches.

    Queries, keys and values are one product and so are gate and up; residuals are added by the product before
    them. In a decode step, a layer with its attention is one compiled function.
    """

    def __init__(self, layer: Any, number: int, config: TextConfig, functions: _Functions) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self._layer = number
        self._run_before, self._run_after, self._run_step = functions
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
        queries, joined = self._run_before(self.before, x, *rotation.apart)
        attended = attention.attend(self._layer, queries, joined[:, :, 0], joined[:, :, 1])
        return self._run_after(self.after, x, attended)

    def step(self, x: mx.array, rotation: StepRotation, attention: StepPass) -> mx.array:
        """Do the same for one token of each of n pages."""
        step, kept = self._run_step(attention.shape), attention.kept(self._layer)
        x, kept = step(kept, attention.arrays, self.before, self.after, x, rotation.cos, rotation.sin)
        attention.keep(self._layer, kept)
        return x


def _by_group(weights: Sequence[mx.array], config: TextConfig) -> mx.array:
    """Join the rows of the matrices of queries, keys and values by key/value head: its queries, key, value.

    So what belongs to a head stands at even distances, which a product with its keys needs, and no copy.
    """
    kv_heads = config.num_key_value_heads
    apart = [weight.reshape(kv_heads, -1, *weight.shape[1:]) for weight in weights]
    return mx.concatenate(apart, axis=1).reshape(-1, *weights[0].shape[1:])


def _head_norms(attention: Any, config: TextConfig) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """Return what heads, in the order of `_by_group`, are scaled with: [heads + 2 * kv_heads, 2, d / 2].

    Then the same with the halves swapped; which heads are values [heads + 2 * kv_heads, 1, 1]; and ones [d],
    for MLX's norm, which without a weight reads one from the host's memory.
    """
    heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    query, key = attention.q_norm.weight, attention.k_norm.weight
    ones = mx.ones((width,), key.dtype)
    counted = ((query, heads), (key, kv_heads), (ones, kv_heads))
    rows = [mx.broadcast_to(weight, (count, width)) for weight, count in counted]
    scales = _by_group(rows, config).reshape(-1, 2, width // 2)
    kinds = [mx.zeros((heads, 1)), mx.zeros((kv_heads, 1)), mx.ones((kv_heads, 1))]
    is_value = _by_group(kinds, config).astype(mx.bool_)
    return scales, mx.contiguous(scales[:, ::-1]), is_value[:, :, None], ones


def _heads(
    config: TextConfig, x: mx.array, norm: mx.array, qkv: mx.array, ones: mx.array
) -> tuple[mx.array, mx.array]:
    """Return all heads [T, heads + 2 * kv_heads, 2, d / 2] of x [T, hidden], as they are and normalised."""
    eps, width = config.rms_norm_eps, config.head_dim
    heads = (mx.fast.rms_norm(x, norm, eps) @ qkv).reshape(x.shape[0], -1, width)
    apart = (*heads.shape[:2], 2, width // 2)
    return heads.reshape(apart), mx.fast.rms_norm(heads, ones, eps).reshape(apart)


def _step(
    config: TextConfig,
    dtype: mx.Dtype,
    shape: StepShape,
    kept: list[mx.array],
    arrays: list[BucketArrays],
    before: list[mx.array],
    after: list[mx.array],
    x: mx.array,
    cos: mx.array,
    sin: mx.array,
) -> tuple[mx.array, list[mx.array]]:
    """Return x [n, hidden] behind a layer, and what the cache's buckets keep of the layer then.

    cos and sin have their halves apart, [n, 1, 2, d / 2]; `dtype` is the cache's.
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
    """Return queries [T, heads, d] and keys and values [T, kv_heads, 2, d] of prompts' tokens x [T, hidden].

    Each is an array of its own, because prompts attend to queries that stand side by side.
    """
    norm, qkv, scales, swapped_scales, is_value, ones = weights
    kv_heads, width = config.num_key_value_heads, config.head_dim
    heads, normed = (
        array.reshape(len(x), kv_heads, -1, 2, width // 2) for array in _heads(config, x, norm, qkv, ones)
    )
    straight, swapped = (array[: heads.shape[2]] for array in (scales, swapped_scales))  # groups are alike

    def turned(some: slice) -> mx.array:
        halves, exchanged = normed[:, :, some], normed[:, :, some, ::-1]
        return halves * straight[some] * cos[:, None] + exchanged * swapped[some] * sin[:, None]

    queries, rest = turned(slice(-2)), slice(-2, None)
    pairs = mx.where(is_value[: heads.shape[2]][rest], heads[:, :, rest], turned(rest))
    return queries.reshape(len(x), -1, width), pairs.reshape(len(x), kv_heads, 2, width)


def _after(config: TextConfig, weights: list[mx.array], x: mx.array, attended: mx.array) -> mx.array:
    """Return x [T, hidden] with the attention's output [T, heads * d] and then the MLP's added."""
    output, norm, gate_up, down = weights
    x = mx.addmm(x, attended.astype(x.dtype), output)
    gate, up = mx.split(mx.fast.rms_norm(x, norm, config.rms_norm_eps) @ gate_up, 2, axis=-1)
    return mx.addmm(x, gate * mx.sigmoid(gate) * up, down)
