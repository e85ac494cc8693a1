"""What BatchGenerator.next() and stats() return."""

from dataclasses import dataclass
from enum import StrEnum

from mlx_chandra.errors import PageError

OVERFLOW = PageError("overflow", "the model's numbers overflowed.", "Try --dtype bfloat16 or float32.")
OUT_OF_MEMORY = PageError(
    "out-of-memory",
    "there is not enough memory for this page, even by itself.",
    "Make the picture smaller (--max-size), or take a checkpoint with fewer bits.",
)


class FinishReason(StrEnum):
    """Why a page got no further token."""

    STOP = "stop"
    LENGTH = "length"
    REPETITION = "repetition"
    ERROR = "error"


@dataclass(frozen=True)
class PromptResponse:
    """A page was prefilled, or refused: then `error` says why, and no token of it will come."""

    uid: int
    prompt_tokens: int
    error: PageError | None = None


@dataclass(frozen=True)
class GenerationResponse:
    """One new token of a page. The stop token itself is the last one, with finish_reason STOP.

    With finish_reason ERROR there is no token (NOT_A_TOKEN), and `error` says what went wrong.
    """

    uid: int
    token: int
    finish_reason: FinishReason | None
    generated_tokens: int
    error: PageError | None = None


@dataclass(frozen=True)
class GeneratorStats:
    """Counts since the generator was made; times in seconds, memory in bytes.

    `occupancy` is the mean share of slots in use in the decode steps launched while pages waited.
    """

    prompt_tokens: int
    prompt_time: float
    generation_tokens: int
    generation_time: float
    steps: int
    slots: int
    active_slots: int
    waiting: int
    peak_memory: int
    occupancy: float = 1.0
