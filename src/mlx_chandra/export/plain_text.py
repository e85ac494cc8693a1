"""A page's HTML as plain text: a line a paragraph, cells between tabs, formulas as their LaTeX."""

import re
from html import unescape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bs4.element import PageElement, Tag

DEEPEST = 150
"""Deeper answers repeat themselves without end; they are taken apart without recursion."""

_TAG = re.compile(r"<(?=[A-Za-z/!])[^<>]*>")
_SPACE = re.compile(r"\s+")
_OWN_LINES = frozenset("blockquote caption dd div dl dt figcaption figure hr li ol table tr ul".split())
_SET_APART = frozenset("h1 h2 h3 h4 h5 h6 p pre".split())
_TICKS = ("checkbox", "radio")


def plain_text(html: str) -> str:
    """Return the text of a page's HTML. A tick is [x], an empty one [ ]; pictures are what describes them."""
    try:
        return _structured(html)
    except Exception:  # a page can hold anything, and its words must not be lost
        return without_tags(html)


def without_tags(html: str) -> str:
    """Return what is left of any text without its tags, in linear time and whatever stands in it."""
    text = _TAG.sub(" ", html)
    try:
        return unescape(text).strip()
    except (ValueError, OverflowError):  # a character's number with thousands of digits
        return text.strip()


def _structured(html: str) -> str:
    from bs4 import BeautifulSoup

    from mlx_chandra.export.layout import depth_of

    soup = BeautifulSoup(html, "html.parser")
    if depth_of(soup) > DEEPEST:
        return soup.get_text("\n", strip=True)
    lines = map(_without_edges, _inside(soup, verbatim=False).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def _without_edges(line: str) -> str:
    """Return the line without what is left of white space between tags; code may be indented by more."""
    line = line.rstrip(" ")
    return line[1:] if line.startswith(" ") and not line.startswith("  ") else line


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
