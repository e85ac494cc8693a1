"""Selects pages of each document: `1-5,7,-2-`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mlx_chandra.errors import UsageError

_PART = re.compile(r"(-?\d+)(?:(-)(-?\d+)?)?")


@dataclass(frozen=True)
class PageRange:
    """From `first` to `last`, both included, counted from 1; negative from the end, -1 being the last."""

    first: int
    last: int

    def contains(self, number: int, count: int) -> bool:
        """Whether page `number` of a document with `count` pages is in the range."""
        first, last = (end if end > 0 else count + 1 + end for end in (self.first, self.last))
        return first <= number <= last


@dataclass(frozen=True)
class PageSelection:
    """The pages that are in any of the ranges."""

    ranges: tuple[PageRange, ...] = (PageRange(1, -1),)

    @classmethod
    def parse(cls, text: str) -> "PageSelection":
        """`1-5,7,-2-`: pages 1 to 5, page 7, the last two. Raises UsageError where it makes no sense."""
        return cls(tuple(_range(part.strip()) for part in text.split(",")))

    def of(self, count: int) -> Iterator[int]:
        """The numbers of the selected pages of a document with `count` pages, in order and each once."""
        for number in range(1, count + 1):
            if any(part.contains(number, count) for part in self.ranges):
                yield number


def _range(part: str) -> PageRange:
    match = _PART.fullmatch(part)
    if match is None:
        raise UsageError(
            f"{part!r} names no pages.", "Pages are named as in 1-5,7,-2-: to 5, the 7th and the last two."
        )
    first = int(match[1])
    last = first if match[2] is None else int(match[3] or -1)
    if first == 0 or last == 0:
        raise UsageError(f"There is no page 0, as in {part!r}.", "Pages are counted from 1.")
    if first > last and (first > 0) == (last > 0):
        raise UsageError(f"{part!r} ends before it begins.", "Name the lower page first.")
    return PageRange(first, last)
