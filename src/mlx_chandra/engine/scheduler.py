"""Who runs next: plain Python over counts, no arrays.

Pages are admitted in the order they came, as soon as slots are free, several prompts to a prefill pass as
long as the pass stays within its token budget. What a prompt holds and how it is run is the generator's
business.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Waiting:
    """A page that has no slot yet."""

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

    def add(self, pages: Iterable[Waiting]) -> None:
        self._queue.extend(pages)

    def remove(self, uid: int) -> bool:
        """Take a page out of the queue; False if it isn't there."""
        kept = [page for page in self._queue if page.uid != uid]
        found = len(kept) < len(self._queue)
        self._queue = deque(kept)
        return found

    def admit(self, free_slots: int) -> list[int]:
        """The pages of the next prefill pass, taken out of the queue; empty if none can run now."""
        admitted: list[int] = []
        tokens = 0
        while self._queue and len(admitted) < min(free_slots, self._prefill_batch_size):
            page = self._queue[0]
            if admitted and tokens + page.prompt_tokens > self._prefill_tokens:
                break
            tokens += page.prompt_tokens
            admitted.append(self._queue.popleft().uid)
        return admitted
