"""Qwen3-VL's vision tower over packed patches: any number of page pictures of any shapes, no padding.

Attribute names are the checkpoint's. Source: transformers' Qwen3VLVisionModel; DeepStack (arXiv 2406.04334).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from mlx_chandra.models.attention import Attend
from mlx_chandra.models.backend import Backend
from mlx_chandra.models.config import VisionConfig
from mlx_chandra.models.inputs import Grid, Image, Images
from mlx_chandra.models.rope import Rotate, vision_rotation

NORM_EPS = 1e-6


@dataclass(frozen=True)
class VisionFeatures:
    """What the text tower gets of the pictures, flat over all of them."""

    hidden: mx.array  # [N, out_hidden_size], one row per merged patch, takes the place of the image tokens
    deepstack: tuple[mx.array, ...]  # each like hidden, added after one of the first text layers


@dataclass(frozen=True)
class _PatchPlaces:
    """Where one picture's patches are, in merge-block order: P = t * h * w."""

    rows: NDArray[np.int32]  # [P]
    columns: NDArray[np.int32]  # [P]
    table_indices: NDArray[np.int32]  # [P, 4], the corners around each patch in the table of positions
    table_weights: NDArray[np.float32]  # [P, 4]


@lru_cache(maxsize=256)
def _patch_places(t: int, h: int, w: int, merge: int, side: int) -> _PatchPlaces:
    row, column = np.meshgrid(np.arange(h, dtype=np.int32), np.arange(w, dtype=np.int32), indexing="ij")
    rows, columns = (np.tile(_merge_order(x, merge), t) for x in (row, column))
    low_r, high_r, part_r = _table_corners(rows, h, side)
    low_c, high_c, part_c = _table_corners(columns, w, side)
    indices = np.stack([r * side + c for r in (low_r, high_r) for c in (low_c, high_c)], axis=-1)
    weights = np.stack([r * c for r in (1 - part_r, part_r) for c in (1 - part_c, part_c)], axis=-1)
    return _PatchPlaces(rows, columns, indices.astype(np.int32), weights.astype(np.float32))


def _no_places(count: int) -> _PatchPlaces:
    nowhere = np.zeros(count, np.int32)
    return _PatchPlaces(nowhere, nowhere, np.zeros((count, 4), np.int32), np.zeros((count, 4), np.float32))


def _merge_order(x: NDArray[np.int32], merge: int) -> NDArray[np.int32]:
    """[h, w] -> [h * w], the patches that merge into one token next to each other."""
    h, w = x.shape
    return x.reshape(h // merge, merge, w // merge, merge).swapaxes(1, 2).reshape(-1)


def _table_corners(
    places: NDArray[np.int32], size: int, side: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """Stretch 0..size-1 over 0..side-1, ends aligned: the entries around each place, and how far between."""
    stretched = places.astype(np.float32) * np.float32((side - 1) / max(size - 1, 1))
    low = np.minimum(stretched.astype(np.int32), side - 1)
    return low, np.minimum(low + 1, side - 1), stretched - low


class PatchEmbed(nn.Module):
    """A patch's numbers to its vector: the checkpoint's 3-D convolution, whose stride is its size."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(config.patch_values, config.hidden_size)

    def __call__(self, patches: mx.array) -> mx.array:
        return self.proj(patches)


def gelu_tanh(x: mx.array) -> mx.array:
    """GELU's tanh form, in float32 as transformers computes it.

    nn.gelu_approx rounds after each operation: in bfloat16 its error for x < 0 is up to 0.003 instead of
    0.0005. What this form costs on Metal is *unmeasured*.
    """
    y = x.astype(mx.float32)
    return (y * mx.sigmoid((2 * math.sqrt(2 / math.pi)) * (y + 0.044715 * y * y * y))).astype(x.dtype)


def gelu(x: mx.array) -> mx.array:
    """GELU's exact form, in float32."""
    y = x.astype(mx.float32)
    return (y * (1 + mx.erf(y * math.sqrt(0.5))) * 0.5).astype(x.dtype)


class VisionAttention(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)
        self._heads = config.num_heads

    def __call__(self, x: mx.array, rotate: Rotate, attend: Attend) -> mx.array:
        """x [P, hidden] -> [P, hidden]"""
        qkv = self.qkv(x).reshape(x.shape[0], 3 * self._heads, -1)  # [P, heads of q, of k, of v, d]
        # both at once and side by side in memory: a strided view takes the CPU twice as long
        both = rotate(mx.contiguous(qkv[:, : 2 * self._heads]))
        q, k = mx.split(both, 2, axis=1)
        return self.proj(attend(q, k, qkv[:, 2 * self._heads :]))


class VisionMLP(nn.Module):
    def __init__(self, config: VisionConfig, backend: Backend) -> None:
        super().__init__()
        self.linear_fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear_fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self._gelu = backend.gelu_tanh or backend.compiled(gelu_tanh)

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear_fc2(self._gelu(self.linear_fc1(x)))


class VisionBlock(nn.Module):
    def __init__(self, config: VisionConfig, backend: Backend) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=NORM_EPS)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=NORM_EPS)
        self.attn = VisionAttention(config)
        self.mlp = VisionMLP(config, backend)

    def __call__(self, x: mx.array, rotate: Rotate, attend: Attend) -> mx.array:
        x = x + self.attn(self.norm1(x), rotate, attend)
        return x + self.mlp(self.norm2(x))


