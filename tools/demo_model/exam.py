"""Draws the pages that the demo checkpoint is measured on: fresh ones, with text that no training page had.

Every page comes from its own seed, so every engine reads the same pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from tools.demo_model.composing import Studio
from tools.demo_model.pages import LEVELS, Wear, degrade, draw_page
from tools.demo_model.prompts import PromptKind
from tools.demo_model.text import TextMix

PROSE = TextMix(prose=1, prose_like=0, figures=0, random=0)
RANDOM = TextMix(prose=0, prose_like=0, figures=0, random=1)
UNWORN = Wear()
WORN = Wear(paper=225, ink=30, noise=12, slant=0.5, jpeg_quality=60)


@dataclass(frozen=True)
class Paper:
    """One kind of page to be examined on."""

    name: str
    mix: TextMix
    prompt: PromptKind
    wear: Wear = UNWORN


PAPERS = (
    Paper("prose", PROSE, PromptKind.OCR),
    Paper("prose, short prompt", PROSE, PromptKind.SHORT),
    Paper("prose, layout", PROSE, PromptKind.OCR_LAYOUT),
    Paper("random", RANDOM, PromptKind.OCR),
    Paper("random, short prompt", RANDOM, PromptKind.SHORT),
    Paper("random, layout", RANDOM, PromptKind.OCR_LAYOUT),
    Paper("all kinds, layout", TextMix(), PromptKind.OCR_LAYOUT),
    Paper("prose, worn", PROSE, PromptKind.OCR, WORN),
    Paper("all kinds, worn, layout", TextMix(), PromptKind.OCR_LAYOUT, WORN),
)


@dataclass(frozen=True)
class Question:
    """One page of the exam and the right answer."""

    paper: int
    level: int
    image: Image.Image  # mode L
    truth: str


@lru_cache(maxsize=len(PAPERS))
def studio(data: Path, paper: int) -> Studio:
    """Return what a paper's pages are made of; read once per process."""
    return Studio.from_folder(data, "eval", PAPERS[paper].mix)


def question(place: tuple[int, int, int], data: Path, seed: int) -> Question:
    """Draw the page at place (paper, level, number)."""
    paper, level, number = place
    rng = np.random.default_rng((seed, *place))
    sizes = LEVELS[level].sizes
    wear = PAPERS[paper].wear
    page = draw_page(
        rng, LEVELS[level], sizes[number % len(sizes)], studio(data, paper), warped=wear.slant == 0
    )
    truth = page.layout_html if PAPERS[paper].prompt is PromptKind.OCR_LAYOUT else page.html
    return Question(paper, level, degrade(page.ink, rng, wear), truth)


def draw_exam(
    data: Path, pages: int, papers: Sequence[int], levels: Sequence[int], seed: int
) -> list[Question]:
    """Draw `pages` pages of each paper and level."""
    places = [(paper, level, number) for paper in papers for level in levels for number in range(pages)]
    return [question(place, data, seed) for place in places]
