"""Passes over the cache's rows: what prompts and decode steps write there, and what of it they attend to."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import mlx.core as mx

from mlx_chandra.models.attention import DecodeView, decode_attention, segment_attention
from mlx_chandra.models.backend import PrefillForm
from mlx_chandra.models.rounded import together
from mlx_chandra.models.shelves import Shelf

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
        return StepTable(self.array + 1, tuple(lengths), capacities, self.steps + 1)


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
class ShelfStep:
    """One decode step's part on one shelf; `places` [n, kv_heads, 2] are where it writes keys and values."""

    shelf: Shelf
    places: mx.array
    view: DecodeView

    @property
    def rows(self) -> int:
        return len(self.view.lengths)

    def attend(self, layer: int, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        self.shelf.write_step(layer, self.places, keys, values)
        return self._attend(layer, queries)

    def attend_joined(self, layer: int, queries: mx.array, joined: mx.array) -> mx.array:
        self.shelf.write_joined_step(layer, self.places, joined)
        return self._attend(layer, queries)

    def _attend(self, layer: int, queries: mx.array) -> mx.array:
        keys, values = self.shelf.seen(layer, self.rows, self.view.window)
        return decode_attention(queries.astype(keys.dtype), keys, values, self.view).astype(queries.dtype)


@dataclass(frozen=True)
class StepPass:
    """One decode step of all rows, holes and rows added for a shared shape included.

    Attributes:
        parts: One for each shelf.
        lengths: int32 [n] on the device, each row's with this step's token; anything in a hole.
    """

    parts: tuple[ShelfStep, ...]
    lengths: mx.array

    @property
    def rows(self) -> int:
        return self.lengths.shape[0]

    def attend(self, layer: int, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        shares = zip(self.parts, *map(self._shares, (queries, keys, values)), strict=True)
        return together([part.attend(layer, q, k, v) for part, q, k, v in shares], self.rows)

    def attend_joined(self, layer: int, queries: mx.array, joined: mx.array) -> mx.array:
        shares = zip(self.parts, self._shares(queries), self._shares(joined), strict=True)
        return together([part.attend_joined(layer, q, kv) for part, q, kv in shares], self.rows)

    def _shares(self, x: mx.array) -> list[mx.array]:
        """What of x [n, ...] each part gets."""
        if len(self.parts) == 1:
            return [x]
        ends = list(accumulate(part.rows for part in self.parts))
        return list(mx.split(x, ends[:-1]))
