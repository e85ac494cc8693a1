"""JPEG files that look like pages: lines of words in grey on paper with some coloured grain, no two alike.

How long a JPEG takes to decode follows from its size and its detail, which noise has far too much of and an
empty page too little. `scale` 1 gives the sides of W1, 3 those of a scan at some 300 dpi.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

QUALITY = 90
_PAPER, _INK, _GRAIN = 240, 40, 3.0  # of 255; the grain's spread
_SIZES_PER_WIDTH = 64  # a letter's height is such a part of the page's width
_LETTERS = list("aaabcdeeeefghiiiklmnnnoooprrrssstttuuvwyz")
_TILE = 512  # pixels: a side of the grain, which is repeated


def write_pages(folder: Path, shapes: Sequence[tuple[int, int]], scale: int = 1) -> list[Path]:
    """One file for each shape (height, width), the same on every machine with the same Pillow."""
    grain = np.random.default_rng(2).normal(0.0, _GRAIN, (_TILE, _TILE, 3)).round().astype(np.int16)

    def write(number: int) -> Path:
        path, (height, width) = folder / f"page-{number:05}.jpg", shapes[number]
        source = np.random.default_rng([2, number])
        _page(height * scale, width * scale, grain, source).save(path, quality=QUALITY)
        return path

    Image.init()  # loads Pillow's plugins, which threads must not do at the same time
    with ThreadPoolExecutor() as pool:
        return list(pool.map(write, range(len(shapes))))


def _page(height: int, width: int, grain: NDArray[np.int16], source: np.random.Generator) -> Image.Image:
    page = Image.new("L", (width, height), _PAPER)
    draw = ImageDraw.Draw(page)
    size = max(6, width // _SIZES_PER_WIDTH)
    font = ImageFont.load_default(size)
    left, leading = width // 10, 3 * size // 2
    per_line = 2 * width // size  # more letters than fit between the margins
    for top in range(left, height - left, leading):
        draw.text((left, top), _line(per_line, source), _INK, font)
        draw.rectangle((width - left, top, width, top + leading), _PAPER)
    shift = tuple(int(n) for n in source.integers(0, _TILE, 2))
    rough = np.tile(np.roll(grain, shift, (0, 1)), (-(-height // _TILE), -(-width // _TILE), 1))
    pixels = np.asarray(page)[:, :, None] + rough[:height, :width]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _line(letters: int, source: np.random.Generator) -> str:
    """Words of made letters."""
    text = source.choice(_LETTERS, letters)
    text[np.cumsum(source.integers(3, 10, letters // 6)) % letters] = " "
    return "".join(text)
