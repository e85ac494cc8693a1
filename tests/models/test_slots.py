"""The slots by their contents: recognisable numbers go in, and are looked for afterwards."""

import random
from dataclasses import dataclass, replace
from typing import cast

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, strategies
from numpy.typing import NDArray

from mlx_chandra.models import cpu, cuda
from mlx_chandra.models.attention import PLAIN, AttentionForm, SegmentPass
from mlx_chandra.models.kv_cache import KeyValueCache, StepTable, bytes_per_token, window_length
from mlx_chandra.models.slots import Place, Slots, bucket_length, bucket_sizes, shared_row_count
from tests.models.parts import text_config

CONFIG = text_config(layers=2, heads=4, kv_heads=2, head_dim=16)
SHORTEST = bucket_length(1)
FORMS = (PLAIN, cpu.ATTENTION, cuda.rounded_form(16))
NAMES = ("plain", "cpu", "cuda")
SETTINGS = list(zip(FORMS, (1, 4, 2), (True, False, True), strict=True))  # bucket sizes, shared shapes


def new_slots(
    slots: int = 4,
    max_length: int = 600,
    *,
    size: int = 4,
    form: AttentionForm = PLAIN,
    shared: bool = False,
    dtype: mx.Dtype = mx.float32,
) -> Slots[int]:
    """Empty slots in buckets of `size`."""
    return Slots(KeyValueCache(CONFIG, bucket_sizes(slots, [size]), dtype, form), max_length, shared)


def stored(slots: Slots[int], layer: int, slot: int) -> tuple[mx.array, mx.array]:
    """One slot's keys and values in a layer, each [kv_heads, capacity, d]."""
    place = slots._place(slot)
    keys, values = slots.cache.buckets[place.bucket].whole(layer)[:, place.slot]
    return keys, values


def marks(page: int, tokens: range, layer: int) -> mx.array:
    """Keys [len(tokens), kv_heads, d] that say whose they are; every one different, exact in float32."""
    base = page * 100_000 + layer * 10_000
    numbers = base + np.array(tokens)[:, None, None] * 10 + np.arange(CONFIG.num_key_value_heads)[:, None]
    return mx.array(np.broadcast_to(numbers, (*numbers.shape[:2], CONFIG.head_dim)).astype(np.float32))


def queries(count: int) -> mx.array:
    return mx.zeros((count, CONFIG.num_attention_heads, CONFIG.head_dim))


def insert(slots: Slots[int], pages: dict[int, int]) -> None:
    """Prefill pages (number -> prompt length) with their marks; values are the marks' negatives."""
    attention = slots.insert(list(pages), list(pages.values()))
    for layer in range(CONFIG.num_hidden_layers):
        keys = mx.concatenate([marks(page, range(length), layer) for page, length in pages.items()])
        attention.attend(layer, queries(len(keys)), keys, -keys)


def step(slots: Slots[int]) -> None:
    """One more token of each page; rows without a page get rubbish."""
    before = list(zip(slots.pages, slots.lengths, strict=True))
    attention = slots.step()
    rubbish = mx.full((1, CONFIG.num_key_value_heads, CONFIG.head_dim), 7e7)
    for layer in range(CONFIG.num_hidden_layers):
        rows = [marks(page, range(n, n + 1), layer) if page is not None else rubbish for page, n in before]
        keys = mx.concatenate(rows + [rubbish] * (attention.rows - len(before)))
        attention.attend(layer, queries(len(keys)), keys, -keys)


def assert_holds(slots: Slots[int], pages: dict[int, int]) -> None:
    """The slots holds exactly these pages (number -> length), each whole in every layer."""
    slots.check()
    rows = {page: row for row, page in enumerate(slots.pages) if page is not None}
    assert {page: slots.lengths[row] for page, row in rows.items()} == pages
    assert (slots.active, slots.free) == (len(pages), slots.count - len(pages))
    for layer in range(CONFIG.num_hidden_layers):
        for page, length in pages.items():
            keys, values = (np.array(array) for array in stored(slots, layer, rows[page]))
            expected = np.array(marks(page, range(length), layer)).swapaxes(0, 1)
            np.testing.assert_array_equal(keys[:, :length], expected)
            np.testing.assert_array_equal(values[:, :length], -expected)


