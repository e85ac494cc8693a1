"""Decides which pages are prefilled next: plain Python over counts, no arrays."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import deque

    from mlx_chandra.engine.request import Request


def admit(
    waiting: "deque[Request]", most: int, most_tokens: int, fits: Callable[[Sequence[int]], bool]
) -> "list[Request]":
    """Take the requests of the next prefill pass out of a queue, in order; none if none can run now.

    Args:
        waiting: The queue.
        most: Requests of the pass, at most.
        most_tokens: Prompt tokens of the pass, at most; a longer prompt runs alone.
        fits: Whether there is memory for prompts of these lengths beside the pages in work.
    """
    admitted: list[Request] = []
    while waiting and len(admitted) < most:
        lengths = [request.length for request in (*admitted, waiting[0])]
        if (admitted and sum(lengths) > most_tokens) or not fits(lengths):
            break
        admitted.append(waiting.popleft())
    return admitted
