"""One page's text as what goes into its document's files: blocks, HTML, Markdown, plain text, figures.

The authors' package, chandra-ocr, does the converting, so that documents look as its own client makes them.
HTML is sanitised before anything is made of it. A page that can't be converted is written as its plain text.
"""

import html as html_module
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlx_chandra.documents.page import Page, PageResult
from mlx_chandra.errors import MlxChandraError, PageError
from mlx_chandra.export.layout import FIGURES, Answer, Block, Box, Size, blocks_of, package, read_answer
from mlx_chandra.export.plain_text import DEEPEST, plain_text, without_tags
from mlx_chandra.export.sanitise import sanitised
from mlx_chandra.export.settings import Choices
from mlx_chandra.files.disk import cleaned

if TYPE_CHECKING:
    from PIL.Image import Image

OpenPage = Callable[[Page], "Image"]
SaveFigure = Callable[[str, bytes], str]  # the package's name and a WebP file -> the name it was saved under

# What a reader of Markdown would take for a tag, although it is a text's < before a word.
_LIKE_A_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_VERBATIM = ("code", "kbd", "pre", "samp", "table")  # the package writes tables as HTML, escaped as such
_LONGEST_TAG = 5000  # characters; Python's parser takes a time that grows with its square
_MOST_PIXELS = 4  # of a page's figures together, as a multiple of the page's own


@dataclass(frozen=True)
class ConvertedPage:
    """What a page's text was turned into; all HTML in it is sanitised.

    Attributes:
        size: The page picture's; None where there is no picture to be had.
        blocks: All of them, whatever the choices.
        pictures: The file names of the figures that were cut out.
        problems: What couldn't be done, in sentences.
        is_plain: The page couldn't be converted, and is written as its text without tags.
    """

    size: Size | None
    blocks: tuple[Block, ...] = ()
    html: str = ""
    markdown: str = ""
    text: str = ""
    pictures: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    is_plain: bool = False


def convert(page: PageResult, choices: Choices, open_page: OpenPage, save: SaveFigure) -> ConvertedPage:
    """Convert one page.

    `open_page` is called for figures, and where the size isn't known; what it raises becomes one of the
    page's problems. `save` keeps each figure as it is cut out. Raises MlxChandraError where chandra-ocr can't
    be imported, or `save` raises it.
    """
    if not page.text.strip():
        return ConvertedPage(page.size)
    try:
        return _converted(page, choices, open_page, save)
    except MlxChandraError:
        raise
    except Exception as error:  # RecursionError and MemoryError too: one page is no reason to lose the others
        return _as_plain_text(page, error)


def _converted(page: PageResult, choices: Choices, open_page: OpenPage, save: SaveFigure) -> ConvertedPage:
    _check_tags(page.text)
    problems: list[str] = []
    answer, size = read_answer(page.text, page.box_scale), page.size
    if size is None:
        image = _opened(page, open_page, "the boxes in pixels are missing", problems)
        size = image.size if image else None
    blocks = blocks_of(answer, size)
    names: Mapping[int, str] = {}
    if size and choices.pictures and any(block.label in FIGURES for block in blocks):
        image = _opened(replace(page, size=size), open_page, "its pictures weren't cut out", problems)
        names = _cut_out(answer, blocks, image, save, problems) if image else {}
    html = _html(answer, choices, names)
    blocks = tuple(
        replace(block, content=sanitised(block.content), image=names.get(place))
        for place, block in enumerate(blocks, start=1)
    )
    markdown = _markdown(html, answer.depth, problems)
    pictures = tuple(names.values())
    return ConvertedPage(size, blocks, html, markdown, plain_text(html), pictures, tuple(problems))


def _check_tags(text: str) -> None:
    """Raise ValueError for what would keep the HTML parser busy for minutes."""
    if any(len(part) - part.find("<") > _LONGEST_TAG for part in text.split(">") if "<" in part):
        raise ValueError(f"a tag of more than {_LONGEST_TAG:,} characters")


def _as_plain_text(page: PageResult, error: Exception) -> ConvertedPage:
    text = without_tags(page.text)
    html = "<p>" + html_module.escape(text, quote=False).replace("\n", "<br>\n") + "</p>"
    problem = f"The page couldn't be converted ({_named(error)}), so its text was written without its tags."
    block = Block("block", None, None, html)
    markdown = _LIKE_A_TAG.sub("&lt;", text)
    return ConvertedPage(page.size, (block,), html, markdown, text, (), (problem,), is_plain=True)


def _named(error: Exception) -> str:
    return cleaned(f"{type(error).__name__}: {error}")[:200]


def _opened(page: PageResult, open_page: OpenPage, missing: str, problems: list[str]) -> "Image | None":
    try:
        image = open_page(page.page)
    except Exception as error:  # whatever it is, the text is there
        why = error.message if isinstance(error, PageError) else _named(error)
        problems.append(f"The page couldn't be opened again, so {missing}: {why}.")
        return None
    if page.size is not None and image.size != page.size:
        problems.append(f"The page has another size than when it was read, so {missing}.")
        return None
    return image


def _cut_out(
    answer: Answer, blocks: tuple[Block, ...], image: "Image", save: SaveFigure, problems: list[str]
) -> Mapping[int, str]:
    """Save the figures of the page one by one; return their names by the place of their block, from 1."""
    names: dict[int, str] = {}
    left = _MOST_PIXELS * image.width * image.height
    for place, block in enumerate(blocks, start=1):
        if block.label not in FIGURES:
            continue
        left -= _pixels(block.bbox)
        if left < 0:
            problems.append(f"From block {place} on, no pictures were cut out: they overlap too much.")
            break
        try:
            figure = _webp(image, block.bbox)
        except (OSError, ValueError, MemoryError):  # a box without pixels; longer than WebP allows
            said = " ".join(f"{corner:g}" for corner in block.bbox or ()) or "missing"
            problems.append(f"Block {place}, a picture, couldn't be cut out: its box is {said}.")
            continue
        names[place] = save(package().get_image_name(answer.html, place), figure)
    return names


def _pixels(box: Box | None) -> int:
    return int(max(box.right - box.left, 0) * max(box.bottom - box.top, 0)) if box else 0


def _webp(image: "Image", box: Box | None) -> bytes:
    if box is None or not _pixels(box):
        raise ValueError("a picture without pixels")
    written = io.BytesIO()
    image.crop(box).save(written, "WEBP")
    return written.getvalue()


def _html(answer: Answer, choices: Choices, names: Mapping[int, str]) -> str:
    """Return the page's HTML, sanitised, with the names that its figures were saved under."""
    html: str = package().parse_html(answer.html, choices.headers, choices.pictures)
    for place, name in names.items():
        html = html.replace(package().get_image_name(answer.html, place), name)
    return sanitised(html, names.values())


def _markdown(html: str, depth: int, problems: list[str]) -> str:
    """Return Markdown of the package, which takes a div without a label for a page's content as it is."""
    if depth <= DEEPEST:
        markdown: str = package().parse_markdown(f"<div>{_without_false_tags(html)}</div>", True, True)
        if markdown or not html.strip():
            return markdown
    text = plain_text(html)
    if text:
        problems.append("Its HTML can't be turned into Markdown, so its text was written without marks.")
    return _LIKE_A_TAG.sub("&lt;", text)


def _without_false_tags(html: str) -> str:
    """Return the HTML with each `<` of a text escaped that Markdown would take for a tag.

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
