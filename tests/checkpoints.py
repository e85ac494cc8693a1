"""Small random checkpoints of the Qwen3-VL architecture, in the files that real ones come in.

Only numpy, safetensors and tokenizers are needed, and the same seed gives the same weights everywhere, so
that references stored by one machine hold on another.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.processing_files import special_token_id, write_json, write_processing_files

Array = npt.NDArray[np.float32]


class ConfigForm(Enum):
    """How config.json writes the rotary settings."""

    ROPE_SCALING = "rope_scaling"  # as Chandra 1's, and the only form that mlx-vlm reads
    ROPE_PARAMETERS = "rope_parameters"  # as transformers 5 writes it


@dataclass(frozen=True)
class CheckpointShape:
    """Every size of a small Qwen3-VL; the names are config.json's, shortened."""

    hidden: int = 32
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    intermediate: int = 48
    mrope_section: tuple[int, int, int] = (4, 2, 2)
    rope_theta: float = 10_000.0
    vocab: int = 288
    tied: bool = True
    vision_depth: int = 3
    vision_hidden: int = 32
    vision_heads: int = 2
    vision_intermediate: int = 48
    deepstack: tuple[int, ...] = (0, 2)
    num_position_embeddings: int = 64
    min_pixels: int = 1024
    max_pixels: int = 1_048_576


@dataclass(frozen=True)
class Packing:
    """How matrices are quantised: MLX's affine kind."""

    group_size: int = 64
    bits: int = 4


# Every input size of its matrices is a multiple of 128, so that all group sizes fit.
QUANTIZABLE = CheckpointShape(
    hidden=128,
    heads=4,
    kv_heads=2,
    head_dim=64,
    intermediate=256,
    mrope_section=(12, 10, 10),
    tied=False,
    vision_hidden=128,
    vision_heads=4,
    vision_intermediate=256,
)


def write_huggingface_checkpoint(
    folder: Path,
    shape: CheckpointShape,
    *,
    seed: int = 0,
    form: ConfigForm = ConfigForm.ROPE_SCALING,
    shards: int = 1,
) -> Path:
    """Writes a whole checkpoint folder as transformers names things; more than one shard gets an index."""
    _write_weights(folder, random_weights(shape, seed), shards, {"format": "pt"})
    write_json(folder / "config.json", config_json(shape, form))
    write_processing_files(folder, shape.min_pixels, shape.max_pixels)
    return folder


def write_mlx_checkpoint(
    folder: Path,
    shape: CheckpointShape,
    *,
    seed: int = 0,
    shards: int = 1,
    packing: Packing | None = None,
    overrides: Mapping[str, Packing | None] | None = None,
) -> Path:
    """Writes the same weights as mlx-vlm names and lays them out (channels last in the patch embedding).

    With `packing` every matrix is quantised (this needs mlx), except where `overrides` says how else a module
    is, or None for not at all; its keys are module paths as mlx-vlm names them.
    """
    weights: dict[str, npt.NDArray[np.generic]] = {
        mlx_name(name): mlx_layout(name, array) for name, array in random_weights(shape, seed).items()
    }
    config = config_json(shape, ConfigForm.ROPE_SCALING)
    if packing is not None:
        overrides = overrides or {}
        weights = _quantized(weights, packing, overrides)
        own = {path: vars(value) if value else False for path, value in overrides.items()}
        config["quantization"] = {**vars(packing), **own}
    _write_weights(folder, weights, shards, {"format": "mlx"})
    write_json(folder / "config.json", config)
    write_processing_files(folder, shape.min_pixels, shape.max_pixels)
    return folder


def _quantized(
    weights: Mapping[str, npt.NDArray[np.generic]], packing: Packing, overrides: Mapping[str, Packing | None]
) -> dict[str, npt.NDArray[np.generic]]:
    import mlx.core as mx

    packed: dict[str, npt.NDArray[np.generic]] = {}
    for name, array in weights.items():
        path = name.removesuffix(".weight")
        how = overrides.get(path, packing) if array.ndim == 2 else None
        if how is None:
            packed[name] = array
            continue
        matrix, scales, biases = mx.quantize(mx.array(array), how.group_size, how.bits)
        parts = {"weight": matrix, "scales": scales, "biases": biases}
        packed.update({f"{path}.{part}": np.array(value) for part, value in parts.items()})
    return packed


def mlx_name(name: str) -> str:
    """mlx-vlm's name for one of transformers' tensors."""
    for theirs, mlx in (
        ("model.language_model.", "language_model.model."),
        ("model.visual.", "vision_tower."),
        ("lm_head.", "language_model.lm_head."),
    ):
        if name.startswith(theirs):
            return mlx + name.removeprefix(theirs)
    return name


def mlx_layout(name: str, array: Array) -> Array:
    """The tensor as mlx-vlm stores it: the patch embedding as [out, t, h, w, in]."""
    moved = array.transpose(0, 2, 3, 4, 1) if name.endswith("patch_embed.proj.weight") else array
    return np.ascontiguousarray(moved)


def random_weights(shape: CheckpointShape, seed: int = 0) -> dict[str, Array]:
    """All tensors by transformers' names, float32.

    Matrices are scaled by their input size, so that every layer matters; norms are near one; the head (or the
    shared embedding) is large enough to tell the best token from the second.
    """
    source = np.random.Generator(np.random.PCG64(seed))

    def draw(size: tuple[int, ...], centre: float, spread: float) -> Array:
        # uniform: numpy keeps these streams as they are from release to release
        return (centre + spread * math.sqrt(12) * (source.random(size) - 0.5)).astype(np.float32)

    weights: dict[str, Array] = {}
    for name, size in tensor_shapes(shape):
        if name.endswith("bias"):
            weights[name] = draw(size, 0.0, 0.1)
        elif re.search(r"norm\w*\.weight$", name):
            weights[name] = draw(size, 1.0, 0.1)
        elif name.endswith("embed_tokens.weight"):
            weights[name] = draw(size, 0.0, 0.3)
        elif name.endswith("pos_embed.weight"):
            weights[name] = draw(size, 0.0, 0.5)
        else:
            gain = 3.0 if name == "lm_head.weight" else 1.5
            weights[name] = draw(size, 0.0, gain / math.sqrt(math.prod(size[1:])))
    return weights


