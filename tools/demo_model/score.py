"""How well a page was read: character error rate with tags stripped and white space collapsed.

Plain Python and numpy; which pages and which engine is evaluate.py's part.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

TAG = re.compile(r"<[^<>]*>")


@dataclass(frozen=True)
class PageScore:
    """One page's edit distance and the length of what stood there, in characters."""

    edits: int
    characters: int

    @property
    def rate(self) -> float:
        """Character error rate, 0 to 1 or more."""
        return self.edits / max(self.characters, 1)


@dataclass(frozen=True)
class Summary:
    """Many pages together."""

    pages: int
    rate: float
    worst: float
    above_five_percent: int


def plain_text(answer: str) -> str:
    """What a reader sees of an answer in HTML: no tags, white space collapsed."""
    return " ".join(html.unescape(TAG.sub(" ", answer)).split())


def edit_distance(ours: str, theirs: str) -> int:
    """Levenshtein distance, a row at a time (insertions along a row are a running minimum)."""
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


def score_page(answer: str, truth: str) -> PageScore:
    """Compares two answers in HTML (or plain text) by what a reader sees."""
    wanted = plain_text(truth)
    return PageScore(edit_distance(plain_text(answer), wanted), len(wanted))


def summarise(scores: Iterable[PageScore]) -> Summary:
    """Error rate over all characters, and the worst page's."""
    pages = list(scores)
    return Summary(
        pages=len(pages),
        rate=sum(page.edits for page in pages) / max(sum(page.characters for page in pages), 1),
        worst=max((page.rate for page in pages), default=0.0),
        above_five_percent=sum(page.rate > 0.05 for page in pages),
    )
