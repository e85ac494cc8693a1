"""The size of a page picture."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """A page picture's size in pixels."""

    width: int
    height: int

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height
