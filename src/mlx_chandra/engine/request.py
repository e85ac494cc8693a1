"""One page in the engine, from its arrival to its last token."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlx_chandra.models.inputs import Image, Page

if TYPE_CHECKING:
    from mlx_chandra.engine.runner import Launch
    from mlx_chandra.engine.sampler import Sampling


@dataclass(eq=False)
class Request:
    """A page from insert() to its last token."""

    uid: int
    inputs: Page  # kept, because a page that loses its slot is prefilled again
    prompt_tokens: int
    max_tokens: int
    sampling: "Sampling"
    position: int = 0  # of the next token to be launched
    launched: int = 0  # tokens that launched passes give, read or not
    tokens: list[int] = field(default_factory=list)  # those that were read
    newest: "Launch | None" = None  # gives the latest token, in this
    row: int = 0
    announced: bool = False  # its PromptResponse was given out
    finished: bool = False  # no further response will come

    @property
    def length(self) -> int:
        """Tokens that a prefill of it runs: the prompt's, and those of the answer that were read."""
        return self.prompt_tokens + len(self.tokens)

    def to_prefill(self) -> Page:
        """Return what a prefill runs over."""
        if not self.tokens:
            return self.inputs
        ids = np.concatenate([self.inputs.token_ids, np.array(self.tokens, np.int32)])
        return _Continued(ids, self.inputs.image)

    def lose_slot(self) -> None:
        """Forget what was launched and not read."""
        self.launched, self.newest = len(self.tokens), None


@dataclass(frozen=True)
class _Continued:
    """A page's prompt with the beginning of its answer."""

    token_ids: NDArray[np.int32]
    image: Image
