"""Sets whole blocks (headings, paragraphs, lists, tables) and gives each its part of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tools.demo_model.typesetting import (
    ABOVE,
    BELOW,
    AnswerParts,
    Box,
    Measured,
    Points,
    SetText,
    Sheet,
    Style,
    first_baseline,
    measure,
    set_wrapped,
    union,
)


@dataclass(frozen=True)
class Block:
    """One block of a page.

    Attributes:
        label: Its label as Chandra's prompt lists them, such as "Text" or "Section-Header".
        box: x0, y0, x1, y1 in pixels.
        html: Its part of the answer.
        text: Its words, with a newline between list items and table rows, a space between cells.
        points: float32 [len(html), 2]; place of each character of html; nan for tags.
        lines: How many lines of text it takes.
        bottom: Where the next block may start, in pixels.
    """

    label: str
    box: Box
    html: str
    text: str
    points: Points = field(repr=False)
    lines: int
    bottom: float


@dataclass(frozen=True)
class Room:
    """The room for a block: left edge, top and width in pixels, and how many lines still fit."""

    left: float
    top: float
    width: float
    lines: int


@dataclass(frozen=True)
class TableLook:
    """How a table is set.

    Attributes:
        aligns: For each column 0 (left), 0.5 (centred) or 1 (right).
        padding: Pixels on each side of a cell's text.
        row_gap: Pixels added to the leading.
        grid: Rules around every cell.
        row_rules: Rules between rows.
        header_rule: A rule under the first row.
        header: The first row's style, or None where no row is a header.
        width: Pixels to stretch the table to, or 0.
        ink: The rules' darkness.
    """

    aligns: tuple[float, ...]
    padding: float
    row_gap: float
    grid: bool = False
    row_rules: bool = False
    header_rule: bool = False
    header: Style | None = None
    width: float = 0.0
    ink: int = 255


def one_tag(label: str, tag: str, text: SetText, bottom: float) -> Block:
    parts = AnswerParts()
    parts.tag(f"<{tag}>")
    parts.text(text.text, text.points)
    parts.tag(f"</{tag}>")
    html, points = parts.finish()
    return Block(label, text.box, html, text.text, points, text.lines, bottom)


def set_paragraph(sheet: Sheet, text: str, room: Room, style: Style, label: str = "Text") -> Block:
    """Set running text; what does not fit in the room's lines is left out, of the answer too."""
    laid = set_wrapped(sheet, text, room.left, room.top, room.width, style, room.lines)
    return one_tag(label, "p", laid, room.top + laid.lines * style.leading)


def set_heading(
    sheet: Sheet, text: str, level: int, room: Room, style: Style, underlined: bool = False
) -> Block:
    """Set a heading of level 1 or 2, in two lines at most."""
    laid = set_wrapped(sheet, text, room.left, room.top, room.width, style, min(2, room.lines))
    bottom = room.top + laid.lines * style.leading
    if underlined and laid.lines == 1:
        x0, _, x1, y1 = laid.box
        y = y1 - 0.1 * style.glyphs.size
        sheet.rule(x0, y, x1, y + style.glyphs.size / 16)
    return one_tag("Section-Header", f"h{level}", laid, bottom)


def set_list(
    sheet: Sheet, items: Sequence[str], room: Room, style: Style, bullet: str = "•", gap: float = 0.0
) -> Block:
    """Set a bullet list with hanging indents; items that don't fit are left out."""
    hang = measure(bullet + " ", style).width + 0.45 * style.glyphs.size
    parts, boxes, texts = AnswerParts(), [], []
    parts.tag("<ul>")
    top, lines = room.top, 0
    for item in items:
        if lines >= room.lines:
            break
        mark = measure(bullet, style)
        sheet.set_line(mark, (0, 1), room.left, first_baseline(top, style), style)
        laid = set_wrapped(sheet, item, room.left + hang, top, room.width - hang, style, room.lines - lines)
        parts.tag("<li>")
        parts.text(laid.text, laid.points)
        parts.tag("</li>")
        boxes.append((room.left, *laid.box[1:]))
        texts.append(laid.text)
        lines += laid.lines
        top += laid.lines * style.leading + gap
    parts.tag("</ul>")
    html, points = parts.finish()
    return Block("List-Group", union(boxes), html, "\n".join(texts), points, lines, top)


