"""Draws one random page for training or measuring: its ink, the answers, and where everything is.

    studio = Studio.from_folder(folder)
    page = draw_page(np.random.default_rng(1), LEVELS[2], (384, 512), studio)

composing.py fills a sheet; here the sheet becomes a page: scaled, slanted and with both answers written out.
Paper, ink, blur, noise and JPEG are added on the GPU while training, or by degrade() for the exam and the
examples.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tools.demo_model.blocks import Block, joined
from tools.demo_model.composing import Level, Studio, compose
from tools.demo_model.typesetting import AnswerParts, Box, Points, Sheet

RESAMPLED_SHARE = 0.2
SLANTED_SHARE = 0.2
MOST_SLANT = 0.75
RESAMPLERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)

LEVELS: tuple[Level, ...] = (
    Level("lines", ((64, 192), (64, 288), (96, 256)), 3, 0.1, False, 80),
    Level("note", ((160, 256), (192, 416), (256, 256)), 8, 0.3, False, 224),
    Level("card", ((384, 512), (512, 512), (256, 640)), 18, 0.4, True, 512),
    Level("half page", ((480, 640), (640, 480), (640, 832), (832, 640)), 30, 0.45, True, 896),
    Level("page", ((1024, 768), (768, 1024), (1024, 1024)), 40, 0.45, True, 1536),
)


@dataclass(frozen=True)
class RenderedPage:
    """A page as it leaves the renderer.

    Attributes:
        ink: uint8 [h, w]; 255 = full ink.
        blocks: In reading order; boxes in pixels.
        html: The answer to the prompt `ocr` and to the short prompt.
        layout_html: The answer to `ocr_layout`.
        centres: float32 [n, 2]; x, y in pixels of every inked character.
        chars: uint8 [n]; each one's place in ALPHABET.
        html_xy: float32 [len(html), 2]; place of the character that html[i] prints. A tag has the place of
            what follows it; nan where nothing follows.
        layout_xy: float32 [len(layout_html), 2]; the same; a box's numbers are at the box's corners.
    """

    ink: NDArray[np.uint8]
    blocks: tuple[Block, ...]
    html: str
    layout_html: str
    centres: Points
    chars: NDArray[np.uint8]
    html_xy: Points
    layout_xy: Points


def draw_page(
    rng: np.random.Generator, level: Level, size: tuple[int, int], studio: Studio, *, warped: bool = True
) -> RenderedPage:
    """Draw a page of `size` (height, width) pixels; the same generator state gives the same page.

    `warped=False` leaves out resampling and slant.
    """
    dice = random.Random(int(rng.integers(1 << 62)))
    height, width = size
    scale = dice.uniform(0.9, 1.12) if warped and dice.random() < RESAMPLED_SHARE else 1.0
    slant = dice.uniform(-MOST_SLANT, MOST_SLANT) if warped and dice.random() < SLANTED_SHARE else 0.0
    sheet = Sheet(round(height / scale), round(width / scale))
    blocks = compose(sheet, dice, level, studio, room_for_slant=math.tan(math.radians(abs(slant))))
    return finish_page(sheet, blocks, size, slant, dice.choice(RESAMPLERS))


def finish_page(
    sheet: Sheet,
    blocks: Sequence[Block],
    size: tuple[int, int],
    slant: float = 0.0,
    resampler: Image.Resampling = Image.Resampling.BICUBIC,
) -> RenderedPage:
    """Scale the sheet to `size` (height, width), slant it by `slant` degrees and write the answers."""
    height, width = size
    ink = np.ascontiguousarray(sheet.ink)
    if ink.shape != size:
        ink = np.asarray(Image.fromarray(ink).resize((width, height), resampler))
    if slant:
        ink = rotate(ink, slant)
    warp = Warp(width / sheet.ink.shape[1], height / sheet.ink.shape[0], slant, (width / 2, height / 2))
    placed = tuple(warp.block(block) for block in blocks)
    centres, chars = sheet.characters()
    html, points = joined(placed)
    layout_html, layout_points = layout_answer(placed, height, width)
    return RenderedPage(
        ink,
        placed,
        html,
        layout_html,
        warp.points(centres),
        chars,
        look_ahead(points),
        look_ahead(layout_points),
    )


def rotate(ink: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
    """Turn the page clockwise about its middle, keeping its size; what comes in is blank."""
    image = Image.fromarray(ink).rotate(-degrees, Image.Resampling.BICUBIC)
    return np.asarray(image)


@dataclass(frozen=True)
class Warp:
    """Moves points from the sheet to the page: scaled, then turned clockwise about the middle."""

    x_scale: float
    y_scale: float
    degrees: float
    middle: tuple[float, float]

    def points(self, points: Points) -> Points:
        moved = points * np.array([self.x_scale, self.y_scale], np.float32)
        if not self.degrees:
            return moved.astype(np.float32)
        angle = math.radians(self.degrees)
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        middle = np.array(self.middle)
        return ((moved - middle) @ turn + middle).astype(np.float32)

    def block(self, block: Block) -> Block:
        x0, y0, x1, y1 = block.box
        corners = self.points(np.array([[x0, y0], [x1, y0], [x0, y1], [x1, y1]], np.float32))
        low, high = corners.min(axis=0), corners.max(axis=0)
        box: Box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
        return replace(block, box=box, points=self.points(block.points))


def layout_answer(blocks: Sequence[Block], height: int, width: int) -> tuple[str, Points]:
    """Write the answer with layout: a div around each block, boxes as integers from 0 to 1000."""
    parts: list[str] = []
    points: list[Points] = []
    for block in blocks:
        x0, y0, x1, y1 = normalised_box(block.box, height, width)
        first, last = f"{x0} {y0}", f" {x1} {y1}"
        opening, closing = AnswerParts(), AnswerParts()
        opening.tag('<div data-bbox="')
        opening.text(first, np.tile(np.array(block.box[:2], np.float32), (len(first), 1)))
        opening.text(last, np.tile(np.array(block.box[2:], np.float32), (len(last), 1)))
        opening.tag(f'" data-label="{block.label}">')
        closing.tag("</div>")
        for html, where in (opening.finish(), (block.html, block.points), closing.finish()):
            parts.append(html)
            points.append(where)
    return "".join(parts), np.concatenate(points) if points else np.zeros((0, 2), np.float32)


def normalised_box(box: Box, height: int, width: int) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = (
        min(1000, max(0, round(1000 * value / side)))
        for value, side in zip(box, (width, height, width, height), strict=True)
    )
    return x0, y0, x1, y1


def look_ahead(points: Points) -> Points:
    """Give every point that is nan the next one that isn't; float32 [n, 2]."""
    indices = np.where(np.isnan(points[:, 0]), len(points), np.arange(len(points)))
    following = np.minimum.accumulate(indices[::-1])[::-1]
    padded = np.concatenate([points, np.full((1, 2), np.nan, np.float32)])
    return padded[following]