def tensor_shapes(shape: CheckpointShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors, as transformers' Qwen3VLForConditionalGeneration has them."""
    yield from _vision_shapes(shape)
    text = "model.language_model."
    yield text + "embed_tokens.weight", (shape.vocab, shape.hidden)
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    for layer in range(shape.layers):
        block = f"{text}layers.{layer}."
        yield block + "self_attn.q_proj.weight", (queries, shape.hidden)
        yield block + "self_attn.k_proj.weight", (keys, shape.hidden)
        yield block + "self_attn.v_proj.weight", (keys, shape.hidden)
        yield block + "self_attn.o_proj.weight", (shape.hidden, queries)
        yield block + "self_attn.q_norm.weight", (shape.head_dim,)
        yield block + "self_attn.k_norm.weight", (shape.head_dim,)
        yield block + "mlp.gate_proj.weight", (shape.intermediate, shape.hidden)
        yield block + "mlp.up_proj.weight", (shape.intermediate, shape.hidden)
        yield block + "mlp.down_proj.weight", (shape.hidden, shape.intermediate)
        yield block + "input_layernorm.weight", (shape.hidden,)
        yield block + "post_attention_layernorm.weight", (shape.hidden,)
    yield text + "norm.weight", (shape.hidden,)
    if not shape.tied:
        yield "lm_head.weight", (shape.vocab, shape.hidden)


def _vision_shapes(shape: CheckpointShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    vision, width = "model.visual.", shape.vision_hidden
    yield vision + "patch_embed.proj.weight", (width, 3, 2, 16, 16)
    yield vision + "patch_embed.proj.bias", (width,)
    yield vision + "pos_embed.weight", (shape.num_position_embeddings, width)
    for depth in range(shape.vision_depth):
        block = f"{vision}blocks.{depth}."
        yield from _with_bias(block + "norm1", (width,))
        yield from _with_bias(block + "norm2", (width,))
        yield from _with_bias(block + "attn.qkv", (3 * width, width))
        yield from _with_bias(block + "attn.proj", (width, width))
        yield from _with_bias(block + "mlp.linear_fc1", (shape.vision_intermediate, width))
        yield from _with_bias(block + "mlp.linear_fc2", (width, shape.vision_intermediate))
    merged = 4 * width
    mergers = [
        ("merger.", width),
        *((f"deepstack_merger_list.{i}.", merged) for i in range(len(shape.deepstack))),
    ]
    for merger, normed in mergers:
        yield from _with_bias(vision + merger + "norm", (normed,))
        yield from _with_bias(vision + merger + "linear_fc1", (merged, merged))
        yield from _with_bias(vision + merger + "linear_fc2", (shape.hidden, merged))


def _with_bias(name: str, size: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield name + ".weight", size
    yield name + ".bias", size[:1]


def config_json(shape: CheckpointShape, form: ConfigForm = ConfigForm.ROPE_SCALING) -> dict[str, object]:
    """config.json's content."""
    old = form is ConfigForm.ROPE_SCALING
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "image_token_id": special_token_id("<|image_pad|>"),
        "video_token_id": special_token_id("<|video_pad|>"),
        "vision_start_token_id": special_token_id("<|vision_start|>"),
        "vision_end_token_id": special_token_id("<|vision_end|>"),
        "tie_word_embeddings": shape.tied,
        "torch_dtype" if old else "dtype": "float32",
        "text_config": _text_config(shape, old),
        "vision_config": {
            "model_type": "qwen3_vl" if old else "qwen3_vl_vision",
            "depth": shape.vision_depth,
            "hidden_size": shape.vision_hidden,
            "intermediate_size": shape.vision_intermediate,
            "num_heads": shape.vision_heads,
            "hidden_act": "gelu_pytorch_tanh",
            "in_channels": 3,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": shape.hidden,
            "num_position_embeddings": shape.num_position_embeddings,
            "deepstack_visual_indexes": list(shape.deepstack),
        },
    }


def _text_config(shape: CheckpointShape, old: bool) -> dict[str, object]:
    rope: dict[str, object] = {
        "rope_type": "default",
        "mrope_section": list(shape.mrope_section),
        "mrope_interleaved": True,
    }
    text: dict[str, object] = {
        "model_type": "qwen3_vl_text",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "eos_token_id": special_token_id("<|im_end|>"),
    }
    if old:
        rotary = {"rope_theta": shape.rope_theta, "rope_scaling": rope, "tie_word_embeddings": shape.tied}
    else:
        rotary = {"rope_parameters": {**rope, "rope_theta": shape.rope_theta}}
    return {**text, **rotary}


def _write_weights(
    folder: Path, weights: Mapping[str, npt.NDArray[np.generic]], shards: int, metadata: dict[str, str]
) -> None:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    if shards == 1:
        save_file(dict(weights), folder / "model.safetensors", metadata)
        return
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: array for place, (name, array) in enumerate(weights.items()) if place % shards == shard}
        save_file(part, folder / file, metadata)
        weight_map.update(dict.fromkeys(part, file))
    size = sum(array.nbytes for array in weights.values())
    write_json(
        folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map}
    )
