"""Which page has which slot, how long it is there, and who moves: a table of plain Python.

Every page in work has a slot, in which the model keeps what it needs of the page (`models/kv_cache.py`).
Slots are grouped into buckets that share a length, and the longest pages stand in the first bucket, so that
no bucket is longer than its own pages need. All pages grow alike, so the order changes only where pages come
and go. A page that leaves makes a hole, and `compact` fills the holes by moving a page from each later
bucket. It is called while the device computes nothing; until then a hole is computed along, and its output
dropped.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from mlx_chandra.models.kv_cache import KeyValueCache, PromptPass, StepPass

PageT = TypeVar("PageT")
_LENGTH_STEPS = ((2048, 256), (4096, 512), (8192, 1024))  # up to so many tokens, capacities are multiples of
_LONGEST_STEP = 2048
_ROWS_SHARED = 8  # above so many rows, their number is a multiple of it where shapes are shared


class Place(NamedTuple):
    """A slot's bucket, and its number there."""

    bucket: int
    slot: int


def bucket_sizes(slots: int, sizes: Sequence[int]) -> list[int]:
    """Return the slots of each bucket: `sizes` in order, the last one as often as needed."""
    found: list[int] = []
    while slots:
        found.append(min(slots, sizes[min(len(found), len(sizes) - 1)]))
        slots -= found[-1]
    return found


