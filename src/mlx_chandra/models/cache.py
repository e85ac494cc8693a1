"""Keys and values of the pages in work: one row a page, written in place, freed by forgetting it.

Rows stand on shelves (`models/shelves.py`), the longest pages on the first one, so that a shelf is no longer
than its own pages need, and a step that reads whole windows reads little in vain. All pages grow alike, so
the order only changes where pages come and go: a page that leaves makes a hole, and `settle` fills the holes
by moving a page from each later shelf. Whoever runs the steps calls it when nothing is being computed; until
then a hole is computed along, and what comes out of it is nobody's.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

import mlx.core as mx
import numpy as np

from mlx_chandra.models.attention import decode_view
from mlx_chandra.models.backend import Backend
from mlx_chandra.models.cache_passes import (
    PromptPass,
    ShelfArrays,
    ShelfShape,
    StepPass,
    StepShape,
    StepTable,
)
from mlx_chandra.models.config import TextConfig
from mlx_chandra.models.shelves import Shelf, shelf_length, shelf_sizes, shelf_tokens, window_length

PageT = TypeVar("PageT")
_ROWS_SHARED = 8  # above so many rows, their number is a multiple of it where shapes are shared


def shared_row_count(rows: int) -> int:
    """How many rows a step of `rows` pages is computed with, where few different shapes are wanted."""
    if rows > _ROWS_SHARED:
        return -(-rows // _ROWS_SHARED) * _ROWS_SHARED
    return 1 << (rows - 1).bit_length()


class KeyValueCache(Generic[PageT]):
    """Rows of keys and values for all layers.

    Args:
        config: Says layers, heads and head size.
        slots: Pages in work at once, at most.
        max_length: Tokens that one page may come to hold.
        dtype: Of keys and values.
        backend: How many rows a shelf has, and how attention runs.
    """

    def __init__(
        self, config: TextConfig, slots: int, max_length: int, dtype: mx.Dtype, backend: Backend
    ) -> None:
        self.slots, self.max_length = slots, max_length
        dtype = backend.cache_dtype(dtype)
        self._config, self._dtype, self._backend = config, dtype, backend
        self._shelves = [Shelf(config, rows, dtype) for rows in shelf_sizes(slots, backend.shelf_rows)]
        self._firsts = [0, *accumulate(shelf.rows for shelf in self._shelves)]  # each shelf's first row
        self._pages: list[PageT | None] = []  # by row; None in a hole
        self._lengths: list[int] = []  # tokens in each row; 0 in a hole
        self._table: StepTable | None = None  # of the last step

    @staticmethod
    def bytes_per_token(config: TextConfig, dtype: mx.Dtype) -> int:
        return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * dtype.size

    @property
    def active(self) -> int:
        """Pages in work."""
        return len(self._pages) - self.holes

    @property
    def holes(self) -> int:
        return self._lengths.count(0)

    @property
    def free(self) -> int:
        return self.slots - self.active

    @property
    def pages(self) -> tuple[PageT | None, ...]:
        """Who stands in each row of the next step."""
        return tuple(self._pages)

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(self._lengths)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays(range(self._config.num_hidden_layers)))

    def tokens(self, lengths: Sequence[int]) -> int:
        """How many tokens the cache must hold room for when pages have these lengths."""
        return shelf_tokens(lengths, [shelf.rows for shelf in self._shelves])

    @property
    def allocated(self) -> int:
        """How many tokens the cache holds room for now."""
        return sum(shelf.rows * shelf.capacity for shelf in self._shelves)

    @property
    def growth(self) -> int:
        """For how many tokens more it would have to hold room in the next step."""
        tokens = 0
        for number, shelf in enumerate(self._shelves):
            longest = self._longest_on(number)
            if longest >= shelf.capacity > 0:
                tokens += shelf.rows * (shelf_length(longest + 1) - shelf.capacity)
        return tokens

    def arrays(self, layers: Iterable[int]) -> list[mx.array]:
        """The arrays of some layers, for evaluation together with what was computed from them."""
        shelves = [shelf for shelf in self._shelves if shelf.capacity]
        return [shelf.layers[layer] for layer in layers for shelf in shelves]

    def insert(self, pages: Sequence[PageT], lengths: Sequence[int]) -> PromptPass:
        """Give rows to prompts of `lengths`; the returned pass fills them. Call it when nothing is computed.

        Raises:
            ValueError: More prompts than free slots, or one longer than a row can hold.
        """
        if len(lengths) > self.free or max(lengths, default=0) > self.max_length:
            raise ValueError(
                f"{len(lengths)} prompts of up to {max(lengths)} tokens don't fit "
                f"{self.free} free slots of {self.max_length} tokens"
            )
        self.settle()
        rows = [0] * len(pages)
        for place in sorted(range(len(pages)), key=lambda place: -lengths[place]):  # none displaces another
            rows[place] = row = self._make_room(lengths[place])
            self._pages[row], self._lengths[row] = pages[place], lengths[place]
            self._place(row)[0].reserve(lengths[place])
        return PromptPass(tuple(map(self._place, rows)), tuple(lengths), self._backend.prefill)

    def step(self) -> StepPass:
        """Make room for one more token of every page; the returned pass writes and reads it.

        Raises:
            ValueError: A page's row is full.
        """
        if max(self._lengths) >= self.max_length:
            raise ValueError(f"a row of {self.max_length} tokens is full")
        self._lengths = [length + 1 if length else 0 for length in self._lengths]
        rows = len(self._lengths)
        if self._backend.shared_shapes:
            rows = min(shared_row_count(rows), self.slots)
        lengths = [max(length, 1) for length in self._lengths] + [1] * (rows - len(self._lengths))
        used = [
            (shelf, slice(first, min(first + shelf.rows, rows)))
            for shelf, first in zip(self._shelves, self._firsts, strict=False)
            if first < rows
        ]
        for shelf, here in used:
            shelf.reserve(max(lengths[here]))
        table = self._next_table(used, lengths)
        shelves = tuple(shelf for shelf, _ in used)
        shapes, arrays = zip(
            *(self._part(shelf, lengths[here], table[here]) for shelf, here in used), strict=True
        )
        return StepPass(shelves, StepShape(shapes), list(arrays), table[:, -1])

    def _next_table(self, used: Sequence[tuple[Shelf, slice]], lengths: Sequence[int]) -> mx.array:
        """The step's table: that of the last step, counted on by one token a row, where this is the same."""
        capacities = tuple(shelf.capacity for shelf, _ in used)
        table = self._table and self._table.counted_on(self._lengths, len(lengths), capacities)
        if table is None:
            column = np.array(lengths, np.int32)
            places = np.concatenate([shelf.step_places(column[here]) for shelf, here in used])
            array = mx.array(np.concatenate([places, column[:, None]], axis=1))
            table = StepTable(array, tuple(self._lengths), capacities)
        self._table = table
        return table.array

    def remove(self, page: PageT) -> bool:
        """Forget a page; its row is a hole until `settle`. False if the page has no row."""
        if page not in self._pages:
            return False
        row = self._pages.index(page)
        self._pages[row], self._lengths[row] = None, 0
        self._trim()
        return True

    @property
    def unsettled(self) -> bool:
        """Whether filling the holes would make the next steps smaller by more than it costs."""
        return self.holes >= min(_ROWS_SHARED, max(1, len(self._lengths) // 2))

    def settle(self, tightly: bool = False) -> None:
        """Fill the holes. Call it when nothing is computed: what is being read can't be updated in place.

        Args:
            tightly: Give back all that no page needs, not only what is far too much.
        """
        while self.holes:
            self._fill(self._lengths.index(0))
        in_use = self._number(len(self._lengths) - 1) + 1 if self._lengths else 0
        for number, shelf in enumerate(self._shelves):
            if number < in_use:
                shelf.shrink(self._longest_on(number), tightly)
            elif tightly or number > in_use:  # the next one is kept, for it may be wanted again soon
                shelf.drop()

    def _fill(self, hole: int) -> None:
        """Move the longest page of each later shelf one shelf forward, then the last row into the gap."""
        last = len(self._lengths) - 1
        for shelf in range(self._number(hole) + 1, self._number(last) + 1):
            longest = max(self._rows_on(shelf), key=self._lengths.__getitem__)
            self._move(longest, hole)
            hole = longest
        if hole != last:
            self._move(last, hole)
        self._trim()

    def _make_room(self, length: int) -> int:
        """A new row for a page of `length`: pages that are shorter move to a later shelf for it."""
        hole = len(self._lengths)
        self._pages.append(None)
        self._lengths.append(0)
        for shelf in range(self._number(hole) - 1, -1, -1):
            shortest = min(self._rows_on(shelf), key=self._lengths.__getitem__)
            if shelf_length(self._lengths[shortest]) >= shelf_length(length):
                break
            self._move(shortest, hole)
            hole = shortest
        return hole

    def _move(self, source: int, target: int) -> None:
        length = self._lengths[source]
        if length:
            shelf, row = self._place(target)
            shelf.reserve(length)
            shelf.copy_row(row, *self._place(source), length)
        self._pages[target], self._lengths[target] = self._pages[source], length
        self._pages[source], self._lengths[source] = None, 0

    def _trim(self) -> None:
        """A hole at the end is no row."""
        while self._lengths and not self._lengths[-1]:
            self._pages.pop()
            self._lengths.pop()

    def _number(self, row: int) -> int:
        """Which shelf a row stands on."""
        return bisect_right(self._firsts, row) - 1

    def _place(self, row: int) -> tuple[Shelf, int]:
        """A row's shelf, and its row there."""
        number = self._number(row)
        return self._shelves[number], row - self._firsts[number]

    def _rows_on(self, number: int) -> range:
        return range(self._firsts[number], min(self._firsts[number + 1], len(self._lengths)))

    def _longest_on(self, number: int) -> int:
        """Tokens of the longest page on a shelf, 0 on an empty one."""
        return max((self._lengths[row] for row in self._rows_on(number)), default=0)

    def _part(self, shelf: Shelf, lengths: Sequence[int], table: mx.array) -> tuple[ShelfShape, ShelfArrays]:
        """A step's part on one shelf. `table` [n, 2 * kv_heads + 1] has the places where its rows write, and
        their `lengths` in its last column."""
        window = min(window_length(max(lengths)), shelf.capacity)
        form = self._backend.decode_attention
        heads = self._config.num_attention_heads, self._config.num_key_value_heads
        view = decode_view(lengths, table[:, -1], window, form, self._dtype, heads)
        places = table[:, :-1].reshape(len(lengths), -1, 2)
        return ShelfShape(shelf.rows, len(lengths), window, form), (places, view.mask)

    def row(self, layer: int, row: int) -> tuple[mx.array, mx.array]:
        """One row's keys and values in a layer, each [kv_heads, capacity, d]; for tests."""
        shelf, here = self._place(row)
        keys, values = shelf.whole(layer)[:, here]
        return keys, values

    def check(self) -> None:
        """Raise AssertionError if the books don't agree with the arrays; cheap, reads no array's contents."""
        assert len(self._pages) == len(self._lengths) <= self.slots, "more rows than slots"
        assert not self._lengths or self._lengths[-1], "the last row is a hole"
        config = self._config
        for number, shelf in enumerate(self._shelves):
            longest = self._longest_on(number)
            assert longest <= min(shelf.capacity, self.max_length), f"a row of {longest} in {shelf.capacity}"
            shape = (2 * shelf.rows * config.num_key_value_heads * shelf.capacity, config.head_dim)
            layers = config.num_hidden_layers if shelf.capacity else 0
            assert len(shelf.layers) == layers, "a layer's array is missing"
            assert all(array.shape == shape for array in shelf.layers), "an array has lost its shape"
        for page, length in zip(self._pages, self._lengths, strict=True):
            assert (page is None) == (length == 0), "a hole has tokens, or a page has none"