def test_prompts_of_any_lengths_fill_slots_from_their_start() -> None:
    slots = new_slots()
    insert(slots, {1: 5, 2: 1, 3: 9})
    assert_holds(slots, {1: 5, 2: 1, 3: 9})
    insert(slots, {4: 3})
    assert_holds(slots, {1: 5, 2: 1, 3: 9, 4: 3})


def test_a_step_puts_one_token_at_the_end_of_every_pages_slot() -> None:
    slots = new_slots()
    insert(slots, {1: 5, 2: 1})
    step(slots)
    step(slots)
    assert_holds(slots, {1: 7, 2: 3})


def test_a_removed_page_leaves_a_hole_that_is_stepped_over_until_it_is_filled() -> None:
    slots = new_slots()
    insert(slots, {1: 5, 2: 8, 3: 2, 4: 6})
    gone = slots.pages[1]
    assert gone is not None
    left = {page: length for page, length in {1: 5, 2: 8, 3: 2, 4: 6}.items() if page != gone}
    assert slots.remove(gone)
    assert (slots.holes, slots.free) == (1, 1)
    step(slots)
    left = {page: length + 1 for page, length in left.items()}
    assert_holds(slots, left)
    slots.compact()
    assert (slots.holes, len(slots.lengths)) == (0, 3)
    assert_holds(slots, left)
    step(slots)
    assert_holds(slots, {page: length + 1 for page, length in left.items()})


def test_removing_the_last_page_leaves_no_hole_and_an_unknown_page_changes_nothing() -> None:
    slots = new_slots()
    insert(slots, {1: 5, 2: 5})
    last = slots.pages[-1]
    assert last is not None
    assert slots.remove(last)
    assert not slots.remove(last)
    assert slots.holes == 0
    assert_holds(slots, {3 - last: 5})


def test_the_next_prompt_takes_a_freed_slot_and_grows_from_its_own_end() -> None:
    slots = new_slots(slots=2)
    insert(slots, {1: 50, 2: 40})
    slots.remove(1)
    insert(slots, {3: 4})
    step(slots)
    assert_holds(slots, {2: 41, 3: 5})


def test_growing_keeps_what_is_in_the_slots() -> None:
    slots = new_slots()
    insert(slots, {1: SHORTEST - 1, 2: 3})
    for _ in range(3):
        step(slots)
    assert_holds(slots, {1: SHORTEST + 2, 2: 6})
    insert(slots, {3: 600})
    assert_holds(slots, {1: SHORTEST + 2, 2: 6, 3: 600})


def by_bucket(slots: Slots[int], size: int) -> list[list[int]]:
    """The pages' lengths in each bucket."""
    lengths = list(slots.lengths)
    return [lengths[first : first + size] for first in range(0, len(lengths), size)]


def test_long_prompts_stand_in_the_first_bucket_and_short_ones_make_room_for_them() -> None:
    slots = new_slots(slots=4, max_length=3000, size=2)
    insert(slots, {1: 20, 2: 30})
    insert(slots, {3: 900, 4: 700})
    assert_holds(slots, {1: 20, 2: 30, 3: 900, 4: 700})
    assert [sorted(bucket) for bucket in by_bucket(slots, 2)] == [[700, 900], [20, 30]]
    tokens = 2 * (bucket_length(900) + SHORTEST)  # no bucket is longer than its own pages need
    assert slots.cache.nbytes == tokens * bytes_per_token(CONFIG, mx.float32)


