"""How often a page is read, and which of its readings is kept.

A page whose answer goes in circles is read again, by the model's own sampling for that, and one that was
cut off too where that is wished. It stops at the first answer that is whole. Where none is, the one that says
most is kept and marked with how it ended.
"""

import hashlib
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlx_chandra.documents.page import Page
from mlx_chandra.engine.repetition import ends_in_repetition as ends_in_circles
from mlx_chandra.errors import PageError, PageState, error_status
from mlx_chandra.outputs.layout import Size


@dataclass(frozen=True)
class Attempt:
    """One reading of a page by the model.

    Attributes:
        state: How it ended.
        status: The same as the table says it.
        text: What the model said; empty for nothing.
        tokens: Those of the answer.
        reason: The engine's finish reason: stop, length, repetition or error.
        seconds: In the engine, from the prefill to the last token.
    """

    state: PageState
    status: str
    text: str
    tokens: int
    reason: str
    seconds: float


@dataclass(frozen=True)
class PageResult:
    """All that is kept of a finished page.

    Attributes:
        page: Which one.
        state: How it ended.
        status: The same as the table says it, with an error's kind and what was wrong.
        text: What the model said; empty for nothing.
        size: Of its picture, width and height; None where it never came to the model.
        prompt_tokens: Those of the picture and the question; 0 where it never came to the model.
        generated_tokens: Those of all attempts together.
        answer_tokens: Those of the attempt that is kept.
        finish_reason: The engine's word for that one's end: stop, length, repetition or error; None where it
            never came to the model.
        attempts: How often the model read it; 0 where it never came there.
        seconds: That it was in the engine, all attempts together.
        box_scale: What the boxes in the text are normalised to; None for as this run's model has them.
        copy_of: The page whose row this is, where it wasn't read itself. What is said of tokens, attempts and
            seconds is that page's.
    """

    page: Page
    state: PageState
    status: str
    text: str = ""
    size: Size | None = None
    prompt_tokens: int = 0
    generated_tokens: int = 0
    answer_tokens: int = 0
    finish_reason: str | None = None
    attempts: int = 0
    seconds: float = 0.0
    box_scale: int | None = None
    copy_of: str | None = None


@dataclass(frozen=True)
class Retries:
    """When a page is read again: `most` times more at most, and with `truncated` also when it was cut off."""

    most: int = 3
    truncated: bool = False

    def wants_another(self, attempts: Sequence[Attempt]) -> bool:
        """Whether the page of these attempts is to be read once more."""
        if len(attempts) > self.most:
            return False
        state = attempts[-1].state
        if state is PageState.EMPTY:  # is what the page says, unless an attempt before saw something there
            return len(attempts) > 1
        return state is PageState.REPETITION or (self.truncated and state is PageState.TRUNCATED)


def judged(
    decode: Callable[[Sequence[int]], str],
    tokens: Sequence[int],
    reason: str,
    seconds: float,
    error: PageError | None = None,
) -> Attempt:
    """What an answer is worth.

    Args:
        decode: Gives the text of tokens.
        tokens: All of the answer's.
        reason: The engine's finish reason.
        seconds: In the engine.
        error: What went wrong, where `reason` is error.
    """
    try:
        text = decode(tokens)
    except Exception as trouble:
        text, error = "", PageError("internal", f"{type(trouble).__name__}: {trouble}")
    if error is not None:
        return Attempt(PageState.ERROR, error_status(error), text, len(tokens), reason, seconds)
    if reason == "repetition" or ends_in_circles(text):
        state = PageState.REPETITION
    elif reason == "length":
        state = PageState.TRUNCATED
    else:
        state = PageState.OK if text.strip() else PageState.EMPTY
    kept = "" if state is PageState.EMPTY else text
    return Attempt(state, state.status, kept, len(tokens), reason, seconds)


def best(attempts: Sequence[Attempt]) -> Attempt:
    """The one to keep: a whole one; else the one that says most, and of equals the earliest.

    How much a text says is its length when it is compressed, to which going in circles adds nothing. One that
    ended in an error is kept only where all did.
    """

    def worth(attempt: Attempt) -> tuple[bool, int]:
        says = len(zlib.compress(attempt.text.encode("utf-8", "replace")))
        return attempt.state is not PageState.ERROR, says

    whole = next((attempt for attempt in attempts if attempt.state is PageState.OK), None)
    return whole or max(attempts, key=worth)


def result_of(page: Page, size: Size, prompt_tokens: int, attempts: Sequence[Attempt]) -> PageResult:
    """What is kept of a page that was read so often; at least once."""
    kept = best(attempts)
    return PageResult(
        page=page,
        state=kept.state,
        status=kept.status,
        text=kept.text,
        size=size,
        prompt_tokens=prompt_tokens,
        generated_tokens=sum(attempt.tokens for attempt in attempts),
        answer_tokens=kept.tokens,
        finish_reason=kept.reason,
        attempts=len(attempts),
        seconds=sum(attempt.seconds for attempt in attempts),
    )


def refused(page: Page, error: PageError) -> PageResult:
    """What is kept of a page that never came to the model."""
    return PageResult(page, PageState.ERROR, error_status(error))


def seed_of(page: Page, attempt: int) -> int:
    """The seed of an attempt's sampling: the page's own, the same in every run and wherever its folder is."""
    name = os.fsencode(os.path.basename(page.path))
    return int.from_bytes(hashlib.sha256(b"%d/%s" % (attempt, name)).digest()[:4])
