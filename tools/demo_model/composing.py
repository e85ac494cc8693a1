"""Chooses a random page's text and look, and sets it: the variety that the model learns from.

One column, in reading order: perhaps a running head, then headings, paragraphs, lists and small tables until
the page or the answer is full, perhaps a footer. Text kinds, faces, sizes, margins, alignment, leading and
the marks between paragraphs vary from page to page as they do between real ones.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tools.demo_model.blocks import (
    Block,
    Room,
    TableLook,
    set_heading,
    set_list,
    set_paragraph,
    set_table,
    table_width,
)
from tools.demo_model.glyphs import BULLETS, FAMILIES, SIZES, Atlas, Family
from tools.demo_model.text import TextKind, TextMix, TextSource
from tools.demo_model.typesetting import Sheet, Style

CHARACTERS_PER_TOKEN = {
    TextKind.PROSE: 2.05,
    TextKind.PROSE_LIKE: 1.9,
    TextKind.FIGURES: 1.45,
    TextKind.RANDOM: 1.09,
}
CHARACTERS_PER_WORD = {
    TextKind.PROSE: 5.7,
    TextKind.PROSE_LIKE: 7.7,
    TextKind.FIGURES: 7.3,
    TextKind.RANDOM: 5.1,
}
CHARACTER_WIDTH = 0.52
TOKENS_PER_BLOCK = 22
TYPE_SIZES = tuple(range(12, 29))
CROWDED_SIZES = tuple(range(12, 17))
FULL_SHARE = 0.5  # of the crowded pages
LONG_PARAGRAPHS = (7, 10, 16, 30)  # lines
PARAGRAPHS = (1, 1, 2, 3, 4, 5, *LONG_PARAGRAPHS)
TYPE_WEIGHTS = tuple(0.4 if size < 14 else 10 / (size - 6) if size < 27 else 0.1 for size in TYPE_SIZES)


@dataclass(frozen=True)
class Level:
    """One step of the curriculum.

    Attributes:
        sizes: (height, width) in pixels, multiples of 32.
        max_lines: Most lines of text on a page.
        layout_share: Share of the pages that are asked for with layout boxes.
        blocks: Whether there are headings, lists, tables, heads and footers, not only paragraphs.
        max_answer_tokens: Longest answer, its end token included.
    """

    name: str
    sizes: tuple[tuple[int, int], ...]
    max_lines: int
    layout_share: float
    blocks: bool
    max_answer_tokens: int


@dataclass(frozen=True)
class Studio:
    """What pages are made of: glyphs and text.

    `crowded` is the share of the larger pages whose lines are small and close together: there a reader loses
    its line most easily. Half of these are full, too: narrow margins and long paragraphs, until there is no
    more room on the page or in the answer.
    """

    atlas: Atlas
    text: TextSource
    crowded: float = 0.0

    @classmethod
    def from_folder(
        cls, folder: Path, split: str = "train", mix: TextMix | None = None, crowded: float = 0.0
    ) -> Studio:
        """Use a folder that fetch_data filled; `split` is "train" or "eval"."""
        return cls(Atlas.from_folder(folder), TextSource.from_folder(folder, split, mix), crowded)


@dataclass(frozen=True)
class PageLook:
    """The look that all blocks of a page share."""

    family: Family
    hinted: bool
    body: Style
    kind: TextKind
    left: float
    top: float
    width: float
    bottom: float
    gap: float
    full: bool


class Composer:
    """Sets one page block by block; counts the lines and the answer's tokens it may still use."""

    def __init__(
        self, sheet: Sheet, dice: random.Random, level: Level, studio: Studio, look: PageLook
    ) -> None:
        self.sheet = sheet
        self.dice = dice
        self.studio = studio
        self.look = look
        self.top = look.top
        self.lines = level.max_lines
        if not look.full and dice.random() >= 0.6:
            self.lines = dice.randint(1, level.max_lines)
        self.tokens = 0.94 * level.max_answer_tokens - 4
        self.blocks: list[Block] = []

    def room(self) -> Room:
        look = self.look
        fitting = int((look.bottom - self.top) / look.body.leading + 0.15)
        return Room(look.left, self.top, look.width, min(self.lines, fitting))

    def kind(self) -> TextKind:
        """Return the page's kind of text, or now and then another."""
        return self.look.kind if self.dice.random() < 0.7 else self.studio.text.mix.draw(self.dice)

    def affordable(self, kind: TextKind, characters: float) -> float:
        return min(characters, max(0.0, self.tokens - TOKENS_PER_BLOCK) * CHARACTERS_PER_TOKEN[kind])

    def words(self, kind: TextKind, lines: float, width: float) -> int:
        """Estimate how many words fill so many lines, as far as the answer has room for them."""
        characters = self.affordable(kind, lines * width / (CHARACTER_WIDTH * self.look.body.glyphs.size))
        return max(1, round(characters / CHARACTERS_PER_WORD[kind]))

    def add(self, block: Block, kind: TextKind, gap: float) -> None:
        self.blocks.append(block)
        self.lines -= block.lines
        self.tokens -= len(block.text) / CHARACTERS_PER_TOKEN[kind] + TOKENS_PER_BLOCK
        self.tokens -= 3 * block.html.count("</")
        self.top = block.bottom + gap

    def paragraph(self) -> None:
        kind, look, room = self.kind(), self.look, self.room()
        lines = self.dice.choice(LONG_PARAGRAPHS if look.full else PARAGRAPHS)
        text = self.studio.text.passage(self.dice, kind, self.words(kind, lines, look.width))
        self.add(set_paragraph(self.sheet, text, room, look.body), kind, look.gap)

    def heading(self) -> None:
        dice, look, kind = self.dice, self.look, self.kind()
        first = not self.blocks
        size = look.body.glyphs.size
        bold = dice.random() < 0.8
        grown = round(size * dice.uniform(1.15 if first or not bold else 1.0, 1.6 if first else 1.3))
        stands_out = bold and look.body.glyphs.face != look.family.bold
        size = min(max(grown, size + (0 if stands_out else 3)), SIZES[-1])
        face = look.family.bold if bold else look.family.regular
        glyphs = self.studio.atlas.glyphs(face, size, look.hinted)
        tracking = dice.choice((1.0, 2.0)) if dice.random() < 0.06 else 0.0
        align = 0.5 if dice.random() < (0.35 if first else 0.1) else 0.0
        style = Style(glyphs, size * dice.uniform(1.1, 1.35), align, tracking=tracking)
        text = self.studio.text.phrase(dice, kind, dice.choice((1, 2, 2, 3, 3, 4, 5, 7)))
        room = replace(self.room(), lines=max(1, int((look.bottom - self.top) / style.leading)))
        block = set_heading(self.sheet, text, 1 if first else 2, room, style, dice.random() < 0.08)
        self.add(block, kind, look.gap * dice.uniform(0.3, 1.2))

    def bullets(self) -> None:
        dice, look, kind = self.dice, self.look, self.kind()
        bullet = dice.choice((*BULLETS, "•", "•", "–", "-"))
        long = dice.random() < 0.3
        items = []
        for _ in range(dice.randint(2, 7)):
            most = self.words(kind, 2.5 if long else 0.8, look.width * 0.9)
            items.append(self.studio.text.passage(dice, kind, dice.randint(1, max(1, most))))
        style = replace(look.body, justified=False, indent=0.0, align=0.0)
        shift = dice.choice((0.0, 0.8, 1.6)) * style.glyphs.size
        shift = min(shift, 0.1 * look.width)
        room = replace(self.room(), left=look.left + shift, width=look.width - shift)
        gap = dice.choice((0.0, 0.0, 0.3)) * style.glyphs.size
        room = replace(room, lines=min(room.lines, int(room.lines * style.leading / (style.leading + gap))))
        if room.lines >= 1 and self.affordable(kind, 1e9) > sum(map(len, items)):
            self.add(set_list(self.sheet, items, room, style, bullet, gap), kind, look.gap)
        else:
            self.paragraph()

    def table(self) -> None:
        dice, look, room = self.dice, self.look, self.room()
        kind = self.kind()
        columns, rows = dice.randint(2, 5), dice.randint(2, 8)
        style = replace(look.body, justified=False, indent=0.0, align=0.0)
        cells = self.table_cells(columns, rows, kind)
        appearance = self.table_look(columns, style)
        while columns > 2 and table_width(cells, style, replace(appearance, width=0.0)) > look.width:
            columns -= 1
            cells = [row[:columns] for row in cells]
            appearance = replace(appearance, aligns=appearance.aligns[:columns])
        room = replace(room, lines=int((look.bottom - self.top - 2) / (style.leading + appearance.row_gap)))
        room = replace(room, lines=min(room.lines, self.lines))
        needed = sum(len(cell) + 3 for row in cells for cell in row)
        width = table_width(cells, style, appearance)
        if width > look.width or room.lines < 2 or needed > self.affordable(kind, 1e9):
            self.paragraph()
            return
        shift = dice.choice((0.0, 0.0, 0.5)) * (look.width - width)
        room = replace(room, left=look.left + shift)
        self.add(
            set_table(self.sheet, cells, room, style, appearance), kind, look.gap + 0.3 * style.glyphs.size
        )

    def table_cells(self, columns: int, rows: int, kind: TextKind) -> list[list[str]]:
        """Draw rows of cells; most columns hold one sort of thing, as in a real table."""
        dice, text = self.dice, self.studio.text
        numeric = [dice.random() < (0.2 if column == 0 else 0.6) for column in range(columns)]
        cells = []
        for row in range(rows):
            line = []
            for column in range(columns):
                empty = 0.2 if row == column == 0 else 0.04 if column or row == 0 else 0.0
                if dice.random() < empty:
                    line.append("")
                elif row == 0:
                    line.append(text.phrase(dice, kind, dice.choice((1, 1, 1, 2))))
                elif numeric[column] and kind is not TextKind.RANDOM:
                    line.append(text.passage(dice, TextKind.FIGURES, 1))
                else:
                    line.append(text.phrase(dice, kind, dice.choice((1, 1, 2, 3))))
            cells.append(line)
        return cells

    def table_look(self, columns: int, style: Style) -> TableLook:
        dice, look = self.dice, self.look
        bold = replace(
            style, glyphs=self.studio.atlas.glyphs(look.family.bold, style.glyphs.size, look.hinted)
        )
        rules = dice.random()
        size = style.glyphs.size
        aligns = tuple(dice.choice((0.0, 0.0, 0.0, 1.0, 0.5)) for _ in range(columns))
        return TableLook(
            aligns,
            padding=size * dice.uniform(0.35, 0.8) if rules < 0.4 else size * dice.uniform(0.5, 1.1),
            row_gap=size * dice.choice((0.0, 0.15, 0.3, 0.5)),
            grid=rules < 0.4,
            row_rules=0.4 <= rules < 0.55,
            header_rule=0.55 <= rules < 0.7,
            header=bold if dice.random() < 0.8 else None,
            width=look.width if dice.random() < 0.3 else 0.0,
            ink=dice.choice((255, 255, 160, 100)),
        )