class PatchMerger(nn.Module):
    """merge * merge neighbouring patches to one token; deepstack's mergers normalise the joined ones."""

    def __init__(self, config: VisionConfig, backend: Backend, norm_joined: bool) -> None:
        super().__init__()
        self._joined = config.hidden_size * config.spatial_merge_size**2
        self._norm_joined = norm_joined
        self.norm = nn.LayerNorm(self._joined if norm_joined else config.hidden_size, eps=NORM_EPS)
        self.linear_fc1 = nn.Linear(self._joined, self._joined)
        self.linear_fc2 = nn.Linear(self._joined, config.out_hidden_size)
        self._gelu = backend.compiled(gelu)

    def __call__(self, x: mx.array) -> mx.array:
        """x [P, hidden] -> [P / merge**2, out_hidden_size]"""
        if self._norm_joined:
            x = self.norm(x.reshape(-1, self._joined))
        else:
            x = self.norm(x).reshape(-1, self._joined)
        return self.linear_fc2(self._gelu(self.linear_fc1(x)))


class VisionTower(nn.Module):
    def __init__(self, config: VisionConfig, backend: Backend) -> None:
        super().__init__()
        self._config, self._form = config, backend.attention
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = nn.Embedding(config.num_position_embeddings, config.hidden_size)
        self.blocks = [VisionBlock(config, backend) for _ in range(config.depth)]
        self.merger = PatchMerger(config, backend, norm_joined=False)
        self.deepstack_merger_list = [
            PatchMerger(config, backend, norm_joined=True) for _ in config.deepstack_visual_indexes
        ]

    def __call__(self, images: Images, dtype: mx.Dtype) -> VisionFeatures:
        places = [self._places(image.grid) for image in images]
        values = [self._values(image).astype(dtype) for image in images]
        patches = sum(map(len, values))
        if added := -patches % (self._form.multiple or 1):
            places.append(_no_places(added))
            values.append(mx.zeros((added, self._config.patch_values), dtype))
        x = self.patch_embed(mx.concatenate(values)) + self._positions(places).astype(dtype)
        # every frame of every picture attends within itself
        lengths = [image.grid.h * image.grid.w for image in images for _ in range(image.grid.t)]
        attend = self._form.segments(lengths, len(x), False, dtype)
        x, deepstack = self._through_blocks(x, self._rotate(places, dtype), attend)
        merged = patches // self._config.spatial_merge_size**2
        return VisionFeatures(self.merger(x)[:merged], tuple(features[:merged] for features in deepstack))

    def _through_blocks(self, x: mx.array, rotate: Rotate, attend: Attend) -> tuple[mx.array, list[mx.array]]:
        """Return the last hidden states, and the merged ones behind each deepstack block."""
        deepstack = []
        for index, block in enumerate(self.blocks):
            x = block(x, rotate, attend)
            if index in self._config.deepstack_visual_indexes:
                place = self._config.deepstack_visual_indexes.index(index)
                deepstack.append(self.deepstack_merger_list[place](x))
        return x, deepstack

    def _rotate(self, places: list[_PatchPlaces], dtype: mx.Dtype) -> Rotate:
        rows = np.concatenate([place.rows for place in places])
        columns = np.concatenate([place.columns for place in places])
        rotation = vision_rotation(rows, columns, self._config, dtype)
        return rotation.compiled if self._form.multiple else rotation

    def _values(self, image: Image) -> mx.array:
        """A picture's normalised numbers [P, patch_values] in float32, every frame written out."""
        pixels = mx.array(image.pixels).reshape(len(image.pixels), self._config.in_channels, 1, -1)
        values = pixels.astype(mx.float32) * mx.array(image.scale)[:, None, None]
        values = values + mx.array(image.shift)[:, None, None]
        return mx.repeat(values, self._config.temporal_patch_size, axis=2).reshape(len(pixels), -1)

    def _places(self, grid: Grid) -> _PatchPlaces:
        side = int(self._config.num_position_embeddings**0.5)
        return _patch_places(grid.t, grid.h, grid.w, self._config.spatial_merge_size, side)

    def _positions(self, places: list[_PatchPlaces]) -> mx.array:
        """The learned positions [P, hidden_size], interpolated bilinearly from their square table."""
        indices = mx.array(np.concatenate([p.table_indices for p in places]))  # [P, 4]
        weights = mx.array(np.concatenate([p.table_weights for p in places]))  # [P, 4]
        return (self.pos_embed(indices) * weights[:, :, None]).sum(axis=1)
