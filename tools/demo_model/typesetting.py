"""Sets lines of text as ink on a sheet, and notes the place of every character.

The right answer is built in the same pass: AnswerParts collects HTML and, for each of its characters, the
point on the sheet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.demo_model.glyphs import CODED, SPACE, X_PHASES, GlyphSet
from tools.demo_model.text import ALPHABET

BORDER = 48
ABOVE, BELOW, MIDDLE = 0.76, 0.23, 0.3
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_CODE_TABLE = np.full(0x3000, -1, np.int16)
_CODE_TABLE[[ord(character) for character in CODED]] = np.arange(len(CODED))

Points = NDArray[np.float32]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Style:
    """How a block is set.

    Attributes:
        glyphs: Face, size and way of drawing.
        leading: Pixels from baseline to baseline.
        align: 0 for left, 0.5 for centred, 1 for right: the share of a line's free space put before it.
        justified: Whether full lines are stretched to the width.
        indent: Pixels before a paragraph's first line.
        tracking: Pixels added after every character.
    """

    glyphs: GlyphSet
    leading: float
    align: float = 0.0
    justified: bool = False
    indent: float = 0.0
    tracking: float = 0.0


@dataclass(frozen=True)
class Measured:
    """A text with its codes int [n] and pen positions float32 [n + 1] when set in one endless line."""

    text: str
    codes: NDArray[np.int16]
    pens: NDArray[np.float32]

    @property
    def width(self) -> float:
        return float(self.pens[-1])


def measure(text: str, style: Style) -> Measured:
    """Look up codes and add up advances and kerning. Raises ValueError for a character without a glyph."""
    codes = _CODE_TABLE[np.frombuffer(text.encode("utf-32-le"), np.uint32)]
    if len(codes) and codes.min() < 0:
        raise ValueError(f"{text[int(codes.argmin())]!r} is not in the alphabet of the demo pages.")
    glyphs = style.glyphs
    steps = glyphs.advances[codes] + np.float32(style.tracking)
    steps[:-1] += glyphs.kerning[codes[:-1], codes[1:]]
    pens = np.zeros(len(codes) + 1, np.float32)
    np.cumsum(steps, out=pens[1:])
    return Measured(text, codes, pens)


def shorten_words(text: str, style: Style, width: float) -> Measured:
    """Measure a text after cutting every word that alone is wider than `width`."""
    measured = measure(text, style)
    edges = np.concatenate(([-1], np.flatnonzero(measured.codes == SPACE), [len(text)]))
    if (measured.pens[edges[1:]] - measured.pens[edges[:-1] + 1]).max() <= width:
        return measured
    words = []
    for word in text.split(" "):
        while len(word) > 1 and measure(word, style).width > width:
            word = word[: max(1, int(len(word) * 0.8))]
        words.append(word)
    return measure(" ".join(words), style)


def break_lines(measured: Measured, width: float, indent: float = 0.0) -> list[tuple[int, int]]:
    """Fill lines with as many words as fit; return each line's first and past-the-last character."""
    spaces = np.flatnonzero(measured.codes == SPACE)
    breaks = np.append(spaces, len(measured.codes))
    ends = measured.pens[breaks]
    lines = []
    start, free = 0, width - indent
    while start < len(measured.codes):
        fits = int(np.searchsorted(ends, measured.pens[start] + free + 0.01, side="right")) - 1
        first = int(np.searchsorted(breaks, start, side="left"))
        end = int(breaks[max(fits, first)])
        lines.append((start, end))
        start, free = end + 1, width
    return lines


class Sheet:
    """An empty page that text is set on.

    Attributes:
        ink: uint8 [height, width]; 255 is full ink.
    """

    def __init__(self, height: int, width: int) -> None:
        self._canvas = np.zeros((height + 2 * BORDER, width + 2 * BORDER), np.uint8)
        self.ink = self._canvas[BORDER : BORDER + height, BORDER : BORDER + width]
        self._centres: list[Points] = []
        self._codes: list[NDArray[np.int16]] = []

    def characters(self) -> tuple[Points, NDArray[np.uint8]]:
        """Return centres float32 [n, 2] and positions in ALPHABET uint8 [n] of all characters set so far."""
        if not self._codes:
            return np.zeros((0, 2), np.float32), np.zeros(0, np.uint8)
        codes, centres = np.concatenate(self._codes), np.concatenate(self._centres)
        kept = codes < len(ALPHABET)
        return centres[kept], codes[kept].astype(np.uint8)

    def rule(self, x0: float, y0: float, x1: float, y1: float, ink: int = 255) -> None:
        """Fill a rectangle, at least one pixel thick."""
        left, top = int(x0) + BORDER, int(y0) + BORDER
        right, bottom = max(int(x1) + BORDER, left + 1), max(int(y1) + BORDER, top + 1)
        view = self._canvas[max(top, 0) : bottom, max(left, 0) : right]
        np.maximum(view, np.uint8(ink), out=view)

    def set_line(
        self,
        measured: Measured,
        span: tuple[int, int],
        x: float,
        baseline: float,
        style: Style,
        stretch: float = 0.0,
    ) -> Points:
        """Draw characters span[0] to span[1] from pen position x on.

        `stretch` pixels are added to every space. Returns their places, float32 [span length, 2].
        """
        glyphs = style.glyphs
        codes = measured.codes[span[0] : span[1]]
        pens = measured.pens[span[0] : span[1] + 1] + np.float32(x - measured.pens[span[0]])
        if stretch:
            pens[1:] += np.cumsum(codes == SPACE, dtype=np.float32) * np.float32(stretch)
        row, phases, columns = place(pens[:-1], baseline, glyphs.hinted)
        self._blit(glyphs, codes, columns, phases, row)
        points = np.empty((len(codes), 2), np.float32)
        points[:, 0] = (pens[:-1] + pens[1:]) / 2
        points[:, 1] = baseline - MIDDLE * glyphs.size
        inked = codes != SPACE
        self._codes.append(codes[inked])
        self._centres.append(points[inked])
        return points

    def _blit(
        self, glyphs: GlyphSet, codes: NDArray[np.int16], columns: list[int], phases: list[int], row: int
    ) -> None:
        canvas, maximum = self._canvas, np.maximum
        for code, column, phase in zip(codes.tolist(), columns, phases, strict=True):
            bitmap = glyphs.bitmaps[phase][code]
            height, width = bitmap.shape
            if height:
                x = column + glyphs.lefts[phase][code]
                y = row + glyphs.tops[phase][code]
                view = canvas[y : y + height, x : x + width]
                maximum(view, bitmap, out=view)


