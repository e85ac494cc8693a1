"""Writes trained weights as a Hugging Face checkpoint: config.json and model.safetensors.

    python -m tools.demo_model.export runs/demo/average.safetensors [--blend EARLIER.safetensors]

The folder holds the tokenizer's files already. The config has the older form (rope_scaling, model_type
qwen3_vl in vision_config) that transformers, mlx-vlm and mlx_chandra all read. Training is in grey: the patch
embedding is spread over 3 channels and 2 frames, which is exact for grey pages.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tools.demo_model.model import DemoConfig

CHANNELS, FRAMES = 3, 2
VISION_PARTS = {"norm1": "norm1", "qkv": "attn.qkv", "proj": "attn.proj", "norm2": "norm2"}
VISION_PARTS |= {"fc1": "mlp.linear_fc1", "fc2": "mlp.linear_fc2"}
MERGER_PARTS = {"norm": "norm", "fc1": "linear_fc1", "fc2": "linear_fc2"}
TEXT_PARTS = {
    "norm1": ("input_layernorm",),
    "qkv.weight": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "q_norm": ("self_attn.q_norm",),
    "k_norm": ("self_attn.k_norm",),
    "out.weight": ("self_attn.o_proj",),
    "norm2": ("post_attention_layernorm",),
    "gate_up.weight": ("mlp.gate_proj", "mlp.up_proj"),
    "down.weight": ("mlp.down_proj",),
}
TEXT, VISION = "model.language_model.", "model.visual."
PATCH, THEIR_PATCH = "vision.patch.weight", f"{VISION}patch_embed.proj.weight"


def weight_names(config: DemoConfig) -> dict[str, tuple[str, ...]]:
    """Map each of our weights, but PATCH, to the Hugging Face weights it is joined from."""
    names: dict[str, tuple[str, ...]] = {
        "embedding": (f"{TEXT}embed_tokens.weight",),
        "norm": (f"{TEXT}norm.weight",),
        "vision.patch.bias": (f"{VISION}patch_embed.proj.bias",),
        "vision.positions": (f"{VISION}pos_embed.weight",),
    }
    for layer in range(config.layers):
        for ours, sources in TEXT_PARTS.items():
            found = tuple(f"{TEXT}layers.{layer}.{source}.weight" for source in sources)
            names[f"blocks.{layer}.{ours}"] = found
    modules = [(f"blocks.{n}", f"blocks.{n}", VISION_PARTS) for n in range(config.vision_depth)]
    modules += [("merger", "merger", MERGER_PARTS)]
    mergers = range(len(config.deepstack))
    modules += [(f"deep_mergers.{n}", f"deepstack_merger_list.{n}", MERGER_PARTS) for n in mergers]
    for ours, theirs, parts in modules:
        for part, their_part in parts.items():
            for kind in ("weight", "bias"):
                names[f"vision.{ours}.{part}.{kind}"] = (f"{VISION}{theirs}.{their_part}.{kind}",)
    return names


def hugging_face_tensors(
    state: dict[str, Tensor], config: DemoConfig, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return all weights under Hugging Face's names; fused matrices are cut apart.

    The head shares the token table, so it has no tensor of its own. The patch embedding becomes [out,
    channels, frames, 16, 16].
    """
    grey = state[PATCH].view(-1, 1, 1, config.patch, config.patch) / (CHANNELS * FRAMES)
    named = {THEIR_PATCH: grey.expand(-1, CHANNELS, FRAMES, -1, -1)}
    rows = {3: config.qkv_rows, 2: (config.intermediate,) * 2}
    for ours, theirs in weight_names(config).items():
        value = state[ours]
        named |= zip(theirs, value.split(rows[len(theirs)]) if len(theirs) > 1 else [value], strict=True)
    return {name: value.detach().to(dtype).contiguous().clone() for name, value in named.items()}


def read_weights(file: Path, config: DemoConfig) -> dict[str, Tensor]:
    """Read weights under our own names, from what training wrote or from an exported model.safetensors.

    Raises KeyError where an exported weight is missing.
    """
    named = load_file(file)
    if "embedding" in named:
        return named
    grey = named[THEIR_PATCH][:, 0, 0].float() * (CHANNELS * FRAMES)
    parts = weight_names(config).items()
    return {PATCH: grey.flatten(1)} | {
        ours: torch.cat([named[name] for name in theirs]) for ours, theirs in parts
    }


def blended(new: dict[str, Tensor], earlier: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Blend the weights of two checkpoints of one training, `share` of the earlier one's.

    A model soup (arXiv:2203.05482) can be right where either of them is.
    """
    return {name: (1 - share) * value.float() + share * earlier[name].float() for name, value in new.items()}


def hugging_face_config(config: DemoConfig, ids: dict[str, int], dtype: str) -> dict[str, object]:
    """Return config.json in the older form; `ids` are the special tokens' numbers."""
    stop = ids["<|im_end|>"]
    text: dict[str, object] = {
        "model_type": "qwen3_vl_text",
        "vocab_size": config.vocabulary,
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 8192,
        "rope_theta": config.theta,
        "rope_scaling": {
            "rope_type": "default",
            "mrope_section": list(config.sections),
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": True,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": stop,
        "initializer_range": 0.02,
        "use_cache": True,
        "dtype": dtype,
    }
    vision: dict[str, object] = {
        "model_type": "qwen3_vl",
        "depth": config.vision_depth,
        "hidden_size": config.vision_hidden,
        "intermediate_size": config.vision_intermediate,
        "num_heads": config.vision_heads,
        "hidden_act": "gelu_pytorch_tanh",
        "in_channels": CHANNELS,
        "patch_size": config.patch,
        "temporal_patch_size": FRAMES,
        "spatial_merge_size": config.merge,
        "out_hidden_size": config.hidden,
        "num_position_embeddings": config.positions_side**2,
        "deepstack_visual_indexes": list(config.deepstack),
        "initializer_range": 0.02,
    }
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "chandra_prompts": "qwen3_5",
        "dtype": dtype,
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "eos_token_id": [stop, ids["<|endoftext|>"]],
        "tie_word_embeddings": True,
        "text_config": text,
        "vision_config": vision,
    }


def special_ids(folder: Path) -> dict[str, int]:
    """Read the numbers of the added tokens in the folder's tokenizer.json."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return {token["content"]: token["id"] for token in tokenizer["added_tokens"]}


def export(state: dict[str, Tensor], config: DemoConfig, folder: Path, dtype: torch.dtype) -> None:
    """Write config.json and model.safetensors into a folder that holds tokenizer.json."""
    name = str(dtype).removeprefix("torch.")
    settings = hugging_face_config(config, special_ids(folder), name)
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    tensors = hugging_face_tensors(state, config, dtype)
    weights = folder / "model.safetensors"
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(0o644)


def main() -> None:
    parser = argparse.ArgumentParser(description="Export the averaged weights that training wrote.")
    parser.add_argument("weights", type=Path, help="average.safetensors")
    parser.add_argument("--folder", type=Path, default=Path("src/mlx_chandra/demo/checkpoint"))
    parser.add_argument("--blend", type=Path, help="an earlier model.safetensors to blend the weights with")
    parser.add_argument("--share", type=float, default=0.3, help="of the earlier weights in the blend")
    options = parser.parse_args()
    state = read_weights(options.weights, DemoConfig())
    if options.blend:
        state = blended(state, read_weights(options.blend, DemoConfig()), options.share)
    export(state, DemoConfig(), options.folder, torch.bfloat16)


if __name__ == "__main__":
    main()
