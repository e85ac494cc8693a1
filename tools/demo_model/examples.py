"""Makes examples/pages/: pages a person might scan, each with its text beside it.

    python -m tools.demo_model.examples [--data FOLDER] [--output FOLDER]

The texts are in example_texts/, in a plain markup: `# title`, `## heading`, `- item`, `| cell | cell |`,
blank lines between paragraphs. They are set by the same renderer as the training pages. The output follows
from the texts and the table below alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from tools.demo_model.blocks import Block, Room, TableLook, set_heading, set_list, set_paragraph, set_table
from tools.demo_model.glyphs import Atlas
from tools.demo_model.pages import RenderedPage, Wear, degrade, finish_page
from tools.demo_model.typesetting import Sheet, Style

TEXTS = Path(__file__).parent / "example_texts"
SANS, SERIF, MONO, NARROW = "LiberationSans", "LiberationSerif", "LiberationMono", "LiberationSansNarrow"
DEJAVU, DEJAVU_SERIF = "DejaVuSans", "DejaVuSerif"
CLEAN = Wear()
COPY = Wear(paper=244, ink=25, blur=0.4)
SCAN = Wear(paper=236, ink=30, blur=0.45, noise=4.0)
TILTED = Wear(paper=240, ink=20, blur=0.4, noise=3.0, slant=0.35)


@dataclass(frozen=True)
class Example:
    """One page: its text, its file and how it is set.

    Attributes:
        file: Path below the output folder; the text is example_texts/<the same without the ending>.txt.
        size: Width and height in pixels.
        family: Face family; bold is used for headings.
        type_size: Pixels to the em.
        align: 0 left, 0.5 centred.
        ruled: Whether tables have rules around their cells, or else only between rows.
        header: Whether a table's first row is a header.
        numbers_from: From which column on tables are aligned right.
    """

    file: str
    size: tuple[int, int]
    family: str
    type_size: int
    margin: int = 48
    leading: float = 1.3
    hinted: bool = True
    italic: bool = False
    align: float = 0.0
    justified: bool = False
    ruled: bool = True
    header: bool = True
    numbers_from: int = 1
    wear: Wear = field(default=CLEAN)


EXAMPLES = (
    Example("letter.png", (768, 1024), SERIF, 23, 80, 1.4),
    Example("recipe.jpg", (768, 1024), SANS, 20, 64, 1.4, wear=SCAN),
    Example("minutes.tiff", (768, 1024), DEJAVU_SERIF, 18, 64, hinted=False, wear=COPY),
    Example("invoices/invoice-1042.png", (640, 832), SANS, 18, 48, 1.35),
    Example("invoices/receipt.JPG", (416, 640), MONO, 18, 36, 1.35, ruled=False, header=False, wear=SCAN),
    Example(
        "invoices/statement.Tif", (832, 640), NARROW, 24, 48, 1.4, ruled=False, numbers_from=2, wear=COPY
    ),
    Example("timetable.bmp", (640, 480), DEJAVU, 18, 32, 1.4),
    Example("packing-list.webp", (640, 832), SERIF, 21, 48, 1.4, wear=TILTED),
    Example("notice.jpeg", (640, 480), SANS, 26, 48, 1.35, align=0.5, wear=COPY),
    Example("story.tif", (720, 1000), SERIF, 25, 72, 1.4, hinted=False, justified=True),
    Example("faq.png", (768, 1024), DEJAVU, 18, 56, 1.4, hinted=False),
    Example("label.png", (256, 160), SANS, 18, 18, 1.4),
    Example("sign.bmp", (416, 192), DEJAVU, 22, 28, 1.45),
    Example("strip.png", (640, 256), SANS, 23, 32, 1.6, hinted=False),
    Example("telegram.tif", (512, 384), MONO, 18, 32),
    Example("poster.webp", (1024, 1024), SERIF, 28, 90, 1.5, hinted=False, numbers_from=2, wear=COPY),
    Example("menu.jpg", (512, 512), DEJAVU_SERIF, 20, 40, 1.5, ruled=False, header=False, wear=COPY),
    Example("diary.PNG", (512, 512), SERIF, 23, 36, 1.45, italic=True),
    Example("catalogue.TIFF", (1024, 768), SANS, 23, 64, 1.4, hinted=False, numbers_from=2),
    Example("postcard.jpg", (512, 384), SERIF, 22, 36, 1.35, italic=True, hinted=False, wear=TILTED),
)


@dataclass(frozen=True)
class Part:
    """A block of markup: its kind ("#", "##", "-", "|" or "" for a paragraph) and its lines without marks."""

    kind: str
    lines: tuple[str, ...]


def parse(markup: str) -> Iterator[Part]:
    """Cut markup into its blocks."""
    for blank, group in groupby(markup.splitlines(), key=lambda line: not line.strip()):
        if blank:
            continue
        lines = tuple(line.strip() for line in group)
        mark = lines[0].split(" ", 1)[0]
        if mark in ("#", "##", "-"):
            yield Part(mark, tuple(line.removeprefix(mark + " ") for line in lines))
        elif mark == "|":
            yield Part("|", tuple(line.strip("|") for line in lines))
        else:
            yield Part("", (" ".join(lines),))


class Setter:
    """Sets one example's blocks down its page."""

    def __init__(self, example: Example, atlas: Atlas) -> None:
        self.example = example
        self.atlas = atlas
        self.sheet = Sheet(example.size[1], example.size[0])
        self.top = 0.8 * example.margin

    def style(self, bold: bool = False, factor: float = 1.0) -> Style:
        example = self.example
        regular = "" if example.family.startswith("DejaVu") else "-Regular"
        ending = "-Bold" if bold else "-Italic" if example.italic else regular
        size = min(32, round(example.type_size * factor))
        glyphs = self.atlas.glyphs(example.family + ending, size, example.hinted)
        return Style(glyphs, round(size * example.leading), example.align, example.justified)

    def room(self) -> Room:
        example = self.example
        return Room(example.margin, self.top, example.size[0] - 2 * example.margin, 99)

    def set(self, part: Part) -> Block:
        """Set one block and move down. Raises ValueError where its text does not fit the page."""
        plain = replace(self.style(), align=0.0, justified=False)
        gap = 0.6 * plain.leading
        if part.kind in ("#", "##"):
            style = self.style(True, 1.4 if part.kind == "#" else 1.1)
            block = set_heading(self.sheet, part.lines[0], len(part.kind), self.room(), style)
            gap *= 0.7
        elif part.kind == "-":
            block = set_list(self.sheet, part.lines, self.room(), plain)
        elif part.kind == "|":
            block = self.set_cells(part, plain)
        else:
            block = set_paragraph(self.sheet, part.lines[0], self.room(), self.style())
        self.top = block.bottom + gap
        self.check(part, block)
        return block

    def set_cells(self, part: Part, style: Style) -> Block:
        example = self.example
        rows = [[cell.strip() for cell in line.split("|")] for line in part.lines]
        aligns = tuple(float(column >= example.numbers_from) for column in range(len(rows[0])))
        header = self.style(bold=True) if example.header else None
        size = example.type_size
        look = TableLook(
            aligns,
            padding=0.5 * size,
            row_gap=0.25 * size,
            grid=example.ruled,
            row_rules=not example.ruled,
            header=replace(header, align=0.0, justified=False) if header else None,
            width=self.room().width if not example.ruled else 0.0,
            ink=200,
        )
        return set_table(self.sheet, rows, self.room(), style, look)

    def check(self, part: Part, block: Block) -> None:
        wanted = " ".join(part.lines).replace("|", " ").split()
        x0, y0, x1, y1 = block.box
        width, height = self.example.size
        if block.text.split() != wanted or x1 > width - 4 or y1 > height - 4 or min(x0, y0) < 4:
            raise ValueError(f"{self.example.file}: {part.lines[0]!r} does not fit the page.")


