"""Keys and values of the pages in work: arrays for buckets of slots, and the passes over them.

Slots are grouped into buckets, each as long as its own longest page needs. One array for all slots would be
as long as the longest page of all, and a decode step would read every slot to that length. Which page has
which slot is decided in `models/slots.py`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import mlx.core as mx
import numpy as np

from mlx_chandra.models.attention import Attend, AttentionForm, constant, together
from mlx_chandra.models.config import TextConfig
from mlx_chandra.models.rope import IntArray
from mlx_chandra.models.slots import Place, bucket_length

_WINDOW_STEP = 64
_MOST_ADVANCES = 200  # of a step's table: an empty slot's length grows with it, and no bucket is shorter

# Of a step's part in one bucket: where its rows write keys and values, int32 [n, kv_heads, 2], and its mask.
# No dataclass, because mx.compile takes none.
BucketArrays = tuple[mx.array, mx.array]


def bytes_per_token(config: TextConfig, dtype: mx.Dtype) -> int:
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * dtype.size


def window_length(tokens: int) -> int:
    """Return how far a step reads into a bucket whose longest page has so many tokens."""
    return -(-tokens // _WINDOW_STEP) * _WINDOW_STEP


def finite(x: mx.array, dtype: mx.Dtype) -> mx.array:
    """Return x as `dtype`, without what is no number where that is float16.

    In float16 a page can overflow. What is no number would outlive the page in its slot and reach the next
    one through masked places (0 * inf).
    """
    return mx.nan_to_num(x.astype(dtype)) if dtype == mx.float16 else x


class Bucket:
    """Keys and values of a few slots in all layers.

    A layer's keys and values are one array, which is less to launch; all keys come first, because attention
    wants them side by side.
    """

    def __init__(self, config: TextConfig, slots: int, dtype: mx.Dtype) -> None:
        self.slots, self.capacity = slots, 0
        self._config, self._dtype = config, dtype
        self.layers: list[mx.array] = []  # each [2 * slots * kv_heads * capacity, d]

    def whole(self, layer: int) -> mx.array:
        """Return a layer's keys and values as [2, slots, kv_heads, capacity, d]."""
        return self.layers[layer].reshape(self._shape(self.capacity))

    def reserve(self, tokens: int) -> None:
        """Let every slot hold at least `tokens`; what is in them stays."""
        if tokens <= self.capacity:
            return
        capacity = bucket_length(tokens)
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
        """Give back what pages of at most `tokens` don't need; if not `tightly`, only more than half."""
        capacity = bucket_length(tokens)
        if self.capacity <= (1 if tightly else 2) * capacity:
            return
        for layer in range(len(self.layers)):
            self._replace(layer, mx.contiguous(self.whole(layer)[:, :, :, :capacity]))
        self.capacity = capacity

    def drop(self) -> None:
        self.capacity, self.layers = 0, []

    def write_prompt(self, layer: int, slot: int, keys: mx.array, values: mx.array) -> None:
        """Put a prompt's keys and values [length, kv_heads, d] at the start of a slot."""
        length, whole = keys.shape[0], self.whole(layer)
        whole[0, slot, :, :length] = finite(keys, self._dtype).swapaxes(0, 1)
        whole[1, slot, :, :length] = finite(values, self._dtype).swapaxes(0, 1)
        self.layers[layer] = self._flat(whole)

    def step_places(self, lengths: IntArray) -> IntArray:
        """Return where the newest tokens of slots of `lengths` [n], these included, go in a layer's array.

        Returns:
            [n, 2 * kv_heads], the place of each head's key and then of its value.
        """
        heads = self._config.num_key_value_heads
        rows = np.arange(len(lengths), dtype=np.int32)[:, None] * heads + np.arange(heads, dtype=np.int32)
        keys = rows * self.capacity + (lengths - 1)[:, None]
        values = keys + self.slots * heads * self.capacity
        return np.stack([keys, values], axis=-1).reshape(len(lengths), -1).astype(np.int32)

    def write_step(self, layer: int, places: mx.array, keys: mx.array, values: mx.array) -> None:
        """Put one token's keys and values [n, kv_heads, d] at their places, from `step_places`."""
        array = self.layers[layer]
        array[places[:, :, 0]] = finite(keys, self._dtype)
        array[places[:, :, 1]] = finite(values, self._dtype)

    def copy_slot(self, slot: int, source: "Bucket", source_slot: int, length: int) -> None:
        """Copy the first `length` entries of another bucket's (or this one's) slot to a slot of this one."""
        # Copied out and computed first: while a part of an array is still to be read, MLX copies the whole
        # array instead of writing into it. (Times 1, because a part alone is no copy.)
        layers = range(len(self.layers))
        entries = [source.whole(layer)[:, source_slot, :, :length] * 1 for layer in layers]
        mx.eval(entries)
        for layer, copied in zip(layers, entries, strict=True):
            whole = self.whole(layer)
            whole[:, slot, :, :length] = copied
            self.layers[layer] = self._flat(whole)

    def check(self, longest: int) -> None:
        """Raise AssertionError if the arrays don't fit a page of `longest` tokens, or each other."""
        assert longest <= self.capacity, f"a slot of {longest} in {self.capacity}"
        layers = self._config.num_hidden_layers if self.capacity else 0
        assert len(self.layers) == layers, "a layer's array is missing"
        width, heads = self._config.head_dim, self._config.num_key_value_heads
        shape = (2 * self.slots * heads * self.capacity, width)
        assert all(array.shape == shape for array in self.layers), "an array has lost its shape"

    def _shape(self, capacity: int) -> tuple[int, int, int, int, int]:
        return 2, self.slots, self._config.num_key_value_heads, capacity, self._config.head_dim

    def _flat(self, whole: mx.array) -> mx.array:
        return whole.reshape(-1, self._config.head_dim)

    def _replace(self, layer: int, whole: mx.array) -> None:
        """Put another array in a layer's place, computed at once: only one layer is in memory twice."""
        self.layers[layer] = self._flat(whole)
        mx.eval(self.layers[layer])


