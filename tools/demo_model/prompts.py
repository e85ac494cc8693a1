"""Finds the tokens around a page: the chat template's opening before the image, each prompt after it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

OPENING = "<|im_start|>user\n<|vision_start|>"
CLOSING = "<|vision_end|>{}<|im_end|>\n<|im_start|>assistant\n"
STOP = "<|im_end|>"
BOX_BEGINS, BOX_ENDS = "<div data-bbox", '" data-label'


class PromptKind(IntEnum):
    """Which prompt a batch answers; the names are prompts.json's."""

    SHORT = 0
    OCR = 1
    OCR_LAYOUT = 2


@dataclass(frozen=True)
class PromptTokens:
    """Token ids around the image's tokens, and the one that ends an answer."""

    lead: tuple[int, ...]
    after: tuple[tuple[int, ...], ...]  # by PromptKind
    stop: int
    marks: tuple[int, ...]  # by token: 1 where it begins a box, -1 where it ends one, else 0
    texts: tuple[bool, ...]  # by token: whether it is text, not a tag and not special

    @classmethod
    def from_folder(cls, tokenizer_folder: Path, data_folder: Path) -> PromptTokens:
        """Read tokenizer.json of the one and prompts.json of the other."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
        texts = json.loads((data_folder / "prompts.json").read_text(encoding="utf-8"))

        def ids(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(text, add_special_tokens=False).ids)

        after = tuple(ids(CLOSING.format(texts[kind.name.lower()])) for kind in PromptKind)
        vocabulary = tokenizer.get_vocab()
        marks, texts = [0] * len(vocabulary), [True] * len(vocabulary)
        for token, number in vocabulary.items():
            texts[number] = not token.startswith("<")
            marks[number] = 1 if token.startswith(BOX_BEGINS) else -1 if token.startswith(BOX_ENDS) else 0
        return cls(ids(OPENING), after, ids(STOP)[0], tuple(marks), tuple(texts))
