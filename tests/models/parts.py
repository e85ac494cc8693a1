"""Small configs, pages and checkpoint edits that the tests of `models/` share."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_chandra.models.config import TextConfig, VisionConfig
from mlx_chandra.models.qwen3_vl import Qwen3VL
from tests.processing_files import special_token_id

IMAGE_TOKEN = special_token_id("<|image_pad|>")


@dataclass(frozen=True)
class SmallGrid:
    t: int
    h: int
    w: int


@dataclass(frozen=True)
class SmallImage:
    pixels: NDArray[np.uint8]  # [t*h*w, 3*16*16]
    grid: SmallGrid
    scale: NDArray[np.float32] = field(default_factory=lambda: np.full(3, 2 / 255, np.float32))
    shift: NDArray[np.float32] = field(default_factory=lambda: np.full(3, -1, np.float32))


@dataclass(frozen=True)
class SmallPage:
    """Has what models/inputs.py asks of a page, and nothing of `processing`."""

    token_ids: NDArray[np.int32]  # [T]
    image: SmallImage


def small_page(height: int = 4, width: int = 6, before: int = 3, after: int = 4, seed: int = 0) -> SmallPage:
    """A page of random pixels, height x width patches, with random text before and after the image."""
    source = np.random.default_rng(seed)
    pixels = source.integers(0, 256, (height * width, 3 * 16 * 16), dtype=np.uint8)
    text = source.integers(0, 256, before + after)
    text[before - 1 : before + 1] = special_token_id("<|vision_start|>"), special_token_id("<|vision_end|>")
    image = np.full(height * width // 4, IMAGE_TOKEN)
    token_ids = np.concatenate([text[:before], image, text[before:]]).astype(np.int32)
    return SmallPage(token_ids, SmallImage(pixels, SmallGrid(1, height, width)))


def page_logits(model: Qwen3VL) -> NDArray[np.float32]:
    """Logits [T, vocab] of one small page."""
    return np.array(model.logits([small_page()])[0].astype(mx.float32))


def text_config(
    *,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    sections: tuple[int, int, int] = (4, 2, 2),
) -> TextConfig:
    return TextConfig(
        hidden_size=heads * head_dim,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=288,
        max_position_embeddings=8192,
        rms_norm_eps=1e-6,
        rope_theta=10_000.0,
        mrope_section=sections,
        attention_bias=False,
        tie_word_embeddings=True,
    )


def vision_config(*, hidden: int = 32, heads: int = 2) -> VisionConfig:
    return VisionConfig(
        depth=2,
        hidden_size=hidden,
        intermediate_size=48,
        num_heads=heads,
        in_channels=3,
        patch_size=16,
        spatial_merge_size=2,
        temporal_patch_size=2,
        out_hidden_size=32,
        num_position_embeddings=64,
        deepstack_visual_indexes=(0,),
    )


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Read a JSON object, let `change` alter it in place, write it back."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
