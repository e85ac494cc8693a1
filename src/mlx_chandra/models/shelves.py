"""The arrays behind the cache's rows: shelves of a few rows, each as long as its own longest page needs.

One array for all pages would have to be as long as the longest of them, and on backends that read a whole
window every page would be read to that length. Which page stands on which shelf is `models/cache.py`'s
business.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_chandra.models.config import TextConfig

_STEPS = ((2048, 256), (4096, 512), (8192, 1024))  # up to so many tokens, lengths are multiples of
_LONGEST_STEP = 2048
_SMALL_WINDOW, _SMALL_STEP = 512, 64


def _round_up(tokens: int, multiple: int) -> int:
    return -(-tokens // multiple) * multiple


def shelf_length(tokens: int) -> int:
    """The capacity of a shelf whose longest page has so many tokens.

    Few different lengths: backends keep a plan for each.
    """
    step = next((step for most, step in _STEPS if tokens <= most), _LONGEST_STEP)
    return _round_up(tokens, step)


def window_length(tokens: int) -> int:
    """How far a step reads into a shelf whose longest page has so many tokens."""
    return _round_up(tokens, _SMALL_STEP) if tokens <= _SMALL_WINDOW else shelf_length(tokens)


def shelf_sizes(slots: int, sizes: Sequence[int]) -> list[int]:
    """The rows of each shelf for so many slots: `sizes` in order, the last one as often as needed."""
    found: list[int] = []
    while slots:
        found.append(min(slots, sizes[min(len(found), len(sizes) - 1)]))
        slots -= found[-1]
    return found


def shelf_tokens(lengths: Sequence[int], sizes: Sequence[int]) -> int:
    """How many tokens shelves of so many rows hold room for when pages of these lengths stand on them."""
    longest_first = sorted(lengths, reverse=True)
    tokens = first = 0
    for rows in sizes:
        if first >= len(longest_first):
            break
        tokens += rows * shelf_length(longest_first[first])
        first += rows
    return tokens


@dataclass(frozen=True)
class StepPlaces:
    """Where a step writes on one shelf: rows [n, 1], heads [1, kv_heads], positions [n, 1] of its keys."""

    rows: mx.array
    heads: mx.array
    positions: mx.array


class Shelf:
    """Keys and values of a few pages in all layers.

    Args:
        config: Says layers, heads and head size.
        rows: Pages that stand here at most.
        dtype: Of keys and values.
    """

    def __init__(self, config: TextConfig, rows: int, dtype: mx.Dtype) -> None:
        self.rows = rows
        self.capacity = 0
        self._config, self._dtype = config, dtype
        self.keys: list[mx.array] = []  # per layer [rows, kv_heads, capacity, d]
        self.values: list[mx.array] = []

    @property
    def arrays(self) -> list[mx.array]:
        return [*self.keys, *self.values]

    def reserve(self, tokens: int) -> None:
        """Let every row hold at least `tokens`; what is in them stays."""
        if tokens <= self.capacity:
            return
        capacity = shelf_length(tokens)
        config = self._config
        more = (self.rows, config.num_key_value_heads, capacity - self.capacity, config.head_dim)
        for arrays in (self.keys, self.values):
            if not arrays:
                arrays.extend(mx.zeros(more, self._dtype) for _ in range(config.num_hidden_layers))
                continue
            for layer, old in enumerate(arrays):
                arrays[layer] = mx.concatenate([old, mx.zeros(more, self._dtype)], axis=2)
                mx.eval(arrays[layer])  # one layer at a time: only one is in memory twice
        self.capacity = capacity

    def shrink(self, tokens: int, tightly: bool) -> None:
        """Give back what rows of `tokens` at most don't need; not `tightly`, if that is more than half."""
        capacity = shelf_length(tokens)
        if self.capacity <= (1 if tightly else 2) * capacity:
            return
        for arrays in (self.keys, self.values):
            for layer, old in enumerate(arrays):
                arrays[layer] = mx.contiguous(old[:, :, :capacity])
                mx.eval(arrays[layer])  # one layer at a time: only one is in memory twice
        self.capacity = capacity

    def drop(self) -> None:
        """Give the memory back; nobody stands here."""
        self.capacity = 0
        self.keys, self.values = [], []

    def write_prompt(self, layer: int, row: int, keys: mx.array, values: mx.array) -> None:
        """Put a prompt's keys and values [length, kv_heads, d] at the start of a row."""
        length = keys.shape[0]
        self.keys[layer][row, :, :length] = self._finite(keys).swapaxes(0, 1)
        self.values[layer][row, :, :length] = self._finite(values).swapaxes(0, 1)

    def write_step(self, layer: int, places: StepPlaces, keys: mx.array, values: mx.array) -> None:
        """Put one token's keys and values [n, kv_heads, d] at their places."""
        self.keys[layer][places.rows, places.heads, places.positions] = self._finite(keys)
        self.values[layer][places.rows, places.heads, places.positions] = self._finite(values)

    def copy_row(self, row: int, source: "Shelf", source_row: int, length: int) -> None:
        """Put the first `length` entries of another shelf's (or this one's) row into a row of this one."""
        # Copied out and computed first: while a piece of an array is still to be read, MLX copies the whole
        # array instead of writing into it. (Times 1, because a piece alone is no copy.)
        entries = [theirs[source_row, :, :length] * 1 for theirs in source.arrays]
        mx.eval(entries)
        for mine, copied in zip(self.arrays, entries, strict=True):
            mine[row, :, :length] = copied

    def _finite(self, x: mx.array) -> mx.array:
        """What may be stored: in float16 a page can overflow, and what isn't a number would outlive it in its
        row and reach later pages through places that are masked there (0 * inf)."""
        return mx.nan_to_num(x) if self._dtype == mx.float16 else x
