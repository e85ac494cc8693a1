"""Who runs next: plain Python over counts, no arrays.

Pages are admitted in the order they came, as soon as slots are free, several prompts to a prefill pass as
long as the pass stays within its token budget. What a prompt holds and how it is run is the generator's
business.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Waiting:
    """A page that has no slot (yet, or any more), and the tokens that its prefill runs."""

    uid: int
    prompt_tokens: int


class Scheduler:
    """The queue in front of the slots.

    Args:
        prefill_batch_size: Prompts in one prefill pass, at most.
        prefill_tokens: Prompt tokens in one prefill pass, at most; a longer prompt runs alone.
    """

    def __init__(self, prefill_batch_size: int, prefill_tokens: int) -> None:
        if prefill_batch_size < 1 or prefill_tokens < 1:
            raise ValueError("prefill_batch_size and prefill_tokens must be at least 1")
        self._prefill_batch_size, self._prefill_tokens = prefill_batch_size, prefill_tokens
        self._queue: deque[Waiting] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def uids(self) -> frozenset[int]:
        """The pages that wait."""
        return frozenset(page.uid for page in self._queue)

    def add(self, pages: Iterable[Waiting]) -> None:
        self._queue.extend(pages)

    def add_first(self, pages: Sequence[Waiting]) -> None:
        """Pages that lost their slots: before all others, in this order."""
        self._queue.extendleft(reversed(pages))

    def remove(self, uid: int) -> bool:
        """Take a page out of the queue; False if it isn't there."""
        kept = [page for page in self._queue if page.uid != uid]
        found = len(kept) < len(self._queue)
        self._queue = deque(kept)
        return found

    def admit(
        self, free_slots: int, fits: Callable[[Sequence[int]], bool] = lambda lengths: True
    ) -> list[int]:
        """The pages of the next prefill pass, taken out of the queue; empty if none can run now.

        Args:
            free_slots: Pages that may come in at most.
            fits: Whether there is memory for prompts of these lengths beside the pages in work.
        """
        admitted: list[Waiting] = []
        while self._queue and len(admitted) < min(free_slots, self._prefill_batch_size):
            lengths = [page.prompt_tokens for page in (*admitted, self._queue[0])]
            if (admitted and sum(lengths) > self._prefill_tokens) or not fits(lengths):
                break
            admitted.append(self._queue.popleft())
        return [page.uid for page in admitted]
