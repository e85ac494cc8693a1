"""Writes trained weights as a Hugging Face checkpoint: config.json and model.safetensors beside the
tokenizer's files.

The config has the older form (rope_scaling, model_type qwen3_vl in vision_config) that transformers, mlx-
vlm and mlx_chandra all read. Training was in grey: the patch embedding is spread over 3 channels and 2
frames, exact for grey pages.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tools.demo_model.model import DemoConfig

CHANNELS, FRAMES = 3, 2
VISION_PARTS = {
    "norm1": "norm1",
    "qkv": "attn.qkv",
    "proj": "attn.proj",
    "norm2": "norm2",
    "fc1": "mlp.linear_fc1",
    "fc2": "mlp.linear_fc2",
}
MERGER_PARTS = {"norm": "norm", "fc1": "linear_fc1", "fc2": "linear_fc2"}
# What each of the decoder's weights is joined from.
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


def text_tensors(state: dict[str, Tensor], config: DemoConfig) -> dict[str, Tensor]:
    """The decoder's weights under Hugging Face's names; fused matrices are cut apart."""
    wide, narrow = config.heads * config.head_dim, config.key_value_heads * config.head_dim
    named = {
        "embed_tokens.weight": state["embedding"],
        "norm.weight": state["norm"],
    }
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}.", f"layers.{layer}."
        q, k, v = state[f"{ours}qkv.weight"].split((wide, narrow, narrow))
        gate, up = state[f"{ours}gate_up.weight"].chunk(2)
        named |= {
            f"{theirs}input_layernorm.weight": state[f"{ours}norm1"],
            f"{theirs}self_attn.q_proj.weight": q,
            f"{theirs}self_attn.k_proj.weight": k,
            f"{theirs}self_attn.v_proj.weight": v,
            f"{theirs}self_attn.q_norm.weight": state[f"{ours}q_norm"],
            f"{theirs}self_attn.k_norm.weight": state[f"{ours}k_norm"],
            f"{theirs}self_attn.o_proj.weight": state[f"{ours}out.weight"],
            f"{theirs}post_attention_layernorm.weight": state[f"{ours}norm2"],
            f"{theirs}mlp.gate_proj.weight": gate,
            f"{theirs}mlp.up_proj.weight": up,
            f"{theirs}mlp.down_proj.weight": state[f"{ours}down.weight"],
        }
    return {f"model.language_model.{name}": value for name, value in named.items()}


def merger_tensors(state: dict[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    """One patch merger: a norm and two linears, each with a bias."""
    return {
        f"{theirs}.{b}.{kind}": state[f"{ours}.{a}.{kind}"]
        for a, b in MERGER_PARTS.items()
        for kind in ("weight", "bias")
    }


def vision_tensors(state: dict[str, Tensor], config: DemoConfig) -> dict[str, Tensor]:
    """The vision tower's weights under Hugging Face's names; the patch embedding as [out, channels,
    frames, 16, 16]."""
    grey = state["vision.patch.weight"].view(-1, 1, 1, config.patch, config.patch) / (CHANNELS * FRAMES)
    named = {
        "patch_embed.proj.weight": grey.expand(-1, CHANNELS, FRAMES, -1, -1),
        "patch_embed.proj.bias": state["vision.patch.bias"],
        "pos_embed.weight": state["vision.positions"],
    }
    for block in range(config.vision_depth):
        for ours, theirs in VISION_PARTS.items():
            for kind in ("weight", "bias"):
                named[f"blocks.{block}.{theirs}.{kind}"] = state[f"vision.blocks.{block}.{ours}.{kind}"]
    named |= merger_tensors(state, "vision.merger", "merger")
    for number in range(len(config.deepstack)):
        named |= merger_tensors(state, f"vision.deep_mergers.{number}", f"deepstack_merger_list.{number}")
    return {f"model.visual.{name}": value for name, value in named.items()}


def hugging_face_tensors(
    state: dict[str, Tensor], config: DemoConfig, dtype: torch.dtype
) -> dict[str, Tensor]:
    """All weights of the checkpoint. The head shares the token table, so it has no tensor of its own."""
    named = text_tensors(state, config) | vision_tensors(state, config)
    return {name: value.detach().to(dtype).contiguous().clone() for name, value in named.items()}


def training_tensors(named: dict[str, Tensor], config: DemoConfig) -> dict[str, Tensor]:
    """The way back, to train or measure what is shipped: the same weights under our own names.

    `named` is all of model.safetensors. Raises KeyError where a weight is missing.
    """
    text, vision = "model.language_model.", "model.visual."
    state = {"embedding": named[f"{text}embed_tokens.weight"], "norm": named[f"{text}norm.weight"]}
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}.", f"{text}layers.{layer}."
        for name, parts in TEXT_PARTS.items():
            state[ours + name] = torch.cat([named[f"{theirs}{part}.weight"] for part in parts])
    grey = named[f"{vision}patch_embed.proj.weight"][:, 0, 0].float() * (CHANNELS * FRAMES)
    state["vision.patch.weight"] = grey.flatten(1)
    state["vision.patch.bias"] = named[f"{vision}patch_embed.proj.bias"]
    state["vision.positions"] = named[f"{vision}pos_embed.weight"]
    places = {f"blocks.{n}.": (f"blocks.{n}.", VISION_PARTS) for n in range(config.vision_depth)}
    places["merger."] = ("merger.", MERGER_PARTS)
    for number in range(len(config.deepstack)):
        places[f"deep_mergers.{number}."] = (f"deepstack_merger_list.{number}.", MERGER_PARTS)
    for ours, (theirs, pairs) in places.items():
        for a, b in pairs.items():
            for kind in ("weight", "bias"):
                state[f"vision.{ours}{a}.{kind}"] = named[f"{vision}{theirs}{b}.{kind}"]
    return state


def read_weights(files: Sequence[Path], config: DemoConfig) -> dict[str, Tensor]:
    """Weights under our own names, from the parts that training wrote or from an exported
    model.safetensors."""
    state = {name: value for file in files for name, value in load_file(file).items()}
    return state if "embedding" in state else training_tensors(state, config)


def blended(new: dict[str, Tensor], earlier: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights of two checkpoints of one training, `share` of the earlier one's: a model soup
    (arXiv:2203.05482), which can be right where either of them is."""
    return {name: (1 - share) * value.float() + share * earlier[name].float() for name, value in new.items()}


