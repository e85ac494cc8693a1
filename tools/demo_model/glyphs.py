"""Draws glyph bitmaps: every character in every face and size, once, to be copied many times.

Two ways of drawing, because pages come from two kinds of program: hinted with whole-pixel positions, as PIL
and office programs on screens draw, and unhinted at quarter pixels (half pixels vertically), as PDF
rasterisers draw. The unhinted ones are drawn at eight times the size and averaged, which leaves no visible
hinting and needs no other library than PIL.
"""

from __future__ import annotations

import io
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tools.demo_model.text import ALPHABET

BULLETS = "•▪"
SPACE = len(ALPHABET) + len(BULLETS)
CODES = SPACE + 1
CODED = ALPHABET + BULLETS + " "
SIZES = tuple(range(11, 33))
OVERSAMPLING = 8
X_PHASES = 4
Y_PHASES = 2
KERNING_SIZE = 256
Arrays = dict[str, NDArray[Any]]
BULLET_FALLBACK = "LiberationSans-Regular"


@dataclass(frozen=True)
class Family:
    """One family's faces (font file names without .ttf) and how often pages are set in it."""

    regular: str
    bold: str
    italic: str
    weight: float


FAMILIES = (
    Family("LiberationSans-Regular", "LiberationSans-Bold", "LiberationSans-Italic", 2.0),
    Family("LiberationSerif-Regular", "LiberationSerif-Bold", "LiberationSerif-Italic", 2.0),
    Family("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", 1.5),
    Family("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", 1.3),
    Family("LiberationMono-Regular", "LiberationMono-Bold", "LiberationMono-Italic", 0.8),
    Family("LiberationSansNarrow-Regular", "LiberationSansNarrow-Bold", "LiberationSansNarrow-Italic", 0.7),
    Family("DejaVuSansMono", "LiberationMono-Bold", "LiberationMono-BoldItalic", 0.5),
    Family("DejaVuSansCondensed", "LiberationSans-BoldItalic", "LiberationSansNarrow-BoldItalic", 0.5),
    Family("LiberationSerif-Regular", "LiberationSerif-Bold", "LiberationSerif-BoldItalic", 0.3),
)
FACES = tuple(sorted({face for family in FAMILIES for face in (family.regular, family.bold, family.italic)}))


@dataclass(frozen=True)
class GlyphSet:
    """One face at one size, drawn one way.

    Codes are positions in CODED. Bitmaps are lists by phase (x phase + X_PHASES * y phase; one phase when
    hinted), then by code.

    Attributes:
        face: The font file's name without .ttf.
        size: Pixels to the em.
        hinted: Whether pen positions are whole pixels.
        advances: float32 [CODES], pixels.
        kerning: float32 [CODES, CODES], pixels to add between a pair.
        bitmaps: uint8 [h, w] arrays of ink, 255 = full.
        lefts: Pixels from the pen's whole position to the bitmap's first column.
        tops: Pixels from the baseline's row to the bitmap's first row (negative is above).
    """

    face: str
    size: int
    hinted: bool
    advances: NDArray[np.float32]
    kerning: NDArray[np.float32]
    bitmaps: list[list[NDArray[np.uint8]]]
    lefts: list[list[int]]
    tops: list[list[int]]


class Atlas:
    """Glyph sets by face, size and way of drawing; each is drawn (or read from its file) once.

    Args:
        fonts: The font files' bytes by face name.
        cache: Folder to keep drawn glyphs in, so that worker processes needn't draw them again.
    """

    def __init__(self, fonts: dict[str, bytes], cache: Path | None = None) -> None:
        self.fonts = fonts
        self.cache = cache
        self._sets: dict[tuple[str, int, bool], GlyphSet] = {}
        self._kerning: dict[str, NDArray[np.float32]] = {}

    @classmethod
    def from_folder(cls, folder: Path) -> Atlas:
        """Use fonts/*.ttf of a folder that fetch_data filled; keep drawn glyphs beside it."""
        fonts = {path.stem: path.read_bytes() for path in sorted((folder / "fonts").glob("*.ttf"))}
        missing = sorted(set(FACES) - set(fonts))
        if missing:
            raise FileNotFoundError(
                f"{folder / 'fonts'}: no {missing[0]}.ttf. Run tools.demo_model.fetch_data."
            )
        return cls(fonts, folder.with_name(folder.name + "-glyphs"))

    def glyphs(self, face: str, size: int, hinted: bool) -> GlyphSet:
        """Return the glyph set of a face at `size` pixels to the em."""
        key = (face, size, hinted)
        if key not in self._sets:
            self._sets[key] = self._load(face, size, hinted)
        return self._sets[key]

    def _stored(self, name: str, draw: Callable[[], Arrays]) -> Arrays:
        """Read arrays from the cache's file, drawing them first where there is none."""
        if self.cache is None:
            return draw()
        path = self.cache / f"{name}.npz"
        if not path.exists():
            write_whole(path, draw())
        with np.load(path) as stored:
            return dict(stored)

    def _load(self, face: str, size: int, hinted: bool) -> GlyphSet:
        name = f"{face}-{size}-{'hinted' if hinted else 'unhinted'}"
        drawn = self._stored(name, lambda: draw_glyphs(self.fonts, face, size, hinted))
        if face not in self._kerning:
            kerning = self._stored(f"{face}-kerning", lambda: {"kerning": measure_kerning(self.fonts[face])})
            self._kerning[face] = kerning["kerning"].astype(np.float32, copy=False)
        return assemble(face, size, hinted, drawn, self._kerning[face] * size)


