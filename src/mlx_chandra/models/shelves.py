"""The arrays behind the cache's rows: shelves of a few rows, each as long as its own longest page needs.

One array for all pages would have to be as long as the longest of them, and on backends that read a whole
window every page would be read to that length. Which page stands on which shelf is `models/cache.py`'s
business.
"""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from mlx_chandra.models.config import TextConfig
from mlx_chandra.models.rope import IntArray

_STEPS = ((2048, 256), (4096, 512), (8192, 1024))  # up to so many tokens, lengths are multiples of
_LONGEST_STEP = 2048
_WINDOW_STEP = 64


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
    return _round_up(tokens, _WINDOW_STEP)


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


def finite(x: mx.array, dtype: mx.Dtype) -> mx.array:
    """What may be stored as `dtype`: in float16 a page can overflow, and what isn't a number would outlive it
    in its row and reach later pages through places that are masked there (0 * inf)."""
    return mx.nan_to_num(x.astype(dtype)) if dtype == mx.float16 else x


def first_entries(
    array: mx.array, shelf_rows: int, kv_heads: int, rows: int, window: int
) -> tuple[mx.array, mx.array]:
    """The first entries of the first rows of a shelf's array, keys and values: each [rows, kv_heads, window,
    d]."""
    side_by_side = array.reshape(2 * shelf_rows, kv_heads, -1, array.shape[-1])
    return side_by_side[:rows, :, :window], side_by_side[shelf_rows : shelf_rows + rows, :, :window]


class Shelf:
    """Keys and values of a few pages in all layers.

    A layer's keys and values are one array: the less there is to launch for a step, the less the host has to
    do. All keys come first, because Metal's attention wants them side by side.

    Args:
        config: Says layers, heads and head size.
        rows: Pages that stand here at most.
        dtype: Of keys and values.
    """

    def __init__(self, config: TextConfig, rows: int, dtype: mx.Dtype) -> None:
        self.rows = rows
        self.capacity = 0
        self._config, self._dtype = config, dtype
        self.layers: list[mx.array] = []  # each [2 * rows * kv_heads * capacity, d]

    def whole(self, layer: int) -> mx.array:
        """A layer's keys and values as [2, rows, kv_heads, capacity, d]."""
        return self.layers[layer].reshape(self._shape(self.capacity))

    def reserve(self, tokens: int) -> None:
        """Let every row hold at least `tokens`; what is in them stays."""
        if tokens <= self.capacity:
            return
        capacity = shelf_length(tokens)
        more = self._shape(capacity - self.capacity)
        if not self.layers:
            layers = range(self._config.num_hidden_layers)
            self.layers = [self._flat(mx.zeros(more, self._dtype)) for _ in layers]
        else:
            for layer in range(len(self.layers)):
                longer = mx.concatenate([self.whole(layer), mx.zeros(more, self._dtype)], axis=3)
                self._replace(layer, longer)
        self.capacity = capacity

    def shrink(self, tokens: int, tightly: bool) -> None:
        """Give back what rows of `tokens` at most don't need; not `tightly`, if that is more than half."""
        capacity = shelf_length(tokens)
        if self.capacity <= (1 if tightly else 2) * capacity:
            return
        for layer in range(len(self.layers)):
            self._replace(layer, mx.contiguous(self.whole(layer)[:, :, :, :capacity]))
        self.capacity = capacity

    def drop(self) -> None:
        """Give the memory back; nobody stands here."""
        self.capacity, self.layers = 0, []

    def write_prompt(self, layer: int, row: int, keys: mx.array, values: mx.array) -> None:
        """Put a prompt's keys and values [length, kv_heads, d] at the start of a row."""
        length = keys.shape[0]
        whole = self.whole(layer)
        whole[0, row, :, :length] = self._finite(keys).swapaxes(0, 1)
        whole[1, row, :, :length] = self._finite(values).swapaxes(0, 1)
        self.layers[layer] = self._flat(whole)

    def step_places(self, lengths: IntArray) -> IntArray:
        """Where the newest tokens of the first n rows go in a layer's array, given their lengths [n] with it:
        the place of each head's key and then of its value [n, 2 * kv_heads].
        """
        heads = self._config.num_key_value_heads
        rows = np.arange(len(lengths), dtype=np.int32)[:, None] * heads + np.arange(heads, dtype=np.int32)
        keys = rows * self.capacity + (lengths - 1)[:, None]
        values = keys + self.rows * heads * self.capacity
        return np.stack([keys, values], axis=-1).reshape(len(lengths), -1).astype(np.int32)

    def write_step(self, layer: int, places: mx.array, keys: mx.array, values: mx.array) -> None:
        """Put one token's keys and values [n, kv_heads, d] at their places, from `step_places`."""
        array = self.layers[layer]
        array[places[:, :, 0]] = self._finite(keys)
        array[places[:, :, 1]] = self._finite(values)

    def copy_row(self, row: int, source: "Shelf", source_row: int, length: int) -> None:
        """Put the first `length` entries of another shelf's (or this one's) row into a row of this one."""
        # Copied out and computed first: while a piece of an array is still to be read, MLX copies the whole
        # array instead of writing into it. (Times 1, because a piece alone is no copy.)
        layers = range(len(self.layers))
        entries = [source.whole(layer)[:, source_row, :, :length] * 1 for layer in layers]
        mx.eval(entries)
        for layer, copied in zip(layers, entries, strict=True):
            whole = self.whole(layer)
            whole[:, row, :, :length] = copied
            self.layers[layer] = self._flat(whole)

    def _shape(self, capacity: int) -> tuple[int, int, int, int, int]:
        return 2, self.rows, self._config.num_key_value_heads, capacity, self._config.head_dim

    def _flat(self, whole: mx.array) -> mx.array:
        return whole.reshape(-1, self._config.head_dim)

    def _replace(self, layer: int, whole: mx.array) -> None:
        """Put another array in a layer's place, computed at once: only one layer is in memory twice."""
        self.layers[layer] = self._flat(whole)
        mx.eval(self.layers[layer])

    def _finite(self, x: mx.array) -> mx.array:
        return finite(x, self._dtype)