def compose(
    sheet: Sheet, dice: random.Random, level: Level, studio: Studio, room_for_slant: float
) -> list[Block]:
    """Fill a sheet with a random page of a level; return its blocks in reading order (at least one)."""
    look = choose_look(sheet, dice, level, studio, room_for_slant)
    edges = list(edge_lines(dice, level, look, sheet.ink.shape[0]))
    composer = Composer(sheet, dice, level, studio, look)
    head = [block for edge in edges if edge.is_header for block in [edge.set(sheet, studio, dice)]]
    composer.tokens -= sum(len(block.text) + TOKENS_PER_BLOCK for block in head) + 30 * (
        len(edges) - len(head)
    )
    if level.blocks and dice.random() < 0.5:
        composer.heading()
    while not composer.blocks or (composer.room().lines >= 1 and composer.tokens > 1.5 * TOKENS_PER_BLOCK):
        add_block(composer, level)
    foot = [block for edge in edges if not edge.is_header for block in [edge.set(sheet, studio, dice)]]
    return [*head, *composer.blocks, *foot]


def add_block(composer: Composer, level: Level) -> None:
    form = composer.dice.random() if level.blocks else 0.0
    lines = composer.room().lines
    if form < 0.55 or lines < 2:
        composer.paragraph()
    elif form < 0.72 and lines >= 4 and composer.blocks:
        composer.heading()
        if composer.room().lines >= 1:
            composer.paragraph()
    elif form < 0.86 and not (composer.blocks and composer.blocks[-1].label == "List-Group"):
        composer.bullets()
    else:
        composer.table()