@dataclass(frozen=True)
class Wear:
    """How a page looks after printing and scanning.

    Attributes:
        paper, ink: Grey levels, 0 to 255.
        blur: Radius of a Gaussian blur in pixels.
        noise: Standard deviation of grey noise in grey levels.
        slant: Degrees clockwise.
        jpeg_quality: Quality to save and read it again with, or None.
    """

    paper: int = 255
    ink: int = 0
    blur: float = 0.0
    noise: float = 0.0
    slant: float = 0.0
    jpeg_quality: int | None = None


def degrade(ink: NDArray[np.uint8], rng: np.random.Generator, wear: Wear) -> Image.Image:
    """Print ink uint8 [h, w] on paper and wear it; return a grey image (mode L) of the same size."""
    turned = rotate(ink, wear.slant) if wear.slant else ink
    grey = wear.paper + (wear.ink - wear.paper) * (turned.astype(np.float32) / 255)
    image = Image.fromarray(np.round(grey).astype(np.uint8))
    if wear.blur:
        image = image.filter(ImageFilter.GaussianBlur(wear.blur))
    if wear.noise:
        noisy = np.asarray(image, np.float32) + rng.normal(0.0, wear.noise, ink.shape)
        image = Image.fromarray(np.clip(np.round(noisy), 0, 255).astype(np.uint8))
    if wear.jpeg_quality is not None:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=wear.jpeg_quality)
        image = Image.open(file)
        image.load()
    return image
