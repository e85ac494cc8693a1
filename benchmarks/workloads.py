"""The pages that are measured: W1 and W2, made pages of forced output lengths, and WD, the example pages.

Sides are (height, width) in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import log
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mlx_chandra.models.config import ModelConfig
from mlx_chandra.processing.image import ImageSettings, patch_image
from mlx_chandra.processing.processor import PageInputs

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples" / "pages"
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
SHAPES = ((1024, 792), (1024, 724), (1024, 768), (768, 1024), (1024, 664), (1024, 1024))
CLIENT_SHAPE = (1632, 2112)  # what the official client feeds: 3,366 image tokens
AFTER_IMAGE = 450  # prompt tokens
_TOY_SIDES, _TOY_LENGTHS = 8, 16  # toy pages are so many times smaller


class Workload(StrEnum):
    W1 = "W1"
    W2 = "W2"
    WD = "WD"

    @property
    def made(self) -> bool:
        return self is not Workload.WD


@dataclass(frozen=True)
class PagePlan:
    """One made page: its picture's sides, the prompt tokens after the picture, the tokens of its answer."""

    height: int
    width: int
    after_image: int
    output_tokens: int


@dataclass(frozen=True)
class MadePage:
    """A made page as every engine gets it."""

    inputs: PageInputs
    output_tokens: int


def plan(workload: Workload, pages: int, toy: bool = False) -> list[PagePlan]:
    """Return the pages of W1 or W2, the same on every machine.

    Raises:
        ValueError: WD has no plan; its pages are files.
    """
    if not workload.made:
        raise ValueError("WD is made of files: see example_pages")
    source = np.random.default_rng(0)
    shapes = source.integers(0, len(SHAPES), pages)
    lengths = np.clip(source.lognormal(log(650), 0.75, pages), 40, 3000).astype(int)
    chosen = [SHAPES[shape] if workload is Workload.W1 else CLIENT_SHAPE for shape in shapes]
    plans = [PagePlan(*sides, AFTER_IMAGE, int(n)) for sides, n in zip(chosen, lengths, strict=True)]
    return [_toy(page) for page in plans] if toy else plans


def _toy(page: PagePlan) -> PagePlan:
    return PagePlan(
        max(32, page.height // _TOY_SIDES),
        max(32, page.width // _TOY_SIDES),
        AFTER_IMAGE // _TOY_LENGTHS,
        max(2, page.output_tokens // _TOY_LENGTHS),
    )


def make_pages(plans: Sequence[PagePlan], config: ModelConfig) -> list[MadePage]:
    """Make the inputs of planned pages: noise for pictures (one per shape, shared), random text tokens."""
    settings = ImageSettings(min_pixels=1024, max_pixels=16_777_216)
    source = np.random.default_rng(1)
    patched = {}
    for page in plans:
        sides = (page.height, page.width)
        if sides not in patched:
            noise = source.integers(0, 256, (*sides, 3), dtype=np.uint8)
            patched[sides] = patch_image(Image.fromarray(noise), settings)
    merge = config.vision.spatial_merge_size**2
    made = []
    for page in plans:
        sides = (page.height, page.width)
        image = patched[sides]
        ids = _prompt(image.grid.patches // merge, page.after_image, config, source)
        made.append(MadePage(PageInputs(ids, image, sides), page.output_tokens))
    return made


def _prompt(
    image_tokens: int, after_image: int, config: ModelConfig, source: np.random.Generator
) -> NDArray[np.int32]:
    """Return [T] the picture's tokens between their marks, then text; the end mark counts as text."""
    special = {config.image_token_id, config.vision_start_token_id, config.vision_end_token_id}
    text = source.integers(0, min(special) - 16, after_image - 1)  # the ids below are plain text
    picture = [config.image_token_id] * image_tokens
    return np.array(
        [config.vision_start_token_id, *picture, config.vision_end_token_id, *text], dtype=np.int32
    )


def example_pages(count: int | None = None) -> list[Path]:
    """Return the example pages sorted by path, or `count` of them evenly spread."""
    found = sorted(path for path in EXAMPLES.rglob("*") if path.suffix.lower() in SUFFIXES)
    if count is None or count >= len(found):
        return found
    return [found[place * len(found) // count] for place in range(count)]