def choose_look(
    sheet: Sheet, dice: random.Random, level: Level, studio: Studio, room_for_slant: float
) -> PageLook:
    height, width = sheet.ink.shape
    family = dice.choices(FAMILIES, [family.weight for family in FAMILIES])[0]
    hinted = dice.random() < 0.5
    size = choose_size(dice, level, height, width)
    face = dice.choices((family.regular, family.bold, family.italic), (0.82, 0.07, 0.11))[0]
    leading = size * dice.choice((dice.uniform(1.08, 1.3), dice.uniform(1.15, 1.6)))
    full = False
    if studio.crowded and level.blocks and dice.random() < studio.crowded:
        size = dice.choice(CROWDED_SIZES)
        leading = size * dice.uniform(1.08, 1.2)
        full = dice.random() < FULL_SHARE
    spare = 0.0 if full else dice.random()
    side = min(width, 900) * (0.02 + 0.1 * spare * dice.random()) + 2 + room_for_slant * height / 2
    right = side if full or dice.random() < 0.8 else side + dice.uniform(0, 0.35) * width
    edge = min(height, 900) * (0.015 + 0.09 * spare * dice.random()) + 2 + room_for_slant * width / 2
    edge += size * 1.9 if level.blocks and height >= 480 and dice.random() < 0.5 else 0.0
    centred = dice.random() < 0.08
    indented = not centred and width > 300 and dice.random() < 0.3
    body = Style(
        studio.atlas.glyphs(face, size, hinted),
        round(leading) if hinted else leading,
        align=0.5 if centred else 0.0,
        justified=not centred and dice.random() < 0.25,
        indent=size * dice.choice((1.0, 1.5, 2.0)) if indented else 0.0,
    )
    gap = leading * (dice.choice((0.0, 0.2)) if body.indent else dice.uniform(0.35, 1.1))
    top = edge
    if not full and dice.random() < 0.15:
        top += dice.uniform(0, 0.5) * max(0.0, height - 2 * edge - leading)
    kind = studio.text.mix.draw(dice)
    bottom = height - edge - 0.12 * size
    return PageLook(family, hinted, body, kind, side, top, width - side - right, bottom, gap, full)


