"""Qwen3-VL's vision tower over packed patches: any number of page pictures of any shapes, no padding.

Attribute names are the checkpoint's. Source: transformers' Qwen3VLVisionModel; DeepStack (arXiv 2406.04334).
"""

from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from mlx_chandra.models.attention import segment_attention
from mlx_chandra.models.backend import Backend, PrefillForm
from mlx_chandra.models.config import VisionConfig
from mlx_chandra.models.inputs import Grid, Image, Images
from mlx_chandra.models.pieces import in_pieces
from mlx_chandra.models.rope import Rotate, Rotation, vision_rotation
from mlx_chandra.models.rounded import RoundedLayout, rounded_attention, rounded_layout

NORM_EPS = 1e-6


@dataclass(frozen=True)
class VisionFeatures:
    """What the text tower gets of the pictures, flat over all of them.

    Attributes:
        hidden: [N, out_hidden_size], one row per merged patch, takes the place of the image tokens.
        deepstack: One [N, out_hidden_size] per deepstack block, added after the first text layers.
    """

    hidden: mx.array
    deepstack: tuple[mx.array, ...]


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
    """For patches that are in no picture."""
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


@dataclass(frozen=True)
class Pictures:
    """How the patches of a pass attend, the same for all blocks: every frame of every picture within itself.

    Attributes:
        lengths: Patches of each frame.
        rotation: By each patch's place.
        layout: Where the backend's form of attention wants lengths rounded up.
    """

    lengths: tuple[int, ...]
    rotation: Rotation
    layout: RoundedLayout | None


class VisionAttention(nn.Module):
    def __init__(self, config: VisionConfig, form: PrefillForm) -> None:
        super().__init__()
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)
        self._heads = config.num_heads
        self._form = form

    def project(self, x: mx.array, rotate: Rotate) -> tuple[mx.array, mx.array]:
        """Queries and keys, turned [P, 2 * heads, d], and values [P, heads, d] of x [P, hidden]."""
        qkv = self.qkv(x).reshape(x.shape[0], 3 * self._heads, -1)  # [P, heads of q, of k, of v, d]
        # both turned at once, and side by side in memory: a strided view takes the CPU twice as long
        return rotate(mx.contiguous(qkv[:, : 2 * self._heads])), qkv[:, 2 * self._heads :]

    def attend(self, both: mx.array, v: mx.array, pictures: Pictures) -> mx.array:
        """[P, hidden] of what `project` gives, before the output's projection."""
        q, k = mx.split(both, 2, axis=1)
        if pictures.layout is None:
            return segment_attention(q, k, v, pictures.lengths, False, self._form)
        return rounded_attention(q, k, v, pictures.layout)


class VisionMLP(nn.Module):
    def __init__(self, config: VisionConfig, backend: Backend) -> None:
        super().__init__()
        self.linear_fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear_fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self._gelu = backend.activations.gelu_tanh

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear_fc2(self._gelu(self.linear_fc1(x)))


class VisionBlock(nn.Module):
    def __init__(self, config: VisionConfig, backend: Backend) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=NORM_EPS)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=NORM_EPS)
        self.attn = VisionAttention(config, backend.prefill)
        self.mlp = VisionMLP(config, backend)
        self._rows = backend.rows_together

    def __call__(self, x: mx.array, pictures: Pictures) -> mx.array:
        turns = (pictures.rotation.cos, pictures.rotation.sin)
        compiled = pictures.layout is not None

        def before(x: mx.array, cos: mx.array, sin: mx.array) -> tuple[mx.array, mx.array]:
            rotation = Rotation(cos, sin)
            return self.attn.project(self.norm1(x), rotation.compiled if compiled else rotation)

        both, v = in_pieces(before, (x, *turns), self._rows)
        (x,) = in_pieces(self._behind, (x, self.attn.attend(both, v, pictures)), self._rows)
        return x

    def _behind(self, x: mx.array, attended: mx.array) -> tuple[mx.array]:
        """What follows attention, for some of the rows."""
        x = x + self.attn.proj(attended)
        return (x + self.mlp(self.norm2(x)),)


class PatchMerger(nn.Module):
    """merge * merge neighbouring patches to one token; deepstack's mergers normalise the joined ones."""

    def __init__(self, config: VisionConfig, backend: Backend, norm_joined: bool) -> None:
        super().__init__()
        self._joined = config.hidden_size * config.spatial_merge_size**2
        self._norm_joined = norm_joined
        self.norm = nn.LayerNorm(self._joined if norm_joined else config.hidden_size, eps=NORM_EPS)
        self.linear_fc1 = nn.Linear(self._joined, self._joined)
        self.linear_fc2 = nn.Linear(self._joined, config.out_hidden_size)
        self._gelu, self._rows = backend.activations.gelu_erf, backend.rows_together

    def __call__(self, x: mx.array) -> mx.array:
        (merged,) = in_pieces(self._merged, (x.reshape(-1, self._joined),), self._rows)
        return merged

    def _merged(self, joined: mx.array) -> tuple[mx.array]:
        apart = joined if self._norm_joined else joined.reshape(-1, self.norm.weight.shape[0])
        x = self.norm(apart).reshape(joined.shape)
        return (self.linear_fc2(self._gelu(self.linear_fc1(x))),)


class VisionTower(nn.Module):
    def __init__(self, config: VisionConfig, backend: Backend) -> None:
        super().__init__()
        self._config, self._multiple = config, backend.prefill.multiple
        self._rows = backend.rows_together
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = nn.Embedding(config.num_position_embeddings, config.hidden_size)
        self.blocks = [VisionBlock(config, backend) for _ in range(config.depth)]
        self.merger = PatchMerger(config, backend, norm_joined=False)
        self.deepstack_merger_list = [
            PatchMerger(config, backend, norm_joined=True) for _ in config.deepstack_visual_indexes
        ]

    def __call__(self, images: Images, dtype: mx.Dtype) -> VisionFeatures:
        """Encode the pictures of any number of pages in one pass."""
        places = [self._places(image.grid) for image in images]
        values = [self._values(image).astype(dtype) for image in images]
        patches = sum(map(len, values))
        added = -patches % self._multiple if self._multiple else 0
        if added:
            places.append(_no_places(added))
            values.append(mx.zeros((added, self._config.patch_values), dtype))
        (x,) = in_pieces(lambda rows: (self.patch_embed(rows),), (mx.concatenate(values),), self._rows)
        x = x + self._positions(places).astype(dtype)
        rotation = vision_rotation(
            np.concatenate([p.rows for p in places]),
            np.concatenate([p.columns for p in places]),
            self._config,
            dtype,
        )
        lengths = tuple(image.grid.h * image.grid.w for image in images for _ in range(image.grid.t))
        layout = rounded_layout(lengths, len(x), self._multiple, dtype) if self._multiple else None
        pictures = Pictures(lengths, rotation, layout)
        deepstack = []
        for index, block in enumerate(self.blocks):
            x = block(x, pictures)
            if index in self._config.deepstack_visual_indexes:
                place = self._config.deepstack_visual_indexes.index(index)
                deepstack.append(self.deepstack_merger_list[place](x))
        merged = patches // self._config.spatial_merge_size**2
        return VisionFeatures(self.merger(x)[:merged], tuple(features[:merged] for features in deepstack))

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
