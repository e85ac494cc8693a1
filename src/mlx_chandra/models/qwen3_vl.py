"""Qwen3-VL (Chandra 1): the text tower and the whole model, over one flat list of all pages' tokens.

A layer never knows where one page ends: linear layers run over all tokens at once, and the attention pass
that comes with a call says which tokens see which (`models/attention.py`, `models/cache.py`). Attribute names
are the checkpoint's. Source: transformers' Qwen3VLForConditionalGeneration.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mlx_chandra.models.attention import AttentionPass, SegmentPass
from mlx_chandra.models.backend import Backend
from mlx_chandra.models.config import ModelConfig, TextConfig
from mlx_chandra.models.inputs import Images, Page, Pages
from mlx_chandra.models.rope import IntArray, TextRope, page_positions
from mlx_chandra.models.vision import VisionFeatures, VisionTower

Rotate = Callable[[mx.array], mx.array]  # [T, heads, head_dim] -> the same, turned by position


class Attention(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width, heads, kv_heads = config.head_dim, config.num_attention_heads, config.num_key_value_heads
        self._width, self._heads, self._kv_heads = width, heads, kv_heads
        self.q_proj = nn.Linear(config.hidden_size, heads * width, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_heads * width, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_heads * width, bias=config.attention_bias)
        self.o_proj = nn.Linear(heads * width, config.hidden_size, bias=config.attention_bias)
        self.q_norm = nn.RMSNorm(width, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(width, eps=config.rms_norm_eps)

    def project(self, x: mx.array, rotate: Rotate) -> tuple[mx.array, mx.array, mx.array]:
        """Queries [T, heads, d], keys and values [T, kv_heads, d] of x [T, hidden]."""
        if "qkv_proj" in self:
            return self._project_fused(x, rotate)
        tokens = x.shape[0]
        q = rotate(self.q_norm(self.q_proj(x).reshape(tokens, -1, self._width)))
        k = rotate(self.k_norm(self.k_proj(x).reshape(tokens, -1, self._width)))
        return q, k, self.v_proj(x).reshape(tokens, -1, self._width)

    def _project_fused(self, x: mx.array, rotate: Rotate) -> tuple[mx.array, mx.array, mx.array]:
        """Everything for all heads at once: the values are normalised and turned along, and then not used."""
        heads = self.qkv_proj(x).reshape(x.shape[0], -1, self._width)  # [T, heads + 2 kv_heads, d]
        turned = rotate(mx.fast.rms_norm(heads, None, self._eps) * self.head_norms)
        values = self._heads + self._kv_heads
        return turned[:, : self._heads], turned[:, self._heads : values], heads[:, values:]

    def fuse(self) -> None:
        """One matrix for queries, keys and values, if all three are plain: `Backend.fused_projections`."""
        if not _fuse(self, ("q_proj", "k_proj", "v_proj"), "qkv_proj"):
            return
        norms = [mx.broadcast_to(self.q_norm.weight, (self._heads, self._width))]
        norms += [mx.broadcast_to(self.k_norm.weight, (self._kv_heads, self._width))]
        norms += [mx.ones((self._kv_heads, self._width), self.q_norm.weight.dtype)]
        self.head_norms, self._eps = mx.concatenate(norms), self.q_norm.eps
        del self["q_norm"], self["k_norm"]


def _fuse(module: nn.Module, parts: Sequence[str], name: str) -> bool:
    """Join linear layers of one input into a layer of a new name; False where one isn't plain (quantised)."""
    if any(type(module[part]) is not nn.Linear for part in parts):
        return False
    layers = [module.pop(part) for part in parts]
    joined = nn.Linear(1, 1, bias="bias" in layers[0])
    for key in joined:
        joined[key] = mx.concatenate([layer[key] for layer in layers])
    module[name] = joined
    return True


def _add_product(x: mx.array, layer: nn.Module, y: mx.array) -> mx.array:
    """x + layer(y), as one operation where the layer is a plain matrix."""
    if type(layer) is nn.Linear and "bias" not in layer:
        return mx.addmm(x, y, layer.weight.T)
    return x + layer(y)