def test_a_hole_in_the_first_bucket_is_filled_with_the_longest_page_of_each_later_one() -> None:
    slots = new_slots(slots=6, max_length=3000, size=2)
    pages = {1: 1900, 2: 1500, 3: 1100, 4: 800, 5: 500, 6: 20}
    insert(slots, pages)
    slots.remove(1)
    slots.compact()
    del pages[1]
    assert_holds(slots, pages)
    assert [sorted(bucket) for bucket in by_bucket(slots, 2)] == [[1100, 1500], [500, 800], [20]]


def test_buckets_that_nobody_will_need_soon_give_their_memory_back() -> None:
    slots = new_slots(slots=6, size=2)
    insert(slots, dict.fromkeys(range(6), 10))
    whole = slots.cache.nbytes
    for page in range(5):
        slots.remove(page)
    slots.compact()
    assert_holds(slots, {5: 10})
    assert slots.cache.nbytes == whole * 2 / 3  # the next bucket is kept


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_any_order_of_coming_going_and_stepping_leaves_every_page_its_own_tokens(size: int) -> None:
    chance = random.Random(5)
    slots = new_slots(slots=7, max_length=900, size=size)
    pages: dict[int, int] = {}
    for page in range(60):
        if len(pages) < 7 and chance.random() < 0.7:
            pages[page] = chance.randint(1, 800)
            insert(slots, {page: pages[page]})
        if pages and max(pages.values()) < 900:
            step(slots)
            pages = {page: length + 1 for page, length in pages.items()}
        while pages and chance.random() < 0.45:
            gone = chance.choice(list(pages))
            assert slots.remove(gone)
            del pages[gone]
        if chance.random() < 0.3:
            slots.compact()
            assert slots.holes == 0
        assert_holds(slots, pages)


@pytest.mark.parametrize("size", [16, 64])
def test_filling_holes_copies_the_pages_that_move_and_nothing_else(size: int) -> None:
    slots = new_slots(slots=64, size=size)
    insert(slots, dict.fromkeys(range(64), 8))
    layers = range(CONFIG.num_hidden_layers)
    for page in (1, 2, 40):
        slots.remove(page)
    mx.eval(slots.cache.arrays(layers))
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    slots.compact()
    mx.eval(slots.cache.arrays(layers))
    assert mx.get_peak_memory() - before < slots.cache.arrays(layers)[0].nbytes / 2
    assert_holds(slots, {page: 8 for page in range(64) if page not in (1, 2, 40)})


def test_few_holes_are_left_and_many_are_worth_filling() -> None:
    slots = new_slots(slots=40, size=32)
    insert(slots, dict.fromkeys(range(40), 4))
    for number, page in enumerate([page for page in slots.pages if page is not None][:8], start=1):
        slots.remove(page)
        assert slots.fragmented == (number == 8)


@pytest.mark.parametrize(("pages", "rows"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (9, 16), (97, 104)])
def test_steps_where_shapes_are_shared_have_few_different_numbers_of_rows(pages: int, rows: int) -> None:
    assert shared_row_count(pages) == rows
    slots = new_slots(slots=100, shared=True)
    insert(slots, dict.fromkeys(range(pages), 3))
    assert slots.step().rows == min(rows, 100)


@pytest.mark.parametrize(
    ("lengths", "says"), [([3, 4], r"2 prompts.*1 free slot"), ([601], r"601 tokens.*600")], ids=str
)
def test_prompts_that_are_too_many_or_too_long_are_refused_and_nothing_changes(
    lengths: list[int], says: str
) -> None:
    slots = new_slots(slots=2, max_length=600)
    insert(slots, {1: 5})
    with pytest.raises(ValueError, match=says):
        slots.insert(list(range(7, 7 + len(lengths))), lengths)
    assert_holds(slots, {1: 5})
    insert(slots, {2: 600})
    assert_holds(slots, {1: 5, 2: 600})


def test_a_step_into_a_full_slot_is_refused_and_nothing_changes() -> None:
    slots = new_slots(max_length=20)
    insert(slots, {1: 5, 2: 19})
    step(slots)
    with pytest.raises(ValueError, match="slot of 20 tokens is full"):
        slots.step()
    assert_holds(slots, {1: 6, 2: 20})