def column_widths(cells: Sequence[Sequence[Measured]], look: TableLook) -> list[float]:
    """Return each column's width in pixels with its padding, stretched where the look asks for it."""
    widths = [max(cell.width for cell in column) + 2 * look.padding for column in zip(*cells, strict=True)]
    spare = max(0.0, look.width - sum(widths)) / len(widths)
    return [width + spare for width in widths]


def measure_cells(rows: Sequence[Sequence[str]], style: Style, look: TableLook) -> list[list[Measured]]:
    styles = [look.header if look.header and index == 0 else style for index in range(len(rows))]
    return [[measure(cell, styles[index]) for cell in row] for index, row in enumerate(rows)]


def table_width(rows: Sequence[Sequence[str]], style: Style, look: TableLook) -> float:
    """Return how wide the table would be, in pixels."""
    return sum(column_widths(measure_cells(rows, style, look), look))


def set_table(
    sheet: Sheet, rows: Sequence[Sequence[str]], room: Room, style: Style, look: TableLook
) -> Block:
    """Set a table, one line a row; rows that don't fit are left out."""
    rows = rows[: room.lines]
    cells = measure_cells(rows, style, look)
    widths = column_widths(cells, look)
    edges = [room.left + sum(widths[:index]) for index in range(len(widths) + 1)]
    pitch = style.leading + look.row_gap
    parts = AnswerParts()
    parts.tag("<table>")
    for index, row in enumerate(cells):
        header = look.header if look.header and index == 0 else None
        tag = "th" if header else "td"
        baseline = first_baseline(room.top + index * pitch + look.row_gap / 2, style)
        parts.tag("<tr>")
        for column, cell in enumerate(row):
            free = widths[column] - 2 * look.padding - cell.width
            x = edges[column] + look.padding + free * look.aligns[column]
            parts.tag(f"<{tag}>")
            points = sheet.set_line(cell, (0, len(cell.text)), x, baseline, header or style)
            parts.text(cell.text, points)
            parts.tag(f"</{tag}>")
        parts.tag("</tr>")
    parts.tag("</table>")
    bottom = room.top + len(rows) * pitch
    draw_rules(sheet, edges, room.top, pitch, len(rows), look)
    html, points = parts.finish()
    text = "\n".join(" ".join(filter(None, row)) for row in rows)
    box = table_box(edges, room.top, bottom, pitch, len(rows), style, look)
    return Block("Table", box, html, text, points, len(rows), bottom + (2 if look.grid else 0))


def table_box(
    edges: Sequence[float], top: float, bottom: float, pitch: float, rows: int, style: Style, look: TableLook
) -> Box:
    """Return the rules' rectangle, or where there are none around the table, that of its text."""
    if look.grid:
        return (edges[0], top, edges[-1], bottom)
    first = first_baseline(top + look.row_gap / 2, style)
    last = first + (rows - 1) * pitch
    size, inset = style.glyphs.size, 0.0 if look.row_rules or look.header_rule else look.padding
    return (edges[0] + inset, first - ABOVE * size, edges[-1] - inset, last + BELOW * size)


def draw_rules(
    sheet: Sheet, edges: Sequence[float], top: float, pitch: float, rows: int, look: TableLook
) -> None:
    x0, x1 = edges[0], edges[-1]
    lines = [top + index * pitch for index in range(rows + 1)]
    if look.grid:
        for x in edges:
            sheet.rule(x, top, x + 1, lines[-1], look.ink)
        inner = lines
    elif look.row_rules:
        inner = lines[1:-1]
    else:
        inner = lines[1:2] if look.header_rule else []
    for y in inner:
        sheet.rule(x0, y, x1 + 1, y + 1, look.ink)


def joined(blocks: Sequence[Block]) -> tuple[str, Points]:
    """Join the blocks' answers: html and points float32 [len(html), 2]."""
    if not blocks:
        return "", np.zeros((0, 2), np.float32)
    return "".join(block.html for block in blocks), np.concatenate([block.points for block in blocks])
