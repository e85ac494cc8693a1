"""Decides whether a page is read once more, how that attempt is sampled, and which attempt is kept.

A page whose answer repeats itself is read again, and a truncated one where that is asked for, until an answer
is whole. Where none is, the one that says most is kept, with the state in which it ended.

The sampling is the models' own: Chandra 1's retries all have one temperature, Chandra 2's a higher one each
time, as in `generate_vllm` of chandra.model.vllm.
"""

import hashlib
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlx_chandra.engine.repetition import ends_in_repetition
from mlx_chandra.engine.sampler import Sampling
from mlx_chandra.errors import PageError, PageState, error_status
from mlx_chandra.processing.prompt import ModelFamily

_TOP_P = 0.95
_CHANDRA_1_TEMPERATURE = 0.3
_CHANDRA_2_STEP, _CHANDRA_2_MOST = 0.2, 0.8


def retry_sampling(family: ModelFamily, retry: int, seed: int) -> Sampling:
    """Return the sampling of a page's first, second, ... retry (`retry` is 1, 2, ...), with its own seed."""
    if retry < 1:
        raise ValueError("the first attempt is no retry")
    temperature = _CHANDRA_1_TEMPERATURE
    if family is ModelFamily.CHANDRA_2:
        temperature = min(_CHANDRA_2_STEP * retry, _CHANDRA_2_MOST)
    return Sampling(temperature, _TOP_P, seed)


def seed_of(name: str | bytes, retry: int) -> int:
    """Return the seed of a retry, in 0 to 2**32 - 1: the same in every run for the same name."""
    return int.from_bytes(hashlib.sha256(b"%d/%s" % (retry, os.fsencode(name))).digest()[:4])


@dataclass(frozen=True)
class Attempt:
    """One answer of the model to a page."""

    state: PageState
    status: str  # as the CSV says it
    text: str  # empty for white space alone
    tokens: int
    reason: str  # the engine's finish reason: stop, length, repetition or error
    seconds: float  # from the prefill to the last token

    @classmethod
    def of(
        cls,
        decode: Callable[[Sequence[int]], str],
        tokens: Sequence[int],
        reason: str,
        seconds: float,
        error: PageError | None = None,
    ) -> "Attempt":
        """Decode an answer that ended, and tell its state. `error` says what went wrong, if anything did."""
        try:
            text = decode(tokens)
        except Exception as trouble:
            text, error = "", PageError("internal", f"{type(trouble).__name__}: {trouble}")
        state = _state(text, reason) if error is None else PageState.ERROR
        status = state.status if error is None else error_status(error)
        return cls(state, status, "" if state is PageState.EMPTY else text, len(tokens), reason, seconds)


def _state(text: str, reason: str) -> PageState:
    if reason == "repetition" or ends_in_repetition(text):
        return PageState.REPETITION
    if reason == "length":
        return PageState.TRUNCATED
    return PageState.OK if text.strip() else PageState.EMPTY


@dataclass(frozen=True)
class Retries:
    """When a page is read again: `most` times more at most, and with `truncated` also when it was cut off."""

    most: int = 3
    truncated: bool = False

    def wants_another(self, attempts: Sequence[Attempt]) -> bool:
        """Return whether the page of these attempts is read once more."""
        if len(attempts) > self.most:
            return False
        state = attempts[-1].state
        if state is PageState.EMPTY:  # is what the page says, unless an earlier attempt saw something there
            return len(attempts) > 1
        return state is PageState.REPETITION or (self.truncated and state is PageState.TRUNCATED)


RETRIES = Retries()


def best(attempts: Sequence[Attempt]) -> Attempt:
    """Return the attempt to keep: a whole one, else the one that says most; of equals the earliest.

    How much a text says is its compressed length, to which repetition adds nothing. One that ended in an
    error is kept only where all did.
    """

    def worth(attempt: Attempt) -> tuple[bool, int]:
        says = len(zlib.compress(attempt.text.encode("utf-8", "replace")))
        return attempt.state is not PageState.ERROR, says

    whole = next((attempt for attempt in attempts if attempt.state is PageState.OK), None)
    return whole or max(attempts, key=worth)


@dataclass(frozen=True)
class Answer:
    """What came out for one page: the kept attempt, and the counts of all attempts.

    A page that was never prefilled has a status alone.
    """

    status: str  # as the CSV says it: `ok`, `error:truncated`, `error:engine: the device is gone`
    text: str = ""
    finish_reason: str | None = None  # of the kept attempt: stop, length, repetition or error
    prompt_tokens: int = 0  # of the picture and the prompt
    output_tokens: int = 0  # of the kept attempt
    generated_tokens: int = 0  # of all attempts
    attempts: int = 0
    seconds: float = 0.0  # in the engine, all attempts together

    @classmethod
    def of(cls, attempts: Sequence[Attempt], prompt_tokens: int) -> "Answer":
        """Put together what a page's attempts, at least one, came to."""
        kept = best(attempts)
        return cls(
            status=kept.status,
            text=kept.text,
            finish_reason=str(kept.reason),
            prompt_tokens=prompt_tokens,
            output_tokens=kept.tokens,
            generated_tokens=sum(attempt.tokens for attempt in attempts),
            attempts=len(attempts),
            seconds=sum(attempt.seconds for attempt in attempts),
        )