def bucket_length(tokens: int) -> int:
    """Return the capacity of a bucket whose longest page has so many tokens; there are few different ones."""
    step = next((step for most, step in _LENGTH_STEPS if tokens <= most), _LONGEST_STEP)
    return -(-tokens // step) * step


def shared_row_count(rows: int) -> int:
    """Return how many rows a step of `rows` pages has where few different shapes are wanted."""
    if rows > _ROWS_SHARED:
        return -(-rows // _ROWS_SHARED) * _ROWS_SHARED
    return 1 << (rows - 1).bit_length()


class Slots(Generic[PageT]):
    """The slots of all pages in work.

    Args:
        cache: What the model keeps in them. Its buckets decide how many slots there are.
        max_length: Tokens that one page may come to hold.
        shared_shapes: Whether steps are padded to a few different numbers of rows.
    """

    def __init__(self, cache: "KeyValueCache", max_length: int, shared_shapes: bool = False) -> None:
        self.cache, self.max_length = cache, max_length
        self._shared_shapes = shared_shapes
        self._sizes = [bucket.slots for bucket in cache.buckets]
        self._firsts = [0, *accumulate(self._sizes)]  # each bucket's first slot
        self._pages: list[PageT | None] = []  # by slot; None in a hole
        self._lengths: list[int] = []  # tokens in each slot; 0 in a hole

    @property
    def count(self) -> int:
        return self._firsts[-1]

    @property
    def active(self) -> int:
        return len(self._pages) - self.holes

    @property
    def holes(self) -> int:
        return self._lengths.count(0)

    @property
    def free(self) -> int:
        return self.count - self.active

    @property
    def pages(self) -> tuple[PageT | None, ...]:
        """The page of each row of the next step."""
        return tuple(self._pages)

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(self._lengths)

    def tokens(self, lengths: Sequence[int]) -> int:
        """Return for how many tokens buckets are allocated when pages have these lengths."""
        longest_first = sorted(lengths, reverse=True)
        firsts = zip(self._firsts, self._sizes, strict=False)
        used = [(first, size) for first, size in firsts if first < len(longest_first)]
        return sum(size * bucket_length(longest_first[first]) for first, size in used)

    @property
    def allocated(self) -> int:
        return sum(bucket.slots * bucket.capacity for bucket in self.cache.buckets)

    @property
    def growth(self) -> int:
        """Tokens that the next step would allocate."""
        tokens = 0
        for number, bucket in enumerate(self.cache.buckets):
            longest = self._longest_in(number)
            if longest >= bucket.capacity > 0:
                tokens += bucket.slots * (bucket_length(longest + 1) - bucket.capacity)
        return tokens

    def insert(self, pages: Sequence[PageT], lengths: Sequence[int]) -> "PromptPass":
        """Give slots to prompts of `lengths`; the returned pass fills them.

        Call it while nothing is computed.

        Raises:
            ValueError: There are more prompts than free slots, or one is longer than a slot.
        """
        if len(lengths) > self.free or max(lengths, default=0) > self.max_length:
            raise ValueError(
                f"{len(lengths)} prompts of up to {max(lengths)} tokens don't fit "
                f"{self.free} free slots of {self.max_length} tokens"
            )
        self.compact()
        slots = [0] * len(pages)
        for index in sorted(range(len(pages)), key=lambda index: -lengths[index]):  # none displaces another
            slots[index] = slot = self._make_room(lengths[index])
            self._pages[slot], self._lengths[slot] = pages[index], lengths[index]
        return self.cache.prompt_pass([self._place(slot) for slot in slots], lengths)

    def step(self) -> "StepPass":
        """Make room for one more token of every page; the returned pass writes and reads it.

        Raises:
            ValueError: A page's slot is full.
        """
        if max(self._lengths) >= self.max_length:
            raise ValueError(f"a slot of {self.max_length} tokens is full")
        self._lengths = [length + 1 if length else 0 for length in self._lengths]
        rows = len(self._lengths)
        if self._shared_shapes:
            rows = min(shared_row_count(rows), self.count)
        return self.cache.step_pass(self._lengths, rows)

    def remove(self, page: PageT) -> bool:
        """Forget a page; its slot is a hole until `compact`. Return False if the page has no slot."""
        if page not in self._pages:
            return False
        slot = self._pages.index(page)
        self._pages[slot], self._lengths[slot] = None, 0
        self._trim()
        return True

    @property
    def fragmented(self) -> bool:
        """Whether filling the holes makes the next steps smaller by more than it costs."""
        return self.holes >= min(_ROWS_SHARED, max(1, len(self._lengths) // 2))

    def compact(self, tightly: bool = False) -> None:
        """Fill the holes. Call it while nothing is computed: what is being read can't be updated in place.

        Args:
            tightly: Give back all memory that no page needs, not only what is far too much.
        """
        while self.holes:
            self._fill(self._lengths.index(0))
        in_use = self._bucket(len(self._lengths) - 1) + 1 if self._lengths else 0
        for number, bucket in enumerate(self.cache.buckets):
            if number < in_use:
                bucket.shrink(self._longest_in(number), tightly)
            elif tightly or number > in_use:  # the next one is kept, for it may be wanted again soon
                bucket.drop()

    def check(self) -> None:
        """Raise AssertionError if the table doesn't agree with itself or with the arrays; reads no array."""
        assert len(self._pages) == len(self._lengths) <= self.count, "more pages than slots"
        assert not self._lengths or self._lengths[-1], "the last slot is a hole"
        assert all(length <= self.max_length for length in self._lengths), "a page is longer than a slot"
        for page, length in zip(self._pages, self._lengths, strict=True):
            assert (page is None) == (length == 0), "a hole has tokens, or a page has none"
        for number, bucket in enumerate(self.cache.buckets):
            bucket.check(self._longest_in(number))

    def _fill(self, hole: int) -> None:
        """Move the longest page of each later bucket one bucket forward, then the last one into the gap."""
        last = len(self._lengths) - 1
        for bucket in range(self._bucket(hole) + 1, self._bucket(last) + 1):
            longest = max(self._slots_in(bucket), key=self._lengths.__getitem__)
            self._move(longest, hole)
            hole = longest
        if hole != last:
            self._move(last, hole)
        self._trim()

    def _make_room(self, length: int) -> int:
        """Return a new slot for a page of `length`; shorter pages move to a later bucket for it."""
        hole = len(self._lengths)
        self._pages.append(None)
        self._lengths.append(0)
        for bucket in range(self._bucket(hole) - 1, -1, -1):
            shortest = min(self._slots_in(bucket), key=self._lengths.__getitem__)
            if bucket_length(self._lengths[shortest]) >= bucket_length(length):
                break
            self._move(shortest, hole)
            hole = shortest
        return hole

    def _move(self, source: int, target: int) -> None:
        length = self._lengths[source]
        if length:
            self.cache.copy(self._place(source), self._place(target), length)
        self._pages[target], self._lengths[target] = self._pages[source], length
        self._pages[source], self._lengths[source] = None, 0

    def _trim(self) -> None:
        while self._lengths and not self._lengths[-1]:
            self._pages.pop()
            self._lengths.pop()

    def _bucket(self, slot: int) -> int:
        return bisect_right(self._firsts, slot) - 1

    def _place(self, slot: int) -> Place:
        bucket = self._bucket(slot)
        return Place(bucket, slot - self._firsts[bucket])

    def _slots_in(self, bucket: int) -> range:
        return range(self._firsts[bucket], min(self._firsts[bucket + 1], len(self._lengths)))

    def _longest_in(self, bucket: int) -> int:
        return max((self._lengths[slot] for slot in self._slots_in(bucket)), default=0)