BROKEN_TABLES = (
    ({"_firsts": [0, 1]}, "more pages than slots"),
    ({"_lengths": [8, 0]}, "the last slot is a hole"),
    ({"_lengths": [0, 5]}, "a hole has tokens, or a page has none"),
    ({"_lengths": [SHORTEST + 1, 5]}, f"a slot of {SHORTEST + 1} in {SHORTEST}"),
    ({"max_length": 7}, "longer than a slot"),
)
BROKEN_BUCKETS = (
    ({"layers": []}, "a layer's array is missing"),
    ({"capacity": 2 * SHORTEST}, "lost its shape"),
    ({"layers": [mx.zeros((3 * 2 * SHORTEST, 16))] * 2}, "lost its shape"),
)


@pytest.mark.parametrize(
    ("in_bucket", "broken", "says"),
    [(False, *case) for case in BROKEN_TABLES] + [(True, *case) for case in BROKEN_BUCKETS],
    ids=lambda value: str(value)[:24],
)
def test_the_check_notices_tables_and_arrays_that_are_wrong(
    in_bucket: bool, broken: dict[str, object], says: str
) -> None:
    slots = new_slots()
    slots.check()
    insert(slots, {1: 5, 2: 8})
    slots.check()
    for name, value in broken.items():
        setattr(slots.cache.buckets[0] if in_bucket else slots, name, value)
    with pytest.raises(AssertionError, match=says):
        slots.check()


def test_chandra_1_takes_147456_bytes_a_token_in_16_bits() -> None:
    chandra = replace(CONFIG, num_hidden_layers=36, num_key_value_heads=8, head_dim=128)
    assert bytes_per_token(chandra, mx.bfloat16) == 147_456


def test_buckets_and_windows_cover_the_longest_page_and_buckets_come_in_few_sizes() -> None:
    sizes = [bucket_length(tokens) for tokens in range(1, 16_385)]
    assert all(tokens <= size < max(1.26 * tokens, tokens + 256) for tokens, size in enumerate(sizes, 1))
    assert sizes == sorted(sizes)
    assert len(set(sizes)) <= 32
    assert all(tokens <= window_length(tokens) < tokens + 64 for tokens in range(1, 16_385))
    assert all(window_length(tokens) <= bucket_length(tokens) for tokens in range(1, 16_385))


@pytest.mark.parametrize(("form", "size", "shared"), SETTINGS, ids=NAMES)
def test_prompts_and_steps_attend_as_one_causal_pass_over_each_page_would(
    form: AttentionForm, size: int, shared: bool
) -> None:
    """Pages of 70, 3 and 20 tokens; the first is removed after 4 steps, the others go on for 4 more."""
    whole = {page: _random_tokens(page, 80) for page in (1, 2, 3)}
    starts = {1: 70, 2: 3, 3: 20}
    slots = new_slots(form=form, size=size, shared=shared)
    attention = slots.insert(list(starts), list(starts.values()))
    parts = [[x[: starts[page]] for x in whole[page]] for page in starts]
    q, k, v = (mx.concatenate(list(together)) for together in zip(*parts, strict=True))
    out = np.array(attention.attend(1, q, k, v))
    outputs = {page: [rows] for page, rows in zip(starts, np.split(out, np.cumsum([70, 3])), strict=True)}
    for number in range(8):
        if number == 4:
            slots.remove(1)
        if number == 6:
            slots.compact()
        places = list(zip(slots.pages, slots.lengths, strict=True))
        attention = slots.step()
        places += [(None, 0)] * (attention.rows - len(places))
        token = [[x[n] for x in whole[page or 2]] for page, n in places]  # a hole gets anything
        q, k, v = (mx.stack(list(together)) for together in zip(*token, strict=True))
        out = np.array(attention.attend(1, q, k, v))
        for row, (page, _) in enumerate(places):
            if page is not None:
                outputs[page].append(out[row : row + 1])
    for page, parts in outputs.items():
        ours = np.concatenate(parts)
        q, k, v = (x[: len(ours)] for x in whole[page])
        expected = SegmentPass((len(ours),)).attend(1, q, k, v)
        np.testing.assert_allclose(ours, np.array(expected), rtol=0, atol=1e-5)


