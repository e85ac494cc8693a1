"""A page's HTML as plain text: a line a paragraph, cells between tabs, formulas as their LaTeX."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bs4.element import PageElement, Tag

DEEPEST = 150
"""Deeper answers went in circles; they are taken apart without recursion."""

_SPACE = re.compile(r"\s+")
_EDGE = re.compile(r"^ (?! )| +$")  # what is left of white space between tags; code may be indented by more
_OWN_LINES = frozenset("blockquote caption dd div dl dt figcaption figure hr li ol table tr ul".split())
_SET_APART = frozenset("h1 h2 h3 h4 h5 h6 p pre".split())
_TICKS = ("checkbox", "radio")


def plain_text(html: str) -> str:
    """The text of a page's HTML. A tick is [x], an empty one [ ]; pictures are what describes them."""
    from bs4 import BeautifulSoup

    from mlx_chandra.outputs.layout import depth_of

    soup = BeautifulSoup(html, "html.parser")
    if depth_of(soup) > DEEPEST:
        return soup.get_text("\n", strip=True)
    lines = [_EDGE.sub("", line) for line in _inside(soup, verbatim=False).split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def _inside(tag: "Tag", verbatim: bool) -> str:
    return "".join(_text(child, verbatim) for child in tag.children)


def _text(node: "PageElement", verbatim: bool) -> str:
    from bs4.element import NavigableString, Tag

    if isinstance(node, NavigableString):
        if type(node) is not NavigableString:
            return ""  # a comment
        return str(node) if verbatim else _SPACE.sub(" ", node)
    if not isinstance(node, Tag):
        return ""
    if node.name == "br":
        return "\n"
    if node.name == "img":
        return str(node.get("alt") or "")
    if node.name == "input":
        return _input(node)
    text = _inside(node, verbatim or node.name == "pre")
    if node.name in ("td", "th"):
        return _SPACE.sub(" ", text).strip() + "\t"
    if node.name == "tr":
        return "\n" + text.rstrip("\t ").lstrip(" \n")
    if node.name in _SET_APART:
        return "\n\n" + text.strip("\n" if node.name == "pre" else None) + "\n\n"
    return "\n" + text.strip(" \n") + "\n" if node.name in _OWN_LINES else text


def _input(node: "Tag") -> str:
    if node.get("type") in _TICKS:
        return "[x]" if node.has_attr("checked") else "[ ]"
    return str(node.get("value") or "")
