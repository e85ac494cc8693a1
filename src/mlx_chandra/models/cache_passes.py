"""Passes over the cache's rows: what prompts and decode steps write there, and what of it they attend to."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import mlx.core as mx

from mlx_chandra.models.attention import DecodeView, decode_attention, segment_attention
from mlx_chandra.models.backend import DecodeAttention, PrefillForm
from mlx_chandra.models.constants import constant
from mlx_chandra.models.rounded import together
from mlx_chandra.models.shelves import Shelf, first_entries

# of a step on one shelf: int32 [n, kv_heads, 2], where it writes keys and values, and its DecodeView's mask;
# no dataclass, because mx.compile takes none
ShelfArrays = tuple[mx.array, mx.array | None]

_MOST_COUNTED = 200  # steps; a hole is as long as that then, and no shelf is shorter


@dataclass(frozen=True)
class StepTable:
    """What the device has to know of a step's rows.

    Arrays from the host are dear where they are made at every step: they cost the device a pause. Nearly all
    steps add one token to every row, and then the table of the last one is counted on where it is.

    Attributes:
        array: int32 [n, 2 * kv_heads + 1], where each head's key and then its value is written, and in the
            last column the row's length.
        lengths: Of the rows that pages have stood in, on the host; 0 in a hole.
        capacities: Of the shelves that are used.
        steps: How often it was counted on.
    """

    array: mx.array
    lengths: tuple[int, ...]
    capacities: tuple[int, ...]
    steps: int = 0

    def counted_on(
        self, lengths: Sequence[int], rows: int, capacities: tuple[int, ...]
    ) -> "StepTable | None":
        """The table of the next step; None where more has changed than one token in every row."""
        expected = [length + 1 if length else 0 for length in self.lengths]
        same = (rows, capacities) == (self.array.shape[0], self.capacities) and expected == list(lengths)
        if not same or self.steps == _MOST_COUNTED:
            return None
        return StepTable(self.array + constant(1, mx.int32), tuple(lengths), capacities, self.steps + 1)


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

    def attend_joined(self, layer: int, queries: mx.array, joined: mx.array) -> mx.array:
        return self.attend(layer, queries, joined[:, :, 0], joined[:, :, 1])


@dataclass(frozen=True)
class ShelfShape:
    """What one shelf's part of a decode step is, but for its arrays.

    Attributes:
        shelf_rows: Rows that the shelf has.
        rows: The step's rows on it, the first ones.
        window: How far it reads into them.
        form: The backend's form of attention.
    """

    shelf_rows: int
    rows: int
    window: int
    form: DecodeAttention

    def attend(self, kept: mx.array, arrays: ShelfArrays, queries: mx.array) -> mx.array:
        """Attend to what is `kept`, the shelf's array of a layer."""
        places, mask = arrays
        keys, values = first_entries(kept, self.shelf_rows, places.shape[1], self.rows, self.window)
        view = DecodeView(self.window, mask, self.form)
        return decode_attention(queries.astype(kept.dtype), keys, values, view).astype(queries.dtype)


@dataclass(frozen=True)
class StepShape:
    """What a decode step is, but for its arrays; so it can be compiled once for all steps that are alike."""

    shelves: tuple[ShelfShape, ...]

    @property
    def rows(self) -> int:
        return sum(shelf.rows for shelf in self.shelves)

    def shares(self, x: mx.array) -> list[mx.array]:
        """What of x [n, ...] belongs to each shelf."""
        if len(self.shelves) == 1:
            return [x]
        ends = list(accumulate(shelf.rows for shelf in self.shelves))
        return list(mx.split(x, ends[:-1]))

    def attend_joined(
        self, kept: list[mx.array], arrays: list[ShelfArrays], queries: mx.array, joined: mx.array
    ) -> tuple[mx.array, list[mx.array]]:
        """One layer's `AttentionPass.attend_joined`, for the shelves' arrays of that layer and of the step.

        Args:
            joined: Finite and of the cache's dtype.

        Returns:
            [n, heads * d], and what the shelves keep now.
        """
        outputs = []
        shares = zip(self.shelves, kept, arrays, self.shares(queries), self.shares(joined), strict=True)
        for shelf, array, (places, mask), q, kv in shares:
            array[places] = kv
            outputs.append(shelf.attend(array, (places, mask), q))
        return together(outputs, self.rows), kept


@dataclass(frozen=True)
class StepPass:
    """One decode step of all rows, holes and rows added for a shared shape included.

    Attributes:
        shelves: Those that it uses.
        shape: What it does on them.
        arrays: What of that all layers share.
        lengths: int32 [n] on the device, each row's with this step's token; anything in a hole.
    """

    shelves: tuple[Shelf, ...]
    shape: StepShape
    arrays: list[ShelfArrays]
    lengths: mx.array

    @property
    def rows(self) -> int:
        return self.lengths.shape[0]

    def kept(self, layer: int) -> list[mx.array]:
        """The shelves' arrays of a layer."""
        return [shelf.layers[layer] for shelf in self.shelves]

    def keep(self, layer: int, kept: list[mx.array]) -> None:
        """Put others in their place."""
        for shelf, array in zip(self.shelves, kept, strict=True):
            shelf.layers[layer] = array

    def attend(self, layer: int, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        outputs = []
        shares = zip(*map(self.shape.shares, (queries, keys, values)), strict=True)
        parts = zip(self.shelves, self.shape.shelves, self.arrays, shares, strict=True)
        for shelf, shape, arrays, (q, k, v) in parts:
            shelf.write_step(layer, arrays[0], k, v)
            outputs.append(shape.attend(shelf.layers[layer], arrays, q))
        return together(outputs, self.rows)

    def attend_joined(self, layer: int, queries: mx.array, joined: mx.array) -> mx.array:
        attended, kept = self.shape.attend_joined(self.kept(layer), self.arrays, queries, joined)
        self.keep(layer, kept)
        return attended
