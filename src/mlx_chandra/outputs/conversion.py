"""One page's answer as what goes into its document's files: blocks, HTML, Markdown, text, cut out pictures.

The authors' package, chandra-ocr, does the converting, so that documents look as its own client makes them.
What it is given and what it gives is looked after here: HTML is sanitised before anything is made of it, and
an answer that its Markdown converter doesn't come through is kept as plain text.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mlx_chandra.errors import PageError
from mlx_chandra.outputs.layout import (
    FIGURES,
    Answer,
    Block,
    Size,
    blocks_of,
    chunks_of,
    package,
    read_answer,
)
from mlx_chandra.outputs.plain_text import DEEPEST, plain_text
from mlx_chandra.outputs.sanitise import sanitised

if TYPE_CHECKING:
    from PIL.Image import Image

# What a reader of Markdown would take for a tag, although it is a text's < before a word.
_LIKE_A_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_VERBATIM = ("code", "kbd", "pre", "samp", "table")  # the package writes tables as HTML, escaped as such


@dataclass(frozen=True)
class Choices:
    """What of a page goes into HTML, Markdown and text.

    Attributes:
        headers: Page headers and footers.
        pictures: Figures and images, which are then also cut out of the page.
    """

    headers: bool = False
    pictures: bool = True


@dataclass(frozen=True)
class ConvertedPage:
    """What a page's answer was turned into.

    Attributes:
        size: The page picture's; None where there is no picture to be had.
        blocks: All of them, whatever the choices; their content is sanitised.
        html: Sanitised.
        markdown: With HTML, sanitised, for tables and the like.
        text: The words alone.
        pictures: What was cut out, WebP files by their names.
        problems: What couldn't be done, in sentences.
    """

    size: Size | None
    blocks: tuple[Block, ...] = ()
    html: str = ""
    markdown: str = ""
    text: str = ""
    pictures: dict[str, bytes] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def convert(
    text: str, scale: int | None, size: Size | None, choices: Choices, open_page: "Callable[[], Image]"
) -> ConvertedPage:
    """Converts one page.

    Args:
        text: What the model said.
        scale: What its boxes are normalised to; None: to be told from their form.
        size: The size of the picture that it was read from, where that is known.
        choices: What is left in.
        open_page: Gives that picture. Called for figures, and where the size isn't known; what it raises as
            PageError becomes one of the page's problems.

    Raises:
        MlxChandraError: chandra-ocr can't be imported.
    """
    if not text.strip():
        return ConvertedPage(size)
    problems: list[str] = []
    answer = read_answer(text, scale)
    if size is None:
        image = _opened(open_page, None, "the boxes in pixels are missing", problems)
        size = Size(*image.size) if image else None
    blocks = blocks_of(answer, size)
    pictures: dict[str, bytes] = {}
    if size and choices.pictures and any(block.label in FIGURES for block in blocks):
        image = _opened(open_page, size, "its pictures weren't cut out", problems)
        pictures = _cut_out(answer, image, problems) if image else {}
    html = package().parse_html(answer.html, choices.headers, choices.pictures)
    html = sanitised(html, pictures)
    markdown = _markdown(html, answer.depth, problems)
    blocks = tuple(_finished(block, answer, place, pictures) for place, block in enumerate(blocks, start=1))
    return ConvertedPage(size, blocks, html, markdown, plain_text(html), pictures, tuple(problems))


def _finished(block: Block, answer: Answer, place: int, pictures: dict[str, bytes]) -> Block:
    """The block with clean content, and with the name of its picture."""
    name: str = package().get_image_name(answer.html, place)
    return replace(block, content=sanitised(block.content), picture=name if name in pictures else None)


def _opened(
    open_page: "Callable[[], Image]", size: Size | None, missing: str, problems: list[str]
) -> "Image | None":
    try:
        image = open_page()
    except PageError as error:
        problems.append(f"The page couldn't be opened again, so {missing}: {error.message}.")
        return None
    if size is not None and image.size != size.size:
        problems.append(f"The page has another size than when it was read, so {missing}.")
        return None
    return image


def _cut_out(answer: Answer, image: "Image", problems: list[str]) -> dict[str, bytes]:
    """The figures of the page as WebP files, under the names that the package's HTML has for them."""
    # The package puts an <img> into each figure's HTML, but cuts out only those that had one before.
    chunks = [chunk | {"content": "<img>"} for chunk in chunks_of(answer, Size(*image.size))]
    cut = package().extract_images(answer.html, chunks, image)
    files: dict[str, bytes] = {}
    for place, chunk in enumerate(chunks, start=1):
        if chunk["label"] not in FIGURES:
            continue
        name: str = package().get_image_name(answer.html, place)
        try:
            files[name] = _webp(cut[name])
        except (KeyError, OSError, ValueError, MemoryError):  # a box turned around; longer than WebP allows
            problems.append(f"Block {place}, a picture, couldn't be cut out: its box is {chunk['bbox']}.")
    return files


def _webp(picture: "Image") -> bytes:
    if not all(picture.size):
        raise ValueError("a picture without pixels")
    written = io.BytesIO()
    picture.save(written, "WEBP")
    return written.getvalue()


def _markdown(html: str, depth: int, problems: list[str]) -> str:
    """Markdown through the package, which takes a div without a label for a page's content as it is."""
    if depth <= DEEPEST:
        markdown: str = package().parse_markdown(f"<div>{_without_false_tags(html)}</div>", True, True)
        if markdown or not html.strip():
            return markdown
    text = plain_text(html)
    if text:
        problems.append("Its HTML can't be turned into Markdown, so the text stands there without marks.")
    return _LIKE_A_TAG.sub("&lt;", text)


def _without_false_tags(html: str) -> str:
    """The HTML with each text's `<` that Markdown would take for a tag's written so that it stays a text.

    The package writes text into Markdown as it is read: `&lt;script&gt;` on a page would come out as a tag.
    """
    if "&lt;" not in html:
        return html
    from bs4 import BeautifulSoup
    from bs4.element import NavigableString

    soup = BeautifulSoup(html, "html.parser")
    for node in list(soup.find_all(string=_LIKE_A_TAG)):
        if node.find_parent(_VERBATIM) is None:
            instead = "< " if node.find_parent("math") else "&lt;"  # LaTeX doesn't mind the space
            node.replace_with(NavigableString(_LIKE_A_TAG.sub(instead, node)))
    return str(soup)
