"""Scores how well a page was read: its characters, its tags, and its blocks' boxes.

The character error rate strips the tags and collapses white space, so it doesn't see a missing table cell:
the tags have an error rate of their own.
"""

from __future__ import annotations

import html
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

TAG = re.compile(r"<[^<>]*>")
TAG_NAME = re.compile(r"</?\w+")
BOX = re.compile(r'data-bbox="(\d+) (\d+) (\d+) (\d+)"')

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 from 0 to 1000


@dataclass(frozen=True)
class PageScore:
    """One page: edit distances with the lengths of the right answer, and how its boxes overlap.

    Attributes:
        edits, characters: Of what a reader sees.
        tag_edits, tags: Of the tags' names, in order.
        overlap: Intersection over union, added up over the blocks in order; one too many or too few adds 0.
        boxes: Blocks of the right answer, or of the given one if that has more.
    """

    edits: int
    characters: int
    tag_edits: int = 0
    tags: int = 0
    overlap: float = 0.0
    boxes: int = 0

    @property
    def rate(self) -> float:
        """Character error rate, 0 to 1 or more."""
        return self.edits / max(self.characters, 1)


@dataclass(frozen=True)
class Summary:
    """Many pages together; `overlap` is the boxes' mean intersection over union, None without boxes."""

    pages: int
    rate: float
    worst: float
    above_five_percent: int
    tag_rate: float
    overlap: float | None


def plain_text(answer: str) -> str:
    """Return what a person sees of an answer in HTML: no tags, white space collapsed."""
    return " ".join(html.unescape(TAG.sub(" ", answer)).split())


def edit_distance(ours: str, theirs: str) -> int:
    """Return the Levenshtein distance, a row at a time (insertions along a row are a running minimum)."""
    if ours == theirs:
        return 0
    target = np.frombuffer(theirs.encode("utf-32-le"), dtype=np.uint32)
    places = np.arange(len(target) + 1)
    row = places.copy()
    for number, character in enumerate(ours, start=1):
        best = np.empty_like(row)
        best[0] = number
        np.minimum(row[:-1] + (target != ord(character)), row[1:] + 1, out=best[1:])
        row = np.minimum.accumulate(best - places) + places
    return int(row[-1])


def tag_names(answer: str) -> str:
    """Return the answer's tags in order, without attributes, one private character for each name."""
    names = [TAG_NAME.match(tag) for tag in TAG.findall(answer)]
    return "".join(chr(0xE000 + zlib.crc32(name[0].encode()) % 6400) for name in names if name)


def boxes_of(answer: str) -> list[Box]:
    """Return the blocks' boxes in the order of the answer."""
    return [(int(x0), int(y0), int(x1), int(y1)) for x0, y0, x1, y1 in BOX.findall(answer)]


def intersection_over_union(ours: Box, theirs: Box) -> float:
    """Return 0 (apart) to 1 (the same)."""
    width = min(ours[2], theirs[2]) - max(ours[0], theirs[0])
    height = min(ours[3], theirs[3]) - max(ours[1], theirs[1])
    shared = max(width, 0) * max(height, 0)
    both = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (ours, theirs)) - shared
    return shared / both if both > 0 else 0.0


def score_page(answer: str, truth: str) -> PageScore:
    """Compare two answers in HTML (or plain text)."""
    wanted, tags = plain_text(truth), tag_names(truth)
    found_boxes, boxes = boxes_of(answer), boxes_of(truth)
    return PageScore(
        edits=edit_distance(plain_text(answer), wanted),
        characters=len(wanted),
        tag_edits=edit_distance(tag_names(answer), tags),
        tags=len(tags),
        overlap=sum(map(intersection_over_union, found_boxes, boxes)),
        boxes=max(len(found_boxes), len(boxes)),
    )


def summarise(scores: Iterable[PageScore]) -> Summary:
    """Work out error rates over all characters and tags, the worst page's, and the boxes' mean overlap."""
    pages = list(scores)
    boxes = sum(page.boxes for page in pages)
    return Summary(
        pages=len(pages),
        rate=sum(page.edits for page in pages) / max(sum(page.characters for page in pages), 1),
        worst=max((page.rate for page in pages), default=0.0),
        above_five_percent=sum(page.rate > 0.05 for page in pages),
        tag_rate=sum(page.tag_edits for page in pages) / max(sum(page.tags for page in pages), 1),
        overlap=sum(page.overlap for page in pages) / boxes if boxes else None,
    )
