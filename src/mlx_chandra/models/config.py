"""Reads a checkpoint's config.json into frozen dataclasses.

Reads the form that Chandra 1 was published in (`rope_theta`, `rope_scaling`) and transformers 5's
(`rope_parameters`); everything that the model needs and the file lacks is an error that names the key.
Tokenizer and image settings are read in `processing`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlx_chandra.errors import CheckpointError
from mlx_chandra.files.json_file import Json, JsonFile

SUPPORTED_MODEL_TYPES = ("qwen3_vl",)


@dataclass(frozen=True)
class TextConfig:
    """Qwen3-VL's text tower (transformers' Qwen3VLTextConfig)."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int]
    attention_bias: bool
    tie_word_embeddings: bool


@dataclass(frozen=True)
class VisionConfig:
    """Qwen3-VL's vision tower (transformers' Qwen3VLVisionConfig)."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    in_channels: int
    patch_size: int
    spatial_merge_size: int
    temporal_patch_size: int
    out_hidden_size: int
    num_position_embeddings: int
    deepstack_visual_indexes: tuple[int, ...]

    @property
    def patch_values(self) -> int:
        """Numbers in one flattened patch: channels * frames * height * width."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


@dataclass(frozen=True)
class Quantization:
    """MLX's affine quantisation of a checkpoint.

    `overrides` maps a module's path, as the checkpoint names it, to its own settings; None keeps that
    module unquantised.
    """

    group_size: int
    bits: int
    overrides: Mapping[str, "Quantization | None"]


@dataclass(frozen=True)
class ModelConfig:
    """All of config.json that the models use."""

    model_type: str
    text: TextConfig
    vision: VisionConfig
    image_token_id: int
    vision_start_token_id: int
    vision_end_token_id: int
    dtype: str
    quantization: Quantization | None


def read_config(folder: Path) -> ModelConfig:
    """Read `folder`/config.json.

    Raises:
        CheckpointError: The file is missing, no JSON, lacks a key, or is of an architecture that isn't
            supported.
    """
    path = folder / "config.json"
    top = JsonFile.read(path)
    model_type = str(top.need("model_type"))
    if model_type not in SUPPORTED_MODEL_TYPES:
        raise CheckpointError(
            f"{path}: model_type {model_type!r} is not supported.",
            f"mlx-chandra runs {', '.join(SUPPORTED_MODEL_TYPES)} (Chandra 1).",
        )
    return ModelConfig(
        model_type=model_type,
        text=_text_config(top),
        vision=_vision_config(top.section("vision_config")),
        image_token_id=top.count("image_token_id", least=0),
        vision_start_token_id=top.count("vision_start_token_id", least=0),
        vision_end_token_id=top.count("vision_end_token_id", least=0),
        dtype=str(_dtype_name(top)),
        quantization=_quantization(top),
    )


def _text_config(top: JsonFile) -> TextConfig:
    text = top.section("text_config")
    heads = text.count("num_attention_heads")
    hidden = text.count("hidden_size")
    theta, sections = _rope(text)
    head_dim = text.count("head_dim", hidden // heads)
    if sum(sections) != head_dim // 2:
        raise CheckpointError(
            f"{text.path}: mrope_section {list(sections)} should add up to half of head_dim {head_dim}."
        )
    return TextConfig(
        hidden_size=hidden,
        intermediate_size=text.count("intermediate_size"),
        num_hidden_layers=text.count("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=text.count("num_key_value_heads", heads),
        head_dim=head_dim,
        vocab_size=text.count("vocab_size"),
        max_position_embeddings=text.count("max_position_embeddings", 128_000),
        rms_norm_eps=text.number("rms_norm_eps", 1e-6),
        rope_theta=theta,
        mrope_section=sections,
        attention_bias=bool(text.get("attention_bias", False)),
        tie_word_embeddings=bool(text.get("tie_word_embeddings", top.get("tie_word_embeddings", False))),
    )


def _rope(text: JsonFile) -> tuple[float, tuple[int, int, int]]:
    """theta and the three M-RoPE sections, from either form of the file."""
    parameters, scaling = text.section("rope_parameters", {}), text.section("rope_scaling", {})
    theta = (parameters if "rope_theta" in parameters.values else text).number("rope_theta")
    sections = parameters.counts("mrope_section") or scaling.counts("mrope_section")
    if not sections:
        raise CheckpointError(
            f"{text.path}: text_config has no mrope_section in rope_parameters or rope_scaling."
        )
    if len(sections) != 3:
        raise CheckpointError(
            f"{text.path}: mrope_section should have three numbers, but is {list(sections)}."
        )
    kind = parameters.get("rope_type", scaling.get("rope_type", scaling.get("type", "default")))
    if kind not in ("default", "mrope"):
        raise CheckpointError(f"{text.path}: rope of type {kind!r} is not supported.")
    time, height, width = sections
    return theta, (time, height, width)


def _vision_config(vision: JsonFile) -> VisionConfig:
    config = VisionConfig(
        depth=vision.count("depth"),
        hidden_size=vision.count("hidden_size"),
        intermediate_size=vision.count("intermediate_size"),
        num_heads=vision.count("num_heads"),
        in_channels=vision.count("in_channels", 3),
        patch_size=vision.count("patch_size"),
        spatial_merge_size=vision.count("spatial_merge_size"),
        temporal_patch_size=vision.count("temporal_patch_size"),
        out_hidden_size=vision.count("out_hidden_size"),
        num_position_embeddings=vision.count("num_position_embeddings"),
        deepstack_visual_indexes=vision.counts("deepstack_visual_indexes"),
    )
    activation = vision.get("hidden_act", "gelu_pytorch_tanh")
    if activation != "gelu_pytorch_tanh":
        raise CheckpointError(f"{vision.path}: vision_config.hidden_act {activation!r} is not supported.")
    return config


def _dtype_name(top: JsonFile) -> str:
    text = top.section("text_config")
    name = top.get("dtype", top.get("torch_dtype", text.get("dtype", text.get("torch_dtype", "bfloat16"))))
    return str(name).removeprefix("torch.")


def _quantization(top: JsonFile) -> Quantization | None:
    raw = top.get("quantization", top.get("quantization_config"))
    if raw is None:
        return None
    if not isinstance(raw, dict) or "group_size" not in raw or "bits" not in raw:
        raise CheckpointError(
            f"{top.path}: this kind of quantisation is not supported: {raw!r}.",
            "Use an unquantised checkpoint, or one in MLX's affine quantisation (group_size and bits).",
        )
    return _one_quantization(
        top.path,
        raw,
        {
            key: None if value is False else _one_quantization(top.path, {**_plain(raw), **value}, {})
            for key, value in raw.items()
            if isinstance(value, dict) or value is False
        },
    )


def _plain(raw: Json) -> Json:
    return {key: raw[key] for key in ("group_size", "bits", "mode") if key in raw}


def _one_quantization(path: Path, raw: Json, overrides: Mapping[str, Quantization | None]) -> Quantization:
    mode, group_size, bits = raw.get("mode", "affine"), raw["group_size"], raw["bits"]
    if mode != "affine" or group_size not in (32, 64, 128) or bits not in (2, 3, 4, 5, 6, 8):
        raise CheckpointError(
            f"{path}: quantisation of mode {mode!r}, group_size {group_size}, bits {bits} is not supported.",
            "Use affine quantisation with a group size of 32, 64 or 128 and 4 or 8 bits.",
        )
    return Quantization(group_size=int(group_size), bits=int(bits), overrides=overrides)
