"""Draws pages and packs them into batches of one page size and one prompt.

Plain numpy. train.py runs a Packer in each worker process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tools.demo_model.composing import Level, Studio
from tools.demo_model.pages import LEVELS, RenderedPage, draw_page
from tools.demo_model.prompts import STOP, PromptKind
from tools.demo_model.text import TextMix
from tools.demo_model.typesetting import Points

PATCH = 16
MERGE = 2
SLOTS = 5  # characters named per patch
LINE_APART = 4.0  # pixels between the centres of two lines, at the least
PIXELS, MOST_PAGES = 9_400_000, 320  # of a batch
PADDING_TOKEN = "<|endoftext|>"

# What training reads more of than the exam, whose pages come as they come.
TRAINING_TEXT = TextMix(echo=0.1, marks=0.15, alike=0.2)
CROWDED_SHARE = 0.5  # of the larger pages
SHORT_SHARE = 0.7  # of the larger pages: they have the short prompt
OCR_SHARE = 0.24  # of the prompts at the larger levels' own shares; a third of it at the small ones


@dataclass(frozen=True)
class Batch:
    """Pages of one size with their answers to one prompt.

    Attributes:
        level: Number of the level in LEVELS.
        prompt: The prompt of all pages.
        ink: uint8 [B, h, w]; 255 = full ink.
        answers: int32 [B, T]; the answer, the stop token, then padding; T is the level's max_answer_tokens.
        lengths: int32 [B]; tokens of the answer with the stop token.
        places: float16 [B, T, 2]; where each token is on the page, pixels (x, y); nan if nowhere.
        characters: uint8 [B, P, SLOTS]; for each 16 x 16 patch, in the vision tower's order (merge blocks
            of 2 x 2, row by row), the characters whose centre lies in it, line by line from left to right:
            0 for none, else the position in ALPHABET plus 1.
    """

    level: int
    prompt: PromptKind
    ink: NDArray[np.uint8]
    answers: NDArray[np.int32]
    lengths: NDArray[np.int32]
    places: NDArray[np.float16]
    characters: NDArray[np.uint8]


def draw_prompt(rng: np.random.Generator, level: Level) -> PromptKind:
    """Draw a prompt for the pages of a batch."""
    layout, ocr = level.layout_share, OCR_SHARE / 3
    if level.blocks:
        rest = (1 - SHORT_SHARE) / (layout + OCR_SHARE)
        layout, ocr = layout * rest, OCR_SHARE * rest
    draw = rng.random()
    if draw < layout:
        return PromptKind.OCR_LAYOUT
    return PromptKind.OCR if draw < layout + ocr else PromptKind.SHORT


class Packer:
    """Draws and packs batches of about `pixels` pixels, an even number of pages each."""

    def __init__(self, studio: Studio, tokenizer: Tokenizer, pixels: int = PIXELS) -> None:
        self.studio, self.tokenizer, self.pixels = studio, tokenizer, pixels
        vocabulary = tokenizer.get_vocab()
        self.stop, self.padding = vocabulary[STOP], vocabulary[PADDING_TOKEN]

    @classmethod
    def from_folders(cls, data: Path, tokenizer: Path) -> Packer:
        """Use a folder that fetch_data filled and one with tokenizer.json."""
        studio = Studio.from_folder(data, mix=TRAINING_TEXT, crowded=CROWDED_SHARE)
        return cls(studio, Tokenizer.from_file(str(tokenizer / "tokenizer.json")))

    def draw(self, rng: np.random.Generator, weights: Sequence[float]) -> Batch:
        """Draw a level by weight, one of its sizes and a prompt, then the pages."""
        shares = np.asarray(weights, np.float64)
        number = int(rng.choice(len(LEVELS), p=shares / shares.sum()))
        level = LEVELS[number]
        size = level.sizes[int(rng.integers(len(level.sizes)))]
        return self.pack(rng, number, size, draw_prompt(rng, level))

    def pack(self, rng: np.random.Generator, number: int, size: tuple[int, int], prompt: PromptKind) -> Batch:
        """Draw the pages of one batch of level `number`, size (height, width) and prompt."""
        level, area = LEVELS[number], size[0] * size[1]
        rows, longest = max(2, min(MOST_PAGES, self.pixels // area // 2 * 2)), level.max_answer_tokens
        batch = Batch(
            number,
            prompt,
            np.empty((rows, *size), np.uint8),
            np.full((rows, longest), self.padding, np.int32),
            np.empty(rows, np.int32),
            np.full((rows, longest, 2), np.nan, np.float16),
            np.empty((rows, area // PATCH**2, SLOTS), np.uint8),
        )
        for row in range(rows):
            page, ids, points = self.fitting_page(rng, level, size, prompt)
            batch.ink[row] = page.ink
            batch.answers[row, : len(ids)] = ids
            batch.lengths[row] = len(ids)
            batch.places[row, : len(points)] = points
            batch.characters[row] = characters_by_patch(page.centres, page.chars, size)
        return batch

    def fitting_page(
        self, rng: np.random.Generator, level: Level, size: tuple[int, int], prompt: PromptKind
    ) -> tuple[RenderedPage, list[int], Points]:
        """Draw pages until one's answer fits the level; return it, its tokens and their places."""
        while True:
            page = draw_page(rng, level, size, self.studio)
            html, points = page.html, page.html_xy
            if prompt is PromptKind.OCR_LAYOUT:
                html, points = page.layout_html, page.layout_xy
            encoding = self.tokenizer.encode(html, add_special_tokens=False)
            if len(encoding.ids) < level.max_answer_tokens:
                return page, [*encoding.ids, self.stop], token_points(html, encoding.offsets, points)


def token_points(html: str, offsets: Sequence[tuple[int, int]], points: Points) -> Points:
    """Return each token's place, that of its first character that is no space: float32 [tokens, 2]."""
    spans = np.array(offsets, np.int64).reshape(-1, 2)
    text = np.frombuffer(html.encode("utf-32-le"), np.uint32)
    starts = spans[:, 0] + ((text[spans[:, 0]] == 32) & (spans[:, 1] - spans[:, 0] > 1))
    return points[starts]


def characters_by_patch(
    centres: Points, chars: NDArray[np.uint8], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Sort characters into patches: uint8 [P, SLOTS], patches in merge-block order, 0 for none."""
    rows, columns = size[0] // PATCH, size[1] // PATCH
    x, y = centres[:, 0], centres[:, 1]
    column, row = (x // PATCH).astype(np.int64), (y // PATCH).astype(np.int64)
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    row, column, x, y, chars = row[inside], column[inside], x[inside], y[inside], chars[inside]
    block = (row // MERGE) * (columns // MERGE) + column // MERGE
    patch = (block * MERGE + row % MERGE) * MERGE + column % MERGE
    order = np.lexsort((y, patch))
    patch, x, y, chars = patch[order], x[order], y[order], chars[order]
    below = np.diff(y, prepend=y[:1]) > LINE_APART
    line = np.cumsum(below | (np.diff(patch, prepend=patch[:1]) > 0))
    order = np.lexsort((x, line))
    patch, chars = patch[order], chars[order]
    slot = np.arange(len(patch)) - np.searchsorted(patch, patch, side="left")
    kept = slot < SLOTS
    sorted_chars = np.zeros((rows * columns, SLOTS), np.uint8)
    sorted_chars[patch[kept], slot[kept]] = chars[kept] + 1
    return sorted_chars
