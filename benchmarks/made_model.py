"""Makes a model of Chandra 1's real dimensions (or toy ones) with random weights, the same for every engine.

Each tensor's seed is its name, so that no engine needs all tensors at once and all draw the same ones. Speed
doesn't depend on the values; they are scaled so that nothing overflows.
"""

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_chandra.models.backend import current_backend
from mlx_chandra.models.config import ModelConfig, VisionConfig, read_config
from mlx_chandra.models.qwen3_vl import Qwen3VL

PATCH_PROJECTION = "visual.patch_embed.proj.weight"


class Naming(StrEnum):
    """Whose names and layouts the tensors get."""

    OURS = "ours"
    MLX_VLM = "mlx-vlm"
    HUGGING_FACE = "hugging-face"


# our prefixes and the others'
_PREFIXES = {
    Naming.OURS: {},
    Naming.MLX_VLM: {
        "language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
        "visual.": "vision_tower.",
    },
    Naming.HUGGING_FACE: {"language_model.": "model.language_model.", "visual.": "model.visual."},
}


@dataclass(frozen=True)
class Dimensions:
    """The sizes in which models of this architecture differ; the names are config.json's, shortened."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    mrope_section: tuple[int, int, int]
    vision_hidden: int
    vision_intermediate: int
    vision_depth: int
    vision_heads: int
    positions: int
    deepstack: tuple[int, ...]
    first_special: int  # the picture's tokens follow it


CHANDRA_1 = Dimensions(
    hidden=4096,
    intermediate=12288,
    layers=36,
    heads=32,
    kv_heads=8,
    head_dim=128,
    vocab=151_936,
    mrope_section=(24, 20, 20),
    vision_hidden=1152,
    vision_intermediate=4304,
    vision_depth=27,
    vision_heads=16,
    positions=2304,
    deepstack=(8, 16, 24),
    first_special=151_652,
)
TOY = Dimensions(
    hidden=64,
    intermediate=128,
    layers=4,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocab=512,
    mrope_section=(4, 2, 2),
    vision_hidden=32,
    vision_intermediate=64,
    vision_depth=4,
    vision_heads=2,
    positions=64,
    deepstack=(0, 1, 2),
    first_special=500,
)


def config_json(size: Dimensions) -> dict[str, object]:
    """Return config.json's content, in the form that all engines read."""
    start = size.first_special
    text = {
        "model_type": "qwen3_vl_text",
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.head_dim,
        "vocab_size": size.vocab,
        "hidden_act": "silu",
        "attention_bias": False,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 32_768,
        "rope_theta": 5_000_000.0,
        "rope_scaling": {
            "rope_type": "default",
            "mrope_section": list(size.mrope_section),
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": False,
    }
    vision = {
        "model_type": "qwen3_vl",
        "depth": size.vision_depth,
        "hidden_size": size.vision_hidden,
        "intermediate_size": size.vision_intermediate,
        "num_heads": size.vision_heads,
        "hidden_act": "gelu_pytorch_tanh",
        "in_channels": 3,
        "patch_size": 16,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "out_hidden_size": size.hidden,
        "num_position_embeddings": size.positions,
        "deepstack_visual_indexes": list(size.deepstack),
    }
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "vision_start_token_id": start,
        "vision_end_token_id": start + 1,
        "image_token_id": start + 3,
        "video_token_id": start + 4,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
        "text_config": text,
        "vision_config": vision,
    }


def made_config(size: Dimensions) -> ModelConfig:
    with TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config_json(size)), encoding="utf-8")
        return read_config(Path(folder))


def made_tensors(size: Dimensions, dtype: mx.Dtype, naming: Naming) -> Iterator[tuple[str, mx.array]]:
    """Make all tensors, one at a time, evaluated on MLX's default device."""
    config = made_config(size)
    empty = Qwen3VL(config, current_backend())  # its own weights are never computed
    parameters = dict(tree_flatten(empty.parameters()))  # type: ignore[no-untyped-call]
    shapes = {name: tuple(array.shape) for name, array in parameters.items()}
    del empty, parameters
    for name, shape in shapes.items():
        tensor = _draw(name, shape, dtype)
        if name == PATCH_PROJECTION:
            tensor = _patch_projection(tensor, config.vision, naming)
        mx.eval(tensor)
        yield _named(name, naming), tensor


def made_model(size: Dimensions, dtype: str) -> Qwen3VL:
    """Return our model with these weights, ready to run; `dtype` is float32 or bfloat16."""
    model = Qwen3VL(made_config(size), current_backend())
    chosen = {"float32": mx.float32, "bfloat16": mx.bfloat16}[dtype]
    model.load_weights(list(made_tensors(size, chosen, Naming.OURS)))
    model.fuse()
    model.eval()
    return model


def _draw(name: str, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    if "norm" in name and name.endswith("weight"):
        return mx.ones(shape, dtype)
    if name.endswith("bias"):
        return mx.zeros(shape, dtype)
    key = mx.random.key(zlib.crc32(name.encode()))
    spread = 0.02 if "embed" in name and len(shape) == 2 else shape[-1] ** -0.5
    return mx.random.normal(shape, dtype, scale=spread, key=key)


def _patch_projection(matrix: mx.array, vision: VisionConfig, naming: Naming) -> mx.array:
    """Reshape our matrix [hidden, channels * frames * height * width] to the others' convolution."""
    if naming is Naming.OURS:
        return matrix
    side = vision.patch_size
    kernel = matrix.reshape(-1, vision.in_channels, vision.temporal_patch_size, side, side)
    return kernel.transpose(0, 2, 3, 4, 1) if naming is Naming.MLX_VLM else kernel


def _named(name: str, naming: Naming) -> str:
    for ours, theirs in _PREFIXES[naming].items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name
