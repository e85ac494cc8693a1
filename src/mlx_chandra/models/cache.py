"""Keys and values of the pages in work: one row a page, written in place, freed by forgetting it.

Rows stand on shelves (`models/shelves.py`), the longest pages on the first one, so that a shelf is no longer
than its own pages need, and a step that reads whole windows reads little in vain. All pages grow alike, so
the order only changes where pages come and go: a page that leaves makes a hole, and `settle` fills the holes
by moving a page from each later shelf. Whoever runs the steps calls it when nothing is being computed; until
then a hole is computed along, and what comes out of it is nobody's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import mlx.core as mx
import numpy as np

from mlx_chandra.models.attention import DecodeView, decode_attention, decode_view, segment_attention
from mlx_chandra.models.backend import Backend, PrefillForm
from mlx_chandra.models.config import TextConfig
from mlx_chandra.models.shelves import Shelf, StepPlaces, window_length

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
        self._config, self._dtype, self._backend = config, dtype, backend
        self._rows_each = min(slots, backend.shelf_rows)
        self._shelves = [
            Shelf(config, min(self._rows_each, slots - first), dtype)
            for first in range(0, slots, self._rows_each)
        ]
        self._pages: list[PageT | None] = []  # by row; None in a hole
        self._lengths: list[int] = []  # tokens in each row; 0 in a hole

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

    def arrays(self, layers: Iterable[int]) -> list[mx.array]:
        """The arrays of some layers, for evaluation together with what was computed from them."""
        shelves = [shelf for shelf in self._shelves if shelf.capacity]
        return [array for i in layers for shelf in shelves for array in (shelf.keys[i], shelf.values[i])]

    def insert(self, pages: Sequence[PageT], lengths: Sequence[int]) -> "PromptPass":
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
            self._shelf(row).reserve(lengths[place])
        targets = tuple((self._shelf(row), row % self._rows_each) for row in rows)
        return PromptPass(targets, tuple(lengths), self._backend.prefill)

    def step(self) -> "StepPass":
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
        on_device = mx.array(np.array(lengths, np.int32))
        heads = mx.arange(self._config.num_key_value_heads)[None]
        parts = []
        for first in range(0, rows, self._rows_each):
            here = slice(first, first + self._rows_each)
            parts.append(self._part(self._shelf(first), lengths[here], on_device[here], heads))
        return StepPass(tuple(parts))

    def remove(self, page: PageT) -> bool:
        """Forget a page; its row is a hole until `settle`. False if the page has no row."""
        if page not in self._pages:
            return False
        row = self._pages.index(page)
        self._pages[row], self._lengths[row] = None, 0
        while self._lengths and not self._lengths[-1]:
            self._pages.pop()
            self._lengths.pop()
        return True

    @property
    def unsettled(self) -> bool:
        """Whether filling the holes would make the next steps smaller by more than it costs."""
        return self.holes >= min(_ROWS_SHARED, max(1, len(self._lengths) // 2))

    def settle(self) -> None:
        """Fill the holes. Call it when nothing is computed: what is being read can't be updated in place."""
        while self.holes:
            self._fill(self._lengths.index(0))
        in_use = -(-len(self._lengths) // self._rows_each)
        for shelf in self._shelves[in_use + 1 :]:  # the next one is kept, for it may be wanted again soon
            shelf.drop()

    def _fill(self, hole: int) -> None:
        """Move the longest page of each later shelf one shelf forward, then the last row into the gap."""
        last = len(self._lengths) - 1
        for shelf in range(hole // self._rows_each + 1, last // self._rows_each + 1):
            longest = max(self._rows_on(shelf), key=self._lengths.__getitem__)
            self._move(longest, hole)
            hole = longest
        if hole != last:
            self._move(last, hole)
        self._pages.pop()
        self._lengths.pop()
        while self._lengths and not self._lengths[-1]:
            self._pages.pop()
            self._lengths.pop()

    def _make_room(self, length: int) -> int:
        """A new row for a page of `length`: pages that are shorter move to a later shelf for it."""
        hole = len(self._lengths)
        self._pages.append(None)
        self._lengths.append(0)
        for shelf in range(hole // self._rows_each - 1, -1, -1):
            shortest = min(self._rows_on(shelf), key=self._lengths.__getitem__)
            if window_length(self._lengths[shortest]) >= window_length(length):
                break
            self._move(shortest, hole)
            hole = shortest
        return hole

    def _move(self, source: int, target: int) -> None:
        length = self._lengths[source]
        shelf, from_shelf = self._shelf(target), self._shelf(source)
        if length:
            shelf.reserve(length)
            shelf.copy_row(target % self._rows_each, from_shelf, source % self._rows_each, length)
        self._pages[target], self._lengths[target] = self._pages[source], length
        self._pages[source], self._lengths[source] = None, 0

    def _shelf(self, row: int) -> Shelf:
        return self._shelves[row // self._rows_each]

    def _rows_on(self, shelf: int) -> range:
        first = shelf * self._rows_each
        return range(first, min(first + self._rows_each, len(self._lengths)))

    def _part(
        self, shelf: Shelf, lengths: Sequence[int], on_device: mx.array, heads: mx.array
    ) -> "ShelfStep":
        """A step's part on one shelf; `lengths` of its rows, also `on_device` [n]."""
        shelf.reserve(max(lengths))
        window = min(window_length(max(lengths)), shelf.capacity)
        view = decode_view(lengths, on_device, window, self._backend.decode_attention, self._dtype)
        places = StepPlaces(mx.arange(len(lengths))[:, None], heads, (on_device - 1)[:, None])
        return ShelfStep(shelf, places, view)

    def row(self, layer: int, row: int) -> tuple[mx.array, mx.array]:
        """One row's keys and values in a layer, each [kv_heads, capacity, d]; for tests."""
        shelf = self._shelf(row)
        return shelf.keys[layer][row % self._rows_each], shelf.values[layer][row % self._rows_each]

    def check(self) -> None:
        """Raise AssertionError if the books don't agree with the arrays; cheap, reads no array's contents."""
        assert len(self._pages) == len(self._lengths) <= self.slots, "more rows than slots"
        assert not self._lengths or self._lengths[-1], "the last row is a hole"
        config = self._config
        for number, shelf in enumerate(self._shelves):
            longest = max((self._lengths[row] for row in self._rows_on(number)), default=0)
            assert longest <= min(shelf.capacity, self.max_length), f"a row of {longest} in {shelf.capacity}"
            shape = (shelf.rows, config.num_key_value_heads, shelf.capacity, config.head_dim)
            layers = config.num_hidden_layers if shelf.capacity else 0
            assert len(shelf.keys) == len(shelf.values) == layers, "a layer's arrays are missing"
            assert all(array.shape == shape for array in shelf.arrays), "an array has lost its shape"
        for page, length in zip(self._pages, self._lengths, strict=True):
            assert (page is None) == (length == 0), "a hole has tokens, or a page has none"


@dataclass(frozen=True)
class PromptPass:
    """Prefill of new rows: causal attention inside each prompt, keys and values kept.

    Attributes:
        targets: Each prompt's shelf, and its row there.
        lengths: Tokens of each prompt.
        form: The backend's form of attention.
    """

    targets: tuple[tuple[Shelf, int], ...]
    lengths: tuple[int, ...]
    form: PrefillForm

    def attend(self, layer: int, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        start = 0
        for (shelf, row), length in zip(self.targets, self.lengths, strict=True):
            shelf.write_prompt(layer, row, keys[start : start + length], values[start : start + length])
            start += length
        return segment_attention(queries, keys, values, self.lengths, True, self.form)


@dataclass(frozen=True)
class ShelfStep:
    """One decode step's part on one shelf."""

    shelf: Shelf
    places: StepPlaces
    view: DecodeView

    def attend(self, layer: int, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        self.shelf.write_step(layer, self.places, keys, values)
        return decode_attention(queries, self.shelf.keys[layer], self.shelf.values[layer], self.view)


@dataclass(frozen=True)
class StepPass:
    """One decode step of all rows, holes and rows added for a shared shape included."""

    parts: tuple[ShelfStep, ...]

    @property
    def rows(self) -> int:
        return sum(len(part.view.lengths) for part in self.parts)

    def attend(self, layer: int, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        if len(self.parts) == 1:
            return self.parts[0].attend(layer, queries, keys, values)
        outputs, start = [], 0
        for part in self.parts:
            here = slice(start, start + len(part.view.lengths))
            outputs.append(part.attend(layer, queries[here], keys[here], values[here]))
            start = here.stop
        return mx.concatenate(outputs)
