"""Which pages are prefilled next: plain Python over counts, no arrays.

Pages are admitted in the order they came, as soon as slots are free, several prompts to a prefill pass as
long as the pass stays within its token budget.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """The part of a request that is looked at here."""

    @property
    def length(self) -> int:
        """Tokens that its prefill runs."""
        ...


RequestT = TypeVar("RequestT", bound=Waiting)


class Scheduler(Generic[RequestT]):
    """The queue in front of the slots.

    Args:
        prefill_batch_size: Prompts in one prefill pass, at most.
        prefill_tokens: Prompt tokens in one prefill pass, at most; a longer prompt runs alone.
    """

    def __init__(self, prefill_batch_size: int, prefill_tokens: int) -> None:
        if prefill_batch_size < 1 or prefill_tokens < 1:
            raise ValueError("prefill_batch_size and prefill_tokens must be at least 1")
        self._prefill_batch_size, self._prefill_tokens = prefill_batch_size, prefill_tokens
        self._queue: deque[RequestT] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def __contains__(self, request: RequestT) -> bool:
        return request in self._queue

    def add(self, requests: Iterable[RequestT]) -> None:
        self._queue.extend(requests)

    def add_first(self, requests: Sequence[RequestT]) -> None:
        """Put requests that lost their slots before all others, in this order."""
        self._queue.extendleft(reversed(requests))

    def remove(self, request: RequestT) -> bool:
        """Take a request out of the queue; return False if it isn't there."""
        if request not in self._queue:
            return False
        self._queue.remove(request)
        return True

    def clear(self) -> None:
        self._queue.clear()

    def admit(
        self, free_slots: int, fits: Callable[[Sequence[int]], bool] = lambda lengths: True
    ) -> list[RequestT]:
        """Take the requests of the next prefill pass out of the queue; none if none can run now.

        Args:
            free_slots: Requests that may come in at most.
            fits: Whether there is memory for prompts of these lengths beside the pages in work.
        """
        admitted: list[RequestT] = []
        while self._queue and len(admitted) < min(free_slots, self._prefill_batch_size):
            lengths = [request.length for request in (*admitted, self._queue[0])]
            if (admitted and sum(lengths) > self._prefill_tokens) or not fits(lengths):
                break
            admitted.append(self._queue.popleft())
        return admitted