def hugging_face_config(config: DemoConfig, ids: dict[str, int], dtype: str) -> dict[str, object]:
    """config.json in the older form; `ids` maps the special tokens to their numbers in the tokenizer."""
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
    """Numbers of the added tokens in the folder's tokenizer.json."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return {token["content"]: token["id"] for token in tokenizer["added_tokens"]}


def export(state: dict[str, Tensor], config: DemoConfig, folder: Path, dtype: torch.dtype) -> None:
    """Writes config.json and model.safetensors into a folder that already holds tokenizer.json."""
    name = str(dtype).removeprefix("torch.")
    settings = hugging_face_config(config, special_ids(folder), name)
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    tensors = hugging_face_tensors(state, config, dtype)
    weights = folder / "model.safetensors"
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(0o644)


def main() -> None:
    """python -m tools.demo_model.export PART... --folder FOLDER: joins the parts that training wrote and
    exports them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("parts", nargs="+", type=Path, help="safetensors files with the averaged weights")
    parser.add_argument("--folder", type=Path, default=Path("src/mlx_chandra/demo/checkpoint"))
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--blend", type=Path, help="an earlier model.safetensors to blend the weights with")
    parser.add_argument("--share", type=float, default=0.3, help="of the earlier weights in the blend")
    options = parser.parse_args()
    state = read_weights(options.parts, DemoConfig())
    if options.blend:
        state = blended(state, read_weights([options.blend], DemoConfig()), options.share)
    export(state, DemoConfig(), options.folder, getattr(torch, options.dtype))


if __name__ == "__main__":
    main()