def _random_tokens(seed: int, tokens: int) -> list[mx.array]:
    """Queries [tokens, heads, d], keys and values [tokens, kv_heads, d]."""
    source = np.random.default_rng(seed)
    heads = (CONFIG.num_attention_heads, CONFIG.num_key_value_heads, CONFIG.num_key_value_heads)
    drawn: list[NDArray[np.float64]] = [source.normal(size=(tokens, n, CONFIG.head_dim)) for n in heads]
    return [mx.array(array.astype(np.float32)) for array in drawn]


def table_of(slots: Slots[int]) -> StepTable:
    assert slots.cache._table is not None
    return slots.cache._table


def test_a_steps_table_is_counted_on_while_nobody_comes_or_goes() -> None:
    slots = new_slots()
    insert(slots, {1: 5, 2: 8})
    step(slots)
    first = np.array(table_of(slots).array)
    for steps in range(1, 4):
        step(slots)
        assert table_of(slots).advances == steps
        np.testing.assert_array_equal(np.array(table_of(slots).array), first + steps)
    slots.remove(1)
    step(slots)
    assert table_of(slots).advances == 0


def test_a_steps_table_is_made_anew_when_a_bucket_grows_and_before_a_hole_outgrows_it() -> None:
    slots = new_slots()
    insert(slots, {1: SHORTEST - 2, 2: 8, 3: 3})
    slots.remove(2)
    for expected in (0, 1, 0, 1):  # the third step's token is the first one behind the bucket's old end
        step(slots)
        assert table_of(slots).advances == expected
    slots = new_slots()
    insert(slots, {1: 3, 2: 2, 3: 4})
    slots.remove(3)
    seen = []
    for _ in range(SHORTEST - 20):
        step(slots)
        seen.append(table_of(slots).advances)
        hole = slots.lengths.index(0)
        assert table_of(slots).array[hole, -1].item() <= SHORTEST
    assert seen.count(0) == 2
    assert_holds(slots, {1: SHORTEST - 17, 2: SHORTEST - 18})


def test_keys_and_values_in_one_array_are_written_and_read_like_two() -> None:
    for form, size, shared in SETTINGS:
        apart, joined = (new_slots(form=form, size=size, shared=shared) for _ in range(2))
        for slots in (apart, joined):
            insert(slots, {1: 5, 2: 8, 3: 70})
        key = mx.random.key(3)
        q, k, v = mx.split(mx.random.normal((3, 4 + 2 + 2, 16), key=key), [4, 6], axis=1)
        one, other = apart.step(), joined.step()
        missing = one.rows - 3
        q, k, v = (mx.pad(x, [(0, missing), (0, 0), (0, 0)]) for x in (q, k, v))
        for layer in range(CONFIG.num_hidden_layers):
            expected = one.attend(layer, q, k, v)
            ours, kept = other.shape.attend_joined(
                other.kept(layer), other.arrays, q, mx.stack([k, v], axis=2)
            )
            other.keep(layer, kept)
            assert mx.array_equal(ours[:3], expected[:3])
            for row in range(3):
                for mine, theirs in zip(stored(joined, layer, row), stored(apart, layer, row), strict=True):
                    assert mx.array_equal(mine, theirs)