def place(pens: NDArray[np.float32], baseline: float, hinted: bool) -> tuple[int, list[int], list[int]]:
    """Snap pens to pixels (hinted) or quarter pixels; return row, phases and columns on the canvas."""
    if hinted:
        columns = np.rint(pens).astype(np.int32) + BORDER
        return round(baseline) + BORDER, [0] * len(pens), columns.tolist()
    halves = round(baseline * 2)
    quarters = np.rint(pens * X_PHASES).astype(np.int32)
    phases = quarters % X_PHASES + X_PHASES * (halves % 2)
    return halves // 2 + BORDER, phases.tolist(), (quarters // X_PHASES + BORDER).tolist()


class AnswerParts:
    """Collects a block's HTML together with the place of each of its characters."""

    def __init__(self) -> None:
        self._html: list[str] = []
        self._points: list[Points] = []

    def tag(self, tag: str) -> None:
        self._html.append(tag)
        self._points.append(np.full((len(tag), 2), np.nan, np.float32))

    def text(self, text: str, points: Points) -> None:
        """Add text, escaped; points is float32 [len(text), 2]."""
        if "&" in text or "<" in text or ">" in text:
            escaped = [ENTITIES.get(character, character) for character in text]
            points = np.repeat(points, [len(characters) for characters in escaped], axis=0)
            text = "".join(escaped)
        self._html.append(text)
        self._points.append(points)

    def finish(self) -> tuple[str, Points]:
        return "".join(self._html), np.concatenate(self._points)


def first_baseline(top: float, style: Style) -> float:
    """Return the first line's baseline when the block starts at `top`."""
    return top + (style.leading - style.glyphs.size) / 2 + 0.8 * style.glyphs.size


@dataclass(frozen=True)
class SetText:
    """Wrapped text as it was set: the part that fitted, points [len(text), 2], box and number of lines."""

    text: str
    points: Points
    box: Box
    lines: int


def set_wrapped(
    sheet: Sheet, text: str, left: float, top: float, width: float, style: Style, lines: int
) -> SetText:
    """Set text in at most `lines` lines of `width` pixels; what does not fit is left out."""
    measured = shorten_words(text, style, width - style.indent)
    spans = break_lines(measured, width, style.indent)[:lines]
    baseline = first_baseline(top, style)
    points = []
    x0, x1 = left + width, left
    for index, span in enumerate(spans):
        indent = style.indent if index == 0 else 0.0
        used = float(measured.pens[span[1]] - measured.pens[span[0]])
        free = width - indent - used
        gaps = int((measured.codes[span[0] : span[1]] == SPACE).sum())
        full = style.justified and index + 1 < len(spans) and gaps > 0 and free < 0.3 * width
        x = left + indent + (0.0 if full else free * style.align)
        at = baseline + index * style.leading
        points.append(sheet.set_line(measured, span, x, at, style, free / gaps if full else 0.0))
        x0, x1 = min(x0, x), max(x1, x + used + (free if full else 0.0))
        points.append(np.array([[x1, at - MIDDLE * style.glyphs.size]], np.float32))
    size = style.glyphs.size
    box = (x0, baseline - ABOVE * size, x1, baseline + (len(spans) - 1) * style.leading + BELOW * size)
    return SetText(measured.text[: spans[-1][1]], np.concatenate(points[:-1]), box, len(spans))


def union(boxes: list[Box]) -> Box:
    return (
        min(box[0] for box in boxes),
        min(box[1] for box in boxes),
        max(box[2] for box in boxes),
        max(box[3] for box in boxes),
    )
