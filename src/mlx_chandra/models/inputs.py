"""The inputs of models, as protocols: anything that has these fields will do.

`processing` makes such objects; the models don't import it.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Grid(Protocol):
    """A page picture's patches in time, height and width."""

    @property
    def t(self) -> int: ...
    @property
    def h(self) -> int: ...
    @property
    def w(self) -> int: ...


class Image(Protocol):
    """One page picture, cut into patches in merge-block order.

    A pixel's normalised value is pixel * scale + shift, with one scale and shift for each channel.
    """

    @property
    def pixels(self) -> NDArray[np.uint8]: ...  # [t*h*w, channels*height*width]
    @property
    def scale(self) -> NDArray[np.float32]: ...  # [channels]
    @property
    def shift(self) -> NDArray[np.float32]: ...
    @property
    def grid(self) -> Grid: ...


class Page(Protocol):
    """One page's prompt: tokens [T] with the image token repeated once per merged patch, and the picture."""

    @property
    def token_ids(self) -> NDArray[np.int32]: ...
    @property
    def image(self) -> Image: ...


Images = Sequence[Image]
Pages = Sequence[Page]
