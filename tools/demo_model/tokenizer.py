"""Builds the demo checkpoint's tokenizer and the other small files its folder needs beside the weights.

    python -m tools.demo_model.tokenizer [--data FOLDER] [--output FOLDER]

A byte-level BPE of 1,024 entries, split as Qwen2's is (digits one by one), trained on the page generator's
own text and on the prompts; every HTML tag and fixed part of a layout div is one token. export.py writes the
weights and config.json.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers.models import BPE

from tools.demo_model.text import TextKind, TextMix, TextSource

VOCABULARY_SIZE = 1024
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TAGS = tuple(
    f"<{slash}{tag}>"
    for tag in ("p", "h1", "h2", "ul", "li", "table", "tr", "th", "td")
    for slash in ("", "/")
)
LABELS = ("Section-Header", "Text", "List-Group", "Table", "Page-Header", "Page-Footer")
LAYOUT_PARTS = ('<div data-bbox="', *(f'" data-label="{label}">' for label in LABELS), "</div>")
ENTITIES = ("&amp;", "&lt;", "&gt;")
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PASSAGES = 12_000
PROMPT_REPEATS = 400
MIN_PIXELS, MAX_PIXELS = 64 * 64, 1088 * 1088
CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string %}
{{- message.content }}
{%- else %}
{%- for part in message.content %}
{%- if part.type in ('image', 'image_url') or 'image' in part %}
{{- '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif 'text' in part %}
{{- part.text }}
{%- endif %}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def corpus(text: TextSource, prompts: dict[str, str]) -> Iterator[str]:
    """Draw the generator's text, prose more often than the rest, and repeat the prompts."""
    dice = random.Random(0)
    mix = TextMix(prose=0.55, prose_like=0.25, figures=0.15, random=0.05)
    for _ in range(PASSAGES):
        kind = mix.draw(dice)
        yield text.passage(dice, kind, 40)
        if kind is not TextKind.RANDOM:
            yield text.phrase(dice, kind, 3)
    for _ in range(PROMPT_REPEATS):
        yield from prompts.values()


def train_tokenizer(texts: Iterator[str]) -> Tokenizer:
    """Train the BPE on texts and add tags and special tokens: VOCABULARY_SIZE entries in all."""
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    added = [*TAGS, *LAYOUT_PARTS, *ENTITIES]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(SPECIAL_TOKENS) - len(added),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(part, normalized=False) for part in added])
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS]
    )
    if tokenizer.get_vocab_size() != VOCABULARY_SIZE:
        raise ValueError(f"The tokenizer has {tokenizer.get_vocab_size()} entries; the text is too small.")
    return tokenizer


def tokenizer_config() -> dict[str, Any]:
    return {
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "extra_special_tokens": {
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_bos_token": "<|vision_start|>",
            "vision_eos_token": "<|vision_end|>",
        },
        "model_max_length": 8192,
        "pad_token": "<|endoftext|>",
        "processor_class": "Qwen3VLProcessor",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }


def image_config(processor: str) -> dict[str, Any]:
    """Return the form that Qwen2-VL's and Qwen3-VL's image processors read."""
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": processor,
        "image_std": [0.5, 0.5, 0.5],
        "merge_size": 2,
        "min_pixels": MIN_PIXELS,
        "max_pixels": MAX_PIXELS,
        "patch_size": 16,
        "processor_class": "Qwen3VLProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
        "temporal_patch_size": 2,
    }


def video_config() -> dict[str, Any]:
    config = image_config("")
    del config["image_processor_type"], config["min_pixels"], config["max_pixels"]
    return {**config, "video_processor_type": "Qwen3VLVideoProcessor"}


def generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    end, padding = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    return {
        "do_sample": False,
        "eos_token_id": [end, padding],
        "max_new_tokens": 2048,
        "pad_token_id": padding,
    }


def write_checkpoint_files(tokenizer: Tokenizer, folder: Path) -> None:
    """Write everything of a checkpoint folder but config.json and the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, "utf-8")
    for name, content in (
        ("tokenizer_config.json", tokenizer_config()),
        ("preprocessor_config.json", image_config("Qwen2VLImageProcessor")),
        ("video_preprocessor_config.json", video_config()),
        ("generation_config.json", generation_config(tokenizer)),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def main() -> None:
    root = Path(__file__).parents[2]
    parser = argparse.ArgumentParser(description="Build the demo checkpoint's tokenizer and configs.")
    parser.add_argument("--data", type=Path, default=Path(__file__).parent / ".data")
    parser.add_argument("--output", type=Path, default=root / "src/mlx_chandra/demo/checkpoint")
    options = parser.parse_args()
    prompts = json.loads((options.data / "prompts.json").read_text("utf-8"))
    tokenizer = train_tokenizer(corpus(TextSource.from_folder(options.data), prompts))
    write_checkpoint_files(tokenizer, options.output)
    for name, prompt in prompts.items():
        print(f"{name}: {len(tokenizer.encode(prompt).ids)} tokens")


if __name__ == "__main__":
    main()
