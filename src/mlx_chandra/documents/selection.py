"""Selects pages of each document: `1-5,7,-2-`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mlx_chandra.errors import UsageError

_PART = re.compile(r"(-?\d+)(?:(-)(-?\d+)?)?")


@dataclass(frozen=True)
class PageSelection:
    """The pages that are in any of the ranges.

    Each range is from its first to its last page, both included, counted from 1; negative from the end.
    """

    ranges: tuple[tuple[int, int], ...] = ((1, -1),)

    @classmethod
    def parse(cls, text: str) -> "PageSelection":
        """Read `1-5,7,-2-`: pages 1 to 5, page 7, the last two. Raises UsageError where it makes no sense."""
        return cls(tuple(_range(part.strip()) for part in text.split(",")))

    def of(self, count: int) -> Iterator[int]:
        """Yield the selected pages of a document with `count` pages, in order and each once."""
        ranges = [[end if end > 0 else count + 1 + end for end in ends] for ends in self.ranges]
        return (page for page in range(1, count + 1) if any(first <= page <= last for first, last in ranges))


def _range(part: str) -> tuple[int, int]:
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
    return first, last
