"""Brings a model's answer into the form that chandra-ocr reads: divs at the top, boxes of whole numbers.

Chandra 2 gives boxes as `x0 y0 x1 y1` of 0-1000, Chandra 1 as `[x0, y0, x1, y1]` of 0-1024. An answer that is
right already stays letter for letter, because the package names the pictures on a page by a hash of it.
"""

import re
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

from mlx_chandra.errors import MlxChandraError

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag
    from bs4.element import PageElement

FIGURES = ("Image", "Figure")
"""Labels of blocks that are cut out of the page as pictures."""

SCALES = (1024, 1000)
"""What boxes are normalised to: Chandra 1's, and those of Chandra 2 and later."""

Size = tuple[int, int]  # width and height of a page picture, in pixels

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_LARGEST = 1e6  # far outside of every page; a longer number would overflow later
_IN_BRACKETS = re.compile(r"""data-bbox\s*=["'\s]*\[""")
_NO_BOX = "0 0 1 1"  # what the package takes for a box that it can't read
_BLANK = "Blank-Page"  # a block that the package leaves out


class Box(NamedTuple):
    """The corners of a block, in pixels or as fractions of the page."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Answer:
    """An answer that the package reads: its blocks, each a div at the top.

    Attributes:
        scale: What its boxes are normalised to.
        boxes: Each block's box as fractions of the page, in the order of the package's blocks; None where the
            model gave none.
        depth: How many tags stand in one another at its deepest place.
    """

    html: str
    scale: int
    boxes: tuple[Box | None, ...]
    depth: int


@dataclass(frozen=True)
class Block:
    """One block of a page, with the names of JSON's keys.

    Attributes:
        label: The model's word for what it is: Text, Table, Figure, ...; `block` where it gave none.
        bbox: In whole pixels of the page picture; None where the box or the picture's size isn't known.
        bbox_fractions: The same as fractions of the page.
        content: What is in it, as HTML.
        image: The file name of what was cut out of the page for it.
    """

    label: str
    bbox: Box | None
    bbox_fractions: Box | None
    content: str
    image: str | None = None


def read_answer(text: str, scale: int | None) -> Answer:
    """Bring a model's answer into the form that the package reads.

    `scale` is what its boxes are normalised to, where that is known; otherwise their form tells.
    """
    from bs4 import BeautifulSoup

    if scale is None:
        scale = SCALES[0] if _IN_BRACKETS.search(text) else SCALES[1]
    soup = BeautifulSoup(text, "html.parser")
    changed = _gather_strays(soup)
    boxes: list[Box | None] = []
    for div in soup.find_all("div", recursive=False):
        said = str(div.get("data-bbox") or "")
        numbers = _numbers(said)
        plain = _NO_BOX if numbers is None else " ".join(str(round(number)) for number in numbers)
        if plain != said:
            div["data-bbox"] = plain
            changed = True
        if div.get("data-label") != _BLANK:
            boxes.append(None if numbers is None else _fractions(numbers, scale))
    return Answer(str(soup) if changed else text, scale, tuple(boxes), depth_of(soup))


def blocks_of(answer: Answer, size: Size | None) -> tuple[Block, ...]:
    """Return the page's blocks as the package finds them. `size` is the page picture's, where it is known."""
    picture = SimpleNamespace(size=size or (1, 1))  # the package asks it for no more
    chunks = package().parse_chunks(answer.html, picture, bbox_scale=answer.scale)
    blocks = []
    for chunk, fractions in zip(chunks, answer.boxes, strict=True):
        box = None
        if size and fractions:
            box = Box(*(min(max(at, 0), most) for at, most in zip(chunk["bbox"], size * 2, strict=True)))
        blocks.append(Block(str(chunk["label"]), box, fractions, str(chunk["content"])))
    return tuple(blocks)


def package() -> ModuleType:
    """Return the module of chandra-ocr that converts answers. Raises MlxChandraError where there is none."""
    try:
        import chandra.output
    except Exception as error:  # its settings are read when it is imported, and may be refused
        raise MlxChandraError(
            f"Documents are made by the package chandra-ocr, which can't be imported ({error}).",
            'Install it: pip install "chandra-ocr==0.2.0".',
        ) from error
    module: ModuleType = chandra.output
    return module


def _gather_strays(soup: "BeautifulSoup") -> bool:
    """Put what stands outside of the divs at the top into divs of its own; return whether there was any."""
    from bs4.element import NavigableString, Tag

    runs: list[list[PageElement]] = [[]]
    for node in list(soup.children):
        if isinstance(node, Tag) and node.name == "div":
            runs.append([])
        elif isinstance(node, Tag) or type(node) is NavigableString:  # no comments
            runs[-1].append(node)
    strays = [run for run in runs if any(isinstance(node, Tag) or str(node).strip() for node in run)]
    for run in strays:
        div = soup.new_tag("div")
        run[0].insert_before(div)
        for node in run:
            div.append(node.extract())
    return bool(strays)


def _numbers(said: str) -> tuple[float, ...] | None:
    """Return a box's four numbers, bounded; None where there aren't four."""
    words = said.strip().removeprefix("[").removesuffix("]").replace(",", " ").split()
    if len(words) != 4 or not all(map(_NUMBER.fullmatch, words)):
        return None
    return tuple(max(-_LARGEST, min(float(word), _LARGEST)) for word in words)


def _fractions(numbers: tuple[float, ...], scale: int) -> Box:
    return Box(*(round(min(max(number / scale, 0.0), 1.0), 5) for number in numbers))


def depth_of(tag: "Tag") -> int:
    """Return how many tags stand in one another at the deepest place; thousands in an endless repetition."""
    from bs4 import Tag

    deepest, left = 0, [(tag, 0)]
    while left:
        node, depth = left.pop()
        deepest = max(deepest, depth)
        left.extend((child, depth + 1) for child in node.children if isinstance(child, Tag))
    return deepest
