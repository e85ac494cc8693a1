"""What the generator knows of a page while it is in its hands, and of a pass on its way."""

from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_chandra.engine.sampler import Sampling
from mlx_chandra.models.inputs import Image, Page


@dataclass(eq=False)
class PageInWork:
    """A page from insert() to its last token.

    Attributes:
        inputs: What it was inserted with; kept, for a page that loses its row is prefilled again.
        position: Of the next token to be launched.
        launched: Tokens that launched passes will give, read or not.
        tokens: Those that were read.
        newest: The pass that gives the latest token,
        place: and its place among that pass's tokens.
        announced: Whether its PromptResponse was given out.
        done: Nothing more will be said of it.
    """

    uid: int
    inputs: Page
    prompt_tokens: int
    max_tokens: int
    sampling: Sampling
    position: int = 0
    launched: int = 0
    tokens: list[int] = field(default_factory=list)
    newest: "Launch | None" = None
    place: int = 0
    announced: bool = False
    done: bool = False

    @property
    def length(self) -> int:
        """Tokens that a prefill of it runs: the prompt's, and those of the answer that are known."""
        return self.prompt_tokens + len(self.tokens)

    def to_prefill(self) -> Page:
        """What a prefill runs over."""
        if not self.tokens:
            return self.inputs
        ids = np.concatenate([self.inputs.token_ids, np.array(self.tokens, np.int32)])
        return _Continued(ids, self.inputs.image)

    def lose_row(self) -> None:
        """Forget what was launched for it and isn't known."""
        self.launched, self.newest = len(self.tokens), None


@dataclass(frozen=True)
class _Continued:
    """A page's prompt with the beginning of its answer."""

    token_ids: NDArray[np.int32]
    image: Image


@dataclass(eq=False)
class Launch:
    """One pass on its way: the pages in the order of its rows, None in a hole, and their tokens [n]."""

    pages: tuple[PageInWork | None, ...]
    tokens: mx.array


class AnswerLengths:
    """How long answers are, from those that ended; a guess until there are some."""

    def __init__(self, guess: int = 1024, weight: int = 4) -> None:
        """`guess` in tokens, which counts like `weight` answers."""
        self._tokens, self._count = guess * weight, weight

    def add(self, tokens: int) -> None:
        self._tokens, self._count = self._tokens + tokens, self._count + 1

    @property
    def mean(self) -> int:
        return self._tokens // self._count