def choose_size(dice: random.Random, level: Level, height: int, width: int) -> int:
    """Draw a type size in pixels: small ones more often, none too large for the page's height."""
    size = dice.choices(TYPE_SIZES, TYPE_WEIGHTS)[0]
    return min(size, max(12, int(0.38 * height)))


@dataclass(frozen=True)
class EdgeLine:
    """A running head or a footer: where it goes and how it is set."""

    is_header: bool
    look: PageLook
    size: int
    top: float
    align: float

    def set(self, sheet: Sheet, studio: Studio, dice: random.Random) -> Block:
        glyphs = studio.atlas.glyphs(self.look.family.regular, self.size, self.look.hinted)
        style = Style(glyphs, self.size * 1.2, self.align)
        room = Room(self.look.left, self.top, self.look.width, 1)
        form = dice.random()
        number = f"{dice.randint(1, 400)}"
        if form < 0.35:
            text = dice.choice(
                (number, f"Page {number}", f"– {number} –", f"Page {number} of 400", f"- {number} -")
            )
        else:
            kind = TextKind.FIGURES if form < 0.6 else TextKind.PROSE_LIKE
            text = studio.text.phrase(dice, kind, dice.randint(1, 5))
        return set_paragraph(sheet, text, room, style, "Page-Header" if self.is_header else "Page-Footer")


def edge_lines(dice: random.Random, level: Level, look: PageLook, height: int) -> Iterator[EdgeLine]:
    """Draw running heads and footers for a share of the large pages that leave room for them."""
    size = max(12, min(16, round(0.85 * look.body.glyphs.size)))
    margin = height - look.bottom
    if not level.blocks or height < 480 or margin < 2.2 * size + 4:
        return
    if dice.random() < 0.5 and look.top >= margin - 2 * size:
        yield EdgeLine(True, look, size, max(3.0, margin - 2.9 * size), dice.choice((0.0, 0.5, 1.0)))
    if dice.random() < 0.5:
        yield EdgeLine(False, look, size, look.bottom + 0.75 * size, dice.choice((0.0, 0.5, 1.0)))