def test_keys_and_values_of_a_bfloat16_model_are_kept_in_float16_and_finite() -> None:
    slots = new_slots(form=FORMS[-1], dtype=mx.float16)
    q, k, v = mx.split(mx.random.normal((3, 4 + 2 + 2, 16), key=mx.random.key(3)), [4, 6], axis=1)
    q, k, v = (x.astype(mx.bfloat16) for x in (q, k, v))
    attention = slots.insert([1], [3])
    for layer in range(CONFIG.num_hidden_layers):
        prompt = attention.attend(layer, q, k, v)
    step = slots.step()
    huge = mx.full((1, 2, 16), 1e6, mx.bfloat16)  # more than float16 can hold
    attended = step.attend(0, q[:1], k[:1], huge)
    keys, values = stored(slots, 0, 0)
    assert (prompt.dtype, attended.dtype) == (mx.bfloat16, mx.bfloat16)
    assert (keys.dtype, values.dtype) == (mx.float16, mx.float16)
    assert mx.array_equal(keys[:, :3], k.astype(mx.float16).swapaxes(0, 1))
    assert (values[:, 3] == 65504).all()
    assert mx.isfinite(attended).all()


@dataclass
class TableOfBucket:
    """A bucket without arrays."""

    slots: int
    capacity: int = 0

    def shrink(self, tokens: int, tightly: bool) -> None:
        if tightly or self.capacity > 2 * bucket_length(tokens):
            self.capacity = min(self.capacity, bucket_length(tokens))

    def drop(self) -> None:
        self.capacity = 0

    def check(self, longest: int) -> None:
        assert longest <= self.capacity


class TableOfCache:
    """A cache without arrays: whose tokens stand in each slot."""

    def __init__(self, sizes: list[int]) -> None:
        self.buckets = [TableOfBucket(size) for size in sizes]
        self.held: dict[Place, list[int]] = {}

    def reserve(self, bucket: int, tokens: int) -> None:
        self.buckets[bucket].capacity = max(self.buckets[bucket].capacity, bucket_length(tokens))

    def copy(self, source: Place, target: Place, length: int) -> None:
        self.reserve(target.bucket, length)
        self.held[target] = self.held[source][:length]

    def prompt_pass(self, places: list[Place], lengths: list[int]) -> list[Place]:
        for place, length in zip(places, lengths, strict=True):
            self.reserve(place.bucket, length)
        return places

    def step_pass(self, lengths: list[int], rows: int) -> int:
        first = 0
        for number, bucket in enumerate(self.buckets):
            here = lengths[first : first + bucket.slots]
            if here:
                self.reserve(number, max(here))
            first += bucket.slots
        return rows


@given(
    sizes=strategies.lists(strategies.integers(1, 4), min_size=1, max_size=4),
    orders=strategies.lists(strategies.tuples(strategies.integers(1, 900), strategies.integers(0, 7))),
)
def test_whatever_comes_goes_and_steps_every_page_keeps_its_slot_and_the_longest_stand_first(
    sizes: list[int], orders: list[tuple[int, int]]
) -> None:
    cache = TableOfCache(sizes)
    slots: Slots[int] = Slots(cast("KeyValueCache", cache), 1000, shared_shapes=True)
    lengths: dict[int, int] = {}
    for page, (length, order) in enumerate(orders):
        if slots.free and order < 4:
            (place,) = cast("list[Place]", slots.insert([page], [length]))
            cache.held[place] = [page] * length
            lengths[page] = length
        elif lengths and order == 4:
            gone = list(lengths)[length % len(lengths)]
            assert slots.remove(gone)
            del lengths[gone]
        elif lengths and order == 5:
            assert cast("int", slots.step()) <= slots.count
            lengths = {page: length + 1 for page, length in lengths.items()}
            for slot, one in enumerate(slots.pages):
                if one is not None:
                    cache.held[slots._place(slot)].append(one)
        elif order > 5:
            slots.compact(tightly=order == 7)
            assert slots.holes == 0
        slots.check()
        found = {page: slots.lengths[slot] for slot, page in enumerate(slots.pages) if page is not None}
        assert found == lengths
        for slot, one in enumerate(slots.pages):
            if one is not None:
                assert cache.held[slots._place(slot)] == [one] * lengths[one]
        assert sum(bucket.slots * bucket.capacity for bucket in cache.buckets) == slots.allocated
    slots.compact(tightly=True)
    capacities = [bucket.capacity for bucket in cache.buckets]
    assert capacities == sorted(capacities, reverse=True)