def assemble(face: str, size: int, hinted: bool, drawn: Arrays, kerning: NDArray[np.float32]) -> GlyphSet:
    """Cut draw_glyphs' flat pixels into bitmaps; kerning is in pixels."""
    pixels = drawn["pixels"].astype(np.uint8, copy=False)
    ends = np.cumsum(drawn["shapes"].prod(axis=-1)).tolist()
    shapes = drawn["shapes"].reshape(-1, 2).tolist()
    flat = [pixels[a:b].reshape(shape) for a, b, shape in zip([0, *ends], ends, shapes, strict=False)]
    return GlyphSet(
        face,
        size,
        hinted,
        drawn["advances"].astype(np.float32),
        (np.round(kerning) if hinted else kerning).astype(np.float32),
        [flat[at : at + CODES] for at in range(0, len(flat), CODES)],
        drawn["lefts"].tolist(),
        drawn["tops"].tolist(),
    )


def write_whole(path: Path, arrays: Arrays) -> None:
    """Write an .npz beside its place and rename it, so that no other process sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / ".gitignore").write_text("*\n")  # 100 MB that anyone can draw again
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    part.replace(path)


def open_font(font: bytes, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(io.BytesIO(font), size, layout_engine=ImageFont.Layout.BASIC)


def measure_kerning(font: bytes) -> NDArray[np.float32]:
    """Measure the kerning of every pair of letters and punctuation: float32 [CODES, CODES], in ems."""
    face = open_font(font, KERNING_SIZE)
    single = [face.getlength(character) for character in CODED]
    kerning = np.zeros((CODES, CODES), np.float32)
    for first in range(len(ALPHABET)):
        for second in range(len(ALPHABET)):
            pair = face.getlength(CODED[first] + CODED[second])
            kerning[first, second] = pair - single[first] - single[second]
    return kerning / np.float32(KERNING_SIZE)


def draw_glyphs(fonts: dict[str, bytes], face: str, size: int, hinted: bool) -> Arrays:
    """Draw all codes of a face: flat pixels, shapes [phases, CODES, 2], lefts, tops and advances."""
    scale = 1 if hinted else OVERSAMPLING
    font = open_font(fonts[face], size * scale)
    bullets = open_font(fonts.get(BULLET_FALLBACK, fonts[face]), size * scale)
    phases = [(0, 0)] if hinted else [(x, y) for y in range(Y_PHASES) for x in range(X_PHASES)]
    cells: list[list[Cell]] = [[] for _ in phases]
    advances = []
    for character in CODED:
        chosen = bullets if character in BULLETS else font
        large = draw_large(chosen, character, scale)
        for column, (x, y) in zip(cells, phases, strict=True):
            column.append(reduce_cell(large, scale, x * scale // X_PHASES, y * scale // Y_PHASES))
        advances.append(chosen.getlength(character) / scale)
    flat = [cell for column in cells for cell in column]
    return {
        "pixels": np.concatenate([cell.ink.ravel() for cell in flat]),
        "shapes": np.array([cell.ink.shape for cell in flat]).reshape(len(phases), CODES, 2),
        "lefts": np.array([cell.left for cell in flat]).reshape(len(phases), CODES),
        "tops": np.array([cell.top for cell in flat]).reshape(len(phases), CODES),
        "advances": np.array(advances, np.float32),
    }


@dataclass(frozen=True)
class Cell:
    """One bitmap (uint8 [h, w]) and where its first pixel lies from pen and baseline."""

    ink: NDArray[np.uint8]
    left: int
    top: int


def draw_large(font: ImageFont.FreeTypeFont, character: str, scale: int) -> Cell:
    """Draw one character, with a border of one reduced pixel or more, from a multiple of `scale` on."""
    x0, y0, x1, y1 = (int(edge) for edge in font.getbbox(character, anchor="ls"))
    left, top = (x0 // scale - 1) * scale, (y0 // scale - 1) * scale
    right, bottom = (x1 // scale + 3) * scale, (y1 // scale + 3) * scale
    canvas = Image.new("L", (right - left, bottom - top), 0)
    ImageDraw.Draw(canvas).text((-left, -top), character, fill=255, font=font, anchor="ls")
    return Cell(np.asarray(canvas), left, top)


def reduce_cell(large: Cell, scale: int, right: int, down: int) -> Cell:
    """Move the drawing by (right, down), average scale x scale pixels to one and trim what is empty."""
    moved = np.zeros_like(large.ink)
    height, width = moved.shape
    moved[down:, right:] = large.ink[: height - down, : width - right]
    blocks = moved.reshape(height // scale, scale, width // scale, scale)
    ink = np.round(blocks.mean(axis=(1, 3), dtype=np.float32)).astype(np.uint8)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if not len(rows):
        return Cell(np.zeros((0, 0), np.uint8), 0, 0)
    trimmed = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Cell(trimmed, large.left // scale + int(columns[0]), large.top // scale + int(rows[0]))


def draw_face(folder: Path, face: str) -> None:
    atlas = Atlas.from_folder(folder)
    for size in SIZES:
        for hinted in (False, True):
            atlas.glyphs(face, size, hinted)


def draw_all(folder: Path, processes: int | None = None) -> None:
    """Draw every face and size into the cache beside `folder`, one face to a process at a time."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(partial(draw_face, folder), FACES, chunksize=1)
