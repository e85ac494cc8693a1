"""Keys and values of the pages in work: one slot a page, written in place, freed by forgetting it.

Active pages always occupy rows 0 to n-1, so that a step reads the cache's front without gathering; when a
page leaves and nobody takes its row at once, the last row moves into the gap (one page's entries are copied,
nothing else). The arrays grow when the longest page needs it. Who gets a slot and when is the engine's
business.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_chandra.models.attention import DecodeView, decode_attention, decode_view, segment_attention
from mlx_chandra.models.backend import Backend, PrefillForm
from mlx_chandra.models.config import TextConfig

GROWTH = 256  # tokens; capacities and windows are multiples, so that steps share their shapes


def _round_up(tokens: int, multiple: int) -> int:
    return -(-tokens // multiple) * multiple


def window_size(tokens: int) -> int:
    """The decode window for a longest page of `tokens`: few different sizes, little read in vain."""
    return _round_up(tokens, 64 if tokens <= 512 else GROWTH)


class KeyValueCache:
    """Slots of keys and values for all layers.

    Args:
        config: Says layers, heads and head size.
        slots: Pages in work at once, at most.
        max_length: Tokens that one slot may come to hold.
        dtype: Of keys and values.
    """

    def __init__(
        self, config: TextConfig, slots: int, max_length: int, dtype: mx.Dtype, backend: Backend
    ) -> None:
        self.slots, self.max_length = slots, max_length
        self._config, self._dtype, self._backend = config, dtype, backend
        self._capacity = 0
        self._keys: list[mx.array] = []  # per layer [slots, kv_heads, capacity, d]
        self._values: list[mx.array] = []
        self._lengths: list[int] = []  # tokens in each active row

    @staticmethod
    def bytes_per_token(config: TextConfig, dtype: mx.Dtype) -> int:
        return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * dtype.size

    @property
    def active(self) -> int:
        """Rows in use: 0 to active-1."""
        return len(self._lengths)

    @property
    def free(self) -> int:
        return self.slots - self.active

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(self._lengths)

    @property
    def arrays(self) -> list[mx.array]:
        """All arrays, for evaluation together with what was computed from them."""
        return [*self._keys, *self._values]

    def halves(self, middle: int) -> tuple[list[mx.array], list[mx.array]]:
        """The arrays of the layers before `middle`, and of the others."""
        return (
            [*self._keys[:middle], *self._values[:middle]],
            [*self._keys[middle:], *self._values[middle:]],
        )

    def insert(self, lengths: Sequence[int]) -> "PromptPass":
        """Take the next rows for prompts of `lengths`; the returned pass fills them.

        Raises:
            ValueError: More prompts than free slots, or one longer than a slot can hold.
        """
        if len(lengths) > self.free or max(lengths, default=0) > self.max_length:
            raise ValueError(
                f"{len(lengths)} prompts of up to {max(lengths)} tokens don't fit "
                f"{self.free} free slots of {self.max_length} tokens"
            )
        first = self.active
        self._lengths.extend(lengths)
        self._reserve(max(lengths))
        return PromptPass(self, first, tuple(lengths), self._backend.prefill)

    def step(self) -> "StepPass":
        """Make room for one more token in every active row; the returned pass writes and reads it.

        Raises:
            ValueError: A slot is full.
        """
        if max(self._lengths) >= self.max_length:
            raise ValueError(f"a slot of {self.max_length} tokens is full")
        self._lengths = [length + 1 for length in self._lengths]
        longest = max(self._lengths)
        self._reserve(longest)
        window = min(window_size(longest), self._capacity)
        return StepPass(self, decode_view(self._lengths, window, self._backend.decode_attention, self._dtype))

    def remove(self, row: int) -> int | None:
        """Free a row; the last one moves there.

        Returns:
            The row that moved into `row`, or None where none had to.
        """
        last = self.active - 1
        length = self._lengths.pop()
        if row == last:
            return None
        self._lengths[row] = length
        for arrays in (self._keys, self._values):
            for array in arrays:
                array[row, :, :length] = array[last, :, :length]
        return last

    def write_prompt(self, layer: int, row: int, keys: mx.array, values: mx.array) -> None:
        """Put a prompt's keys and values [length, kv_heads, d] at the start of a row."""
        length = keys.shape[0]
        self._keys[layer][row, :, :length] = self._finite(keys).swapaxes(0, 1)
        self._values[layer][row, :, :length] = self._finite(values).swapaxes(0, 1)

    def write_step(self, layer: int, view: DecodeView, keys: mx.array, values: mx.array) -> None:
        """Put one token's keys and values [n, kv_heads, d] at the end of the first n rows."""
        rows = mx.arange(len(view.lengths))
        ends = mx.array(view.lengths) - 1
        self._keys[layer][rows, :, ends] = self._finite(keys)
        self._values[layer][rows, :, ends] = self._finite(values)

    def _finite(self, x: mx.array) -> mx.array:
        """What may be stored: in float16 a page can overflow, and what isn't a number would outlive it in its
        row and reach later pages through places that are masked there (0 * inf)."""
        return mx.nan_to_num(x) if self._dtype == mx.float16 else x

    def layer(self, layer: int) -> tuple[mx.array, mx.array]:
        """One layer's keys and values, each [slots, kv_heads, capacity, d]."""
        return self._keys[layer], self._values[layer]

    def check(self) -> None:
        """Raise AssertionError if the books don't agree with the arrays; cheap, reads no array's contents."""
        assert 0 <= self.active <= self.slots, f"{self.active} rows in use of {self.slots}"
        longest = max(self._lengths, default=0)
        assert longest <= min(self._capacity, self.max_length), f"a row of {longest} in {self._capacity}"
        assert all(length > 0 for length in self._lengths), "an active row is empty"
        shape = (self.slots, self._config.num_key_value_heads, self._capacity, self._config.head_dim)
        layers = self._config.num_hidden_layers if self._capacity else 0
        assert len(self._keys) == len(self._values) == layers, "a layer's arrays are missing"
        assert all(array.shape == shape for array in self.arrays), "an array has lost its shape"

    def _reserve(self, tokens: int) -> None:
        """Let every row hold at least `tokens`; what is in them stays."""
        if tokens <= self._capacity:
            return
        capacity = min(
            _round_up(max(tokens, self._capacity * 5 // 4), GROWTH), _round_up(self.max_length, GROWTH)
        )
        more = (
            self.slots,
            self._config.num_key_value_heads,
            capacity - self._capacity,
            self._config.head_dim,
        )
        for arrays in (self._keys, self._values):
            if not arrays:
                arrays.extend(mx.zeros(more, self._dtype) for _ in range(self._config.num_hidden_layers))
                continue
            for layer, old in enumerate(arrays):
                arrays[layer] = mx.concatenate([old, mx.zeros(more, self._dtype)], axis=2)
                mx.eval(arrays[layer])  # one layer at a time: only one is in memory twice
        self._capacity = capacity


@dataclass(frozen=True)
class PromptPass:
    """Prefill of new rows: causal attention inside each prompt, keys and values kept."""

    cache: KeyValueCache
    first_row: int
    lengths: tuple[int, ...]
    form: PrefillForm

    def attend(self, layer: int, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        start = 0
        for row, length in enumerate(self.lengths, self.first_row):
            self.cache.write_prompt(layer, row, keys[start : start + length], values[start : start + length])
            start += length
        return segment_attention(queries, keys, values, self.lengths, True, self.form)


@dataclass(frozen=True)
class StepPass:
    """One decode step of all active rows."""

    cache: KeyValueCache
    view: DecodeView

    def attend(self, layer: int, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        self.cache.write_step(layer, self.view, keys, values)
        cached_keys, cached_values = self.cache.layer(layer)
        return decode_attention(queries, cached_keys, cached_values, self.view)