class MLP(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def add_to(self, residual: mx.array, x: mx.array) -> mx.array:
        """residual + the MLP of x, both [T, hidden]."""
        if "gate_up_proj" in self:
            gate, up = mx.split(self.gate_up_proj(x), 2, axis=-1)
        else:
            gate, up = self.gate_proj(x), self.up_proj(x)
        return _add_product(residual, self.down_proj, nn.silu(gate) * up)

    def fuse(self) -> None:
        """One matrix for gate and up, if both are plain: `Backend.fused_projections`."""
        _fuse(self, ("gate_proj", "up_proj"), "gate_up_proj")


class DecoderLayer(nn.Module):
    def __init__(self, config: TextConfig, layer: int) -> None:
        super().__init__()
        self._layer = layer
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self._compiled: tuple[Callable[..., Any], Callable[..., Any]] | None = None

    def __call__(self, x: mx.array, rotate: Rotate, attention: AttentionPass) -> mx.array:
        return self._after(x, attention.attend(self._layer, *self._before(x, rotate)))

    def compiled_step(
        self, x: mx.array, rope: TextRope, positions: mx.array, attention: AttentionPass
    ) -> mx.array:
        """The same for one token of each of n pages at `positions` [n], compiled on both sides of attention.

        The weights are constants to the compiler: they must be loaded before.
        """
        if self._compiled is None:
            before = mx.compile(lambda x, positions: self._before(x, rope.step_rotation(positions)))
            self._compiled = before, mx.compile(self._after)
        before, after = self._compiled
        return after(x, attention.attend(self._layer, *before(x, positions)))

    def _before(self, x: mx.array, rotate: Rotate) -> tuple[mx.array, mx.array, mx.array]:
        return self.self_attn.project(self.input_layernorm(x), rotate)

    def _after(self, x: mx.array, attended: mx.array) -> mx.array:
        x = _add_product(x, self.self_attn.o_proj, attended)
        return self.mlp.add_to(x, self.post_attention_layernorm(x))


@dataclass(frozen=True)
class ImageTokens:
    """The pictures' features and the flat places [N] of the tokens that they stand for."""

    places: mx.array
    features: VisionFeatures


@dataclass(frozen=True)
class Decoded:
    """What a decode step gives.

    Attributes:
        half: Hidden states [n, hidden_size] behind the first half of the layers: once they are there, that
            half has read its keys and values.
        logits: [n, vocab]
    """

    half: mx.array
    logits: mx.array


class TextModel(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = [DecoderLayer(config, layer) for layer in range(config.num_hidden_layers)]
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def __call__(
        self, token_ids: mx.array, rotate: Rotate, attention: AttentionPass, images: ImageTokens | None = None
    ) -> mx.array:
        """token_ids [T] -> hidden states [T, hidden_size] after the last layer, not yet normalised."""
        x = self.embed_tokens(token_ids)
        if images is not None:
            x[images.places] = images.features.hidden.astype(x.dtype)
        for index, layer in enumerate(self.layers):
            x = layer(x, rotate, attention)
            if images is not None and index < len(images.features.deepstack):
                x[images.places] = x[images.places] + images.features.deepstack[index].astype(x.dtype)
        return x


class Qwen3VL(nn.Module):
    """Chandra 1. Arrays in, arrays out; made by `models.load.load_model`."""

    def __init__(self, config: ModelConfig, backend: Backend) -> None:
        super().__init__()
        self._config, self._backend = config, backend
        self._rope = TextRope(config.text)
        self.visual = VisionTower(config.vision, backend)
        self.language_model = TextModel(config.text)
        if not config.text.tie_word_embeddings:
            self.lm_head = nn.Linear(config.text.hidden_size, config.text.vocab_size, bias=False)

    @property
    def config(self) -> ModelConfig:
        return self._config

    @property
    def backend(self) -> Backend:
        return self._backend

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype that activations, keys and values have."""
        return self.language_model.norm.weight.dtype

    @property
    def nbytes(self) -> int:
        """Bytes that the weights take."""
        return sum(array.nbytes for array in dict(tree_flatten(self.parameters())).values())

    def fuse(self) -> None:
        """Join matrices that share an input, where this backend wants it; once, when the weights are loaded.

        Quantised ones stay as they are: their parts may be quantised differently.
        """
        if not self._backend.fused_projections:
            return
        for layer in self.language_model.layers:
            layer.self_attn.fuse()
            layer.mlp.fuse()
            mx.eval(layer.parameters())  # one layer at a time: only one is in memory twice

    def embed_images(self, images: Images) -> VisionFeatures:
        """Encode any number of page pictures in one pass; the features are flat over all of them."""
        return self.visual(images, self.dtype)

    def positions(self, page: Page) -> IntArray:
        """M-RoPE positions [3, T] of one page's prompt."""
        merge = self._config.vision.spatial_merge_size
        return page_positions(page.token_ids, self._config.image_token_id, page.image.grid, merge)

    def prefill(self, pages: Pages, attention: AttentionPass) -> mx.array:
        """Run whole prompts, whatever their lengths, in one flat pass.

        Returns:
            Logits [pages, vocab] of the token that follows each prompt.
        """
        hidden = self._forward(pages, attention)
        ends = np.cumsum([len(page.token_ids) for page in pages]) - 1
        return self._head(hidden[mx.array(ends)])

    @property
    def middle(self) -> int:
        """How many layers make up the first half of a decode step."""
        return self._config.text.num_hidden_layers // 2

    def decode(self, token_ids: mx.array, positions: Sequence[int], attention: AttentionPass) -> Decoded:
        """One more token for each of n pages: token_ids [n] at text `positions` [n]."""
        on_device = mx.array(np.asarray(positions, dtype=np.int32))
        rotation = self._rope.step_rotation(on_device)
        half = x = self.language_model.embed_tokens(token_ids)
        for index, layer in enumerate(self.language_model.layers, start=1):
            if self._backend.compiled_steps:
                x = layer.compiled_step(x, self._rope, on_device, attention)
            else:
                x = layer(x, rotation, attention)
            half = x if index == self.middle else half
        return Decoded(half, self._head(x))

    def logits(self, pages: Pages) -> list[mx.array]:
        """Logits [T, vocab] at every place of every page's prompt, each page for itself; slow, for
        comparison."""
        return [self._head(self._forward([page], SegmentPass((len(page.token_ids),)))) for page in pages]

    def _forward(self, pages: Pages, attention: AttentionPass) -> mx.array:
        token_ids = np.concatenate([page.token_ids for page in pages])
        positions = np.concatenate([self.positions(page) for page in pages], axis=1)
        rotation = self._rope.rotation(positions, self.dtype)
        places = mx.array(np.flatnonzero(token_ids == self._config.image_token_id))
        images = (
            ImageTokens(places, self.embed_images([page.image for page in pages])) if places.size else None
        )
        return self.language_model(mx.array(token_ids), rotation, attention, images)

    def _head(self, hidden: mx.array) -> mx.array:
        hidden = self.language_model.norm(hidden)
        if self._config.text.tie_word_embeddings:
            return self.language_model.embed_tokens.as_linear(hidden)
        return self.lm_head(hidden)