@dataclass(frozen=True)
class PromptPass:
    """Prefill of new slots: causal attention inside each prompt, keys and values stored."""

    targets: tuple[tuple[Bucket, int], ...]  # each prompt's bucket, and its slot there
    lengths: tuple[int, ...]
    form: AttentionForm

    def attend(self, layer: int, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        start = 0
        for (bucket, slot), length in zip(self.targets, self.lengths, strict=True):
            bucket.write_prompt(layer, slot, keys[start : start + length], values[start : start + length])
            start += length
        attend: Attend = self.form.segments(self.lengths, len(queries), True, queries.dtype)
        return attend(queries, keys, values)


@dataclass(frozen=True)
class BucketShape:
    """A decode step's part in one bucket, without its arrays."""

    slots: int  # of the bucket
    rows: int  # of the step: the bucket's first slots
    window: int  # how far it reads into them

    def entries(self, kept: mx.array, kv_heads: int) -> tuple[mx.array, mx.array]:
        """Return the keys and the values that the step reads, each [rows, kv_heads, window, d]."""
        side_by_side = kept.reshape(2 * self.slots, kv_heads, -1, kept.shape[-1])
        keys, values = side_by_side[: self.rows], side_by_side[self.slots : self.slots + self.rows]
        return keys[:, :, : self.window], values[:, :, : self.window]


@dataclass(frozen=True)
class StepShape:
    """A decode step without its arrays, so that steps of one shape share a compiled function."""

    buckets: tuple[BucketShape, ...]
    form: AttentionForm

    @property
    def rows(self) -> int:
        return sum(bucket.rows for bucket in self.buckets)

    def split(self, x: mx.array) -> list[mx.array]:
        if len(self.buckets) == 1:
            return [x]
        ends = list(accumulate(bucket.rows for bucket in self.buckets))
        return list(mx.split(x, ends[:-1]))

    def attend(self, kept: list[mx.array], arrays: list[BucketArrays], queries: mx.array) -> mx.array:
        """Attend to what the buckets keep of a layer: [n, heads * d]."""
        outputs = []
        parts = zip(self.buckets, kept, arrays, self.split(queries), strict=True)
        for bucket, array, (places, mask), q in parts:
            keys, values = bucket.entries(array, places.shape[1])
            outputs.append(self.form.step(q.astype(array.dtype), keys, values, mask).astype(q.dtype))
        return together(outputs, self.rows)

    def attend_joined(
        self, kept: list[mx.array], arrays: list[BucketArrays], queries: mx.array, joined: mx.array
    ) -> tuple[mx.array, list[mx.array]]:
        """Store keys and values [n, kv_heads, 2, d], finite and of the cache's dtype, and attend.

        Returns:
            [n, heads * d], and what the buckets keep of the layer now.
        """
        for array, (places, _), kv in zip(kept, arrays, self.split(joined), strict=True):
            array[places] = kv
        return self.attend(kept, arrays, queries), kept


@dataclass(frozen=True)
class StepPass:
    """One decode step over all slots, empty ones and padded rows included."""

    buckets: tuple[Bucket, ...]  # those that it uses
    shape: StepShape
    arrays: list[BucketArrays]  # for all layers
    lengths: mx.array  # int32 [n], each slot's with this token; anything for an empty one

    @property
    def rows(self) -> int:
        return self.lengths.shape[0]

    def kept(self, layer: int) -> list[mx.array]:
        return [bucket.layers[layer] for bucket in self.buckets]

    def keep(self, layer: int, kept: list[mx.array]) -> None:
        for bucket, array in zip(self.buckets, kept, strict=True):
            bucket.layers[layer] = array

    def attend(self, layer: int, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        parts = zip(self.buckets, self.arrays, self.shape.split(keys), self.shape.split(values), strict=True)
        for bucket, (places, _), k, v in parts:
            bucket.write_step(layer, places, k, v)
        return self.shape.attend(self.kept(layer), self.arrays, queries)


@dataclass(frozen=True)
class StepTable:
    """What the device needs to know of a step's slots.

    The host makes it only where pages have come, gone or moved. Else the device adds one to the last step's
    table: an array that the host makes at every step would cost the device a pause.
    """

    array: mx.array  # int32 [n, 2 * kv_heads + 1], where each head's key and value go, and the slot's length
    lengths: tuple[int, ...]  # of the slots on the host; 0 for an empty one
    capacities: tuple[int, ...]  # of the buckets that are used
    advances: int = 0  # how often one was added


class KeyValueCache:
    """The buckets of all slots, of `sizes` slots each; `dtype` is that of keys and values."""

    def __init__(
        self, config: TextConfig, sizes: Sequence[int], dtype: mx.Dtype, form: AttentionForm
    ) -> None:
        self.buckets = [Bucket(config, slots, dtype) for slots in sizes]
        self._config, self._dtype, self._form = config, dtype, form
        self._table: StepTable | None = None  # of the last step

    def arrays(self, layers: Iterable[int]) -> list[mx.array]:
        """Return the arrays of some layers, for evaluation together with what was computed from them."""
        buckets = [bucket for bucket in self.buckets if bucket.capacity]
        return [bucket.layers[layer] for layer in layers for bucket in buckets]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays(range(self._config.num_hidden_layers)))

    def copy(self, source: Place, target: Place, length: int) -> None:
        bucket = self.buckets[target.bucket]
        bucket.reserve(length)
        bucket.copy_slot(target.slot, self.buckets[source.bucket], source.slot, length)

    def prompt_pass(self, places: Sequence[Place], lengths: Sequence[int]) -> PromptPass:
        for place, length in zip(places, lengths, strict=True):
            self.buckets[place.bucket].reserve(length)
        targets = tuple((self.buckets[place.bucket], place.slot) for place in places)
        return PromptPass(targets, tuple(lengths), self._form)

    def step_pass(self, lengths: Sequence[int], rows: int) -> StepPass:
        """Make room for a step over the first `rows` slots, at least those of `lengths` [n].

        A length counts this step's token, and is 0 for an empty slot.
        """
        padded = [max(length, 1) for length in lengths] + [1] * (rows - len(lengths))
        firsts = [0, *accumulate(bucket.slots for bucket in self.buckets)]
        used = [
            (bucket, slice(first, min(first + bucket.slots, rows)))
            for bucket, first in zip(self.buckets, firsts, strict=False)
            if first < rows
        ]
        for bucket, here in used:
            bucket.reserve(max(padded[here]))
        table = self._next_table(used, lengths, padded)
        parts = [self._part(bucket, padded[here], table[here]) for bucket, here in used]
        shape = StepShape(tuple(shape for shape, _ in parts), self._form)
        buckets = tuple(bucket for bucket, _ in used)
        return StepPass(buckets, shape, [arrays for _, arrays in parts], table[:, -1])

    def _next_table(
        self, used: Sequence[tuple[Bucket, slice]], lengths: Sequence[int], padded: Sequence[int]
    ) -> mx.array:
        """Return the last step's table with one added, or a new one where more has changed."""
        capacities, last = tuple(bucket.capacity for bucket, _ in used), self._table
        if last is not None and last.advances < _MOST_ADVANCES and last.capacities == capacities:
            expected = [length + 1 if length else 0 for length in last.lengths]
            if len(last.array) == len(padded) and expected == list(lengths):
                array = last.array + constant(1, mx.int32)
                self._table = StepTable(array, tuple(lengths), capacities, last.advances + 1)
                return array
        column = np.array(padded, np.int32)
        places = np.concatenate([bucket.step_places(column[here]) for bucket, here in used])
        array = mx.array(np.concatenate([places, column[:, None]], axis=1))
        self._table = StepTable(array, tuple(lengths), capacities)
        return array

    def _part(
        self, bucket: Bucket, lengths: Sequence[int], table: mx.array
    ) -> tuple[BucketShape, BucketArrays]:
        window = min(window_length(max(lengths)), bucket.capacity)
        heads, kv_heads = self._config.num_attention_heads, self._config.num_key_value_heads
        mask = self._form.step_mask(table[:, -1], window, heads, kv_heads, self._dtype)
        places = table[:, :-1].reshape(len(lengths), -1, 2)
        return BucketShape(bucket.slots, len(lengths), window), (places, mask)