def set_example(example: Example, atlas: Atlas) -> RenderedPage:
    """Set an example's text on its page; nothing is left out."""
    setter = Setter(example, atlas)
    markup = (TEXTS / Path(example.file).with_suffix(".txt")).read_text("utf-8")
    blocks = [setter.set(part) for part in parse(markup)]
    return finish_page(setter.sheet, blocks, (example.size[1], example.size[0]))


def save(image: Image.Image, path: Path) -> None:
    """Save in the format that the ending names, small enough for a repository."""
    ending = path.suffix.lower()
    if ending in (".jpg", ".jpeg"):
        image.convert("RGB").save(path, "JPEG", quality=88)
    elif ending in (".tif", ".tiff"):
        image.save(path, "TIFF", compression="tiff_adobe_deflate")
    elif ending == ".webp":
        image.convert("RGB").save(path, "WEBP", quality=85)
    else:
        image.save(path, optimize=True)


def write_example(example: Example, atlas: Atlas, folder: Path, seed: int) -> None:
    """Write a page and, beside it, its text: blocks, list items and table rows on lines of their own."""
    page = set_example(example, atlas)
    path = folder / example.file
    path.parent.mkdir(parents=True, exist_ok=True)
    save(degrade(page.ink, np.random.default_rng(seed), example.wear), path)
    text = "\n".join(block.text for block in page.blocks)
    path.with_suffix(".txt").write_text(text + "\n", "utf-8")


def main() -> None:
    here = Path(__file__)
    parser = argparse.ArgumentParser(description="Make the example pages.")
    parser.add_argument("--data", type=Path, default=here.parent / ".data")
    parser.add_argument("--output", type=Path, default=here.parents[2] / "examples/pages")
    options = parser.parse_args()
    atlas = Atlas.from_folder(options.data)
    for seed, example in enumerate(EXAMPLES):
        write_example(example, atlas, options.output, seed)
    files = [path for path in options.output.rglob("*") if path.is_file()]
    print(f"{len(EXAMPLES)} pages, {sum(path.stat().st_size for path in files) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
