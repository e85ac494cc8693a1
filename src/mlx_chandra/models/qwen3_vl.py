"""Qwen3-VL (Chandra 1): the text tower and the whole model, over one flat list of all pages' tokens.

A layer never knows where one page ends: linear layers run over all tokens at once, and the attention pass
that comes with a call says which tokens see which (`models/attention.py`, `models/kv_cache.py`). Attribute
names are the checkpoint's. Source: transformers' Qwen3VLForConditionalGeneration.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mlx_chandra.models.attention import AttentionPass, SegmentPass
from mlx_chandra.models.backend import Backend
from mlx_chandra.models.config import ModelConfig, TextConfig
from mlx_chandra.models.cuda import fused_layers
from mlx_chandra.models.inputs import Images, Page, Pages
from mlx_chandra.models.kv_cache import KeyValueCache, bytes_per_token
from mlx_chandra.models.rope import IntArray, Rotate, Rotation, StepRotation, TextRope, page_positions
from mlx_chandra.models.vision import VisionFeatures, VisionTower


class Attention(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width, heads, kv_heads = config.head_dim, config.num_attention_heads, config.num_key_value_heads
        self._width = width
        self.q_proj = nn.Linear(config.hidden_size, heads * width, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_heads * width, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_heads * width, bias=config.attention_bias)
        self.o_proj = nn.Linear(heads * width, config.hidden_size, bias=config.attention_bias)
        self.q_norm = nn.RMSNorm(width, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(width, eps=config.rms_norm_eps)

    def project(self, x: mx.array, rotate: Rotate) -> tuple[mx.array, mx.array, mx.array]:
        """Return queries [T, heads, d], keys and values [T, kv_heads, d] of x [T, hidden]."""
        tokens = x.shape[0]
        q = rotate(self.q_norm(self.q_proj(x).reshape(tokens, -1, self._width)))
        k = rotate(self.k_norm(self.k_proj(x).reshape(tokens, -1, self._width)))
        return q, k, self.v_proj(x).reshape(tokens, -1, self._width)


class MLP(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    def __init__(self, config: TextConfig, layer: int) -> None:
        super().__init__()
        self._layer = layer
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def __call__(self, x: mx.array, rotate: Rotate, attention: AttentionPass) -> mx.array:
        q, k, v = self.self_attn.project(self.input_layernorm(x), rotate)
        x = x + self.self_attn.o_proj(attention.attend(self._layer, q, k, v))
        return x + self.mlp(self.post_attention_layernorm(x))

    def step(self, x: mx.array, rotation: StepRotation, attention: AttentionPass) -> mx.array:
        """Do the same for one token of each of n pages."""
        return self(x, rotation, attention)


@dataclass(frozen=True)
class Decoded:
    """What a decode step gives."""

    half: mx.array  # [n, hidden_size]; once it is there, half of the layers have read their keys and values
    logits: mx.array  # [n, vocab]


class TextModel(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = [DecoderLayer(config, layer) for layer in range(config.num_hidden_layers)]
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def __call__(
        self,
        token_ids: mx.array,
        rotation: Rotation,
        attention: AttentionPass,
        places: mx.array,
        images: VisionFeatures | None,
    ) -> mx.array:
        """Return hidden states [T, hidden_size] after the last layer, not yet normalised, of token_ids [T].

        Args:
            places: Of the tokens [N] that stand for the pictures.
        """
        x = self.embed_tokens(token_ids)
        if images is not None:
            x[places] = images.hidden.astype(x.dtype)
        for index, layer in enumerate(self.layers):
            x = layer(x, rotation, attention)
            if images is not None and index < len(images.deepstack):
                x[places] = x[places] + images.deepstack[index].astype(x.dtype)
        return x


class Qwen3VL(nn.Module):
    """Chandra 1. Arrays in, arrays out; made by `models.load.load_model`."""

    def __init__(self, config: ModelConfig, backend: Backend) -> None:
        super().__init__()
        self.config, self.backend = config, backend
        self._rope = TextRope(config.text)
        self.visual = VisionTower(config.vision, backend)
        self.language_model = TextModel(config.text)
        if not config.text.tie_word_embeddings:
            self.lm_head = nn.Linear(config.text.hidden_size, config.text.vocab_size, bias=False)

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype that activations, keys and values have."""
        return self.language_model.norm.weight.dtype

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in dict(tree_flatten(self.parameters())).values())

    def fuse(self) -> None:
        """Give the decoder layers the form that this backend wants; call it once, when weights are loaded."""
        if self.backend.fused_layers:
            kept = self.backend.cache_dtype(self.dtype)
            self.language_model.layers = fused_layers(self.language_model.layers, self.config.text, kept)

    def new_cache(self, sizes: Sequence[int]) -> KeyValueCache:
        """Return empty buckets of so many slots each, for what the layers keep of a page."""
        dtype = self.backend.cache_dtype(self.dtype)
        return KeyValueCache(self.config.text, sizes, dtype, self.backend.attention)

    @property
    def cache_bytes_per_token(self) -> int:
        return bytes_per_token(self.config.text, self.dtype)

    def embed_images(self, images: Images) -> VisionFeatures:
        """Encode any number of page pictures in one pass; the features are flat over all of them."""
        return self.visual(images, self.dtype)

    def positions(self, page: Page) -> IntArray:
        """Return the M-RoPE positions [3, T] of one page's prompt."""
        merge = self.config.vision.spatial_merge_size
        return page_positions(page.token_ids, self.config.image_token_id, page.image.grid, merge)

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
        return self.config.text.num_hidden_layers // 2

    def decode(self, token_ids: mx.array, positions: mx.array, attention: AttentionPass) -> Decoded:
        """Run one token of each of n pages: token_ids [n] at text `positions` [n], int32."""
        rotation = self._rope.step_rotation(positions, self.dtype, self.backend.rope_kernel)
        half = x = self.language_model.embed_tokens(token_ids)
        for index, layer in enumerate(self.language_model.layers, start=1):
            x = layer.step(x, rotation, attention)
            if not self.backend.decode_ahead:  # the layer runs while the host prepares the next one
                mx.async_eval(x)
            half = x if index == self.middle else half
        return Decoded(half, self._head(x))

    def logits(self, pages: Pages) -> list[mx.array]:
        """Return logits [T, vocab] at every token of every page's prompt; slow, for comparison."""
        lengths = [len(page.token_ids) for page in pages]
        return [
            self._head(self._forward([page], SegmentPass((length,)))[:length])
            for page, length in zip(pages, lengths, strict=True)
        ]

    def _forward(self, pages: Pages, attention: AttentionPass) -> mx.array:
        token_ids = np.concatenate([page.token_ids for page in pages])
        positions = np.concatenate([self.positions(page) for page in pages], axis=1)
        if added := -len(token_ids) % (self.backend.attention.multiple or 1):  # tokens of no page
            no_image = 0 if self.config.image_token_id else 1
            token_ids = np.pad(token_ids, (0, added), constant_values=no_image)
            positions = np.pad(positions, ((0, 0), (0, added)))
        rotation = self._rope.rotation(positions, self.dtype)
        places = mx.array(np.flatnonzero(token_ids == self.config.image_token_id))
        images = self.embed_images([page.image for page in pages]) if places.size else None
        return self.language_model(mx.array(token_ids), rotation, attention, places, images)

    def _head(self, hidden: mx.array) -> mx.array:
        hidden = self.language_model.norm(hidden)
        if self.config.text.tie_word_embeddings:
            return self.language_model.embed_tokens.as_linear(hidden)
        return self.lm_head(hidden)
