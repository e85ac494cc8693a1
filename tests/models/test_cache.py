"""The cache's rows by their contents: recognisable numbers go in, and are looked for afterwards."""

import random
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_chandra.models.attention import SegmentPass
from mlx_chandra.models.backend import Backend, DecodeAttention, PrefillForm, current_backend
from mlx_chandra.models.cache import KeyValueCache, shared_row_count
from mlx_chandra.models.cache_passes import StepTable
from mlx_chandra.models.shelves import shelf_length, window_length
from tests.models.parts import text_config

CONFIG = text_config(layers=2, heads=4, kv_heads=2, head_dim=16)
SHORTEST = shelf_length(1)
CPU = replace(
    current_backend(), decode_attention=DecodeAttention.WRITTEN_OUT, prefill=PrefillForm(), shelf_rows=(4,)
)
PROMPTS = (PrefillForm((24,)), PrefillForm(scores=300), PrefillForm(multiple=16))
BACKENDS = [
    replace(CPU, decode_attention=form, prefill=form_of_prompts, shelf_rows=(rows,), shared_shapes=shared)
    for form, form_of_prompts, rows, shared in zip(
        DecodeAttention, PROMPTS, (1, 4, 2), (True, False, True), strict=True
    )
]

Cache = KeyValueCache[int]


def new_cache(slots: int = 4, max_length: int = 600, backend: Backend = CPU) -> Cache:
    return KeyValueCache(CONFIG, slots, max_length, mx.float32, backend)


def marks(page: int, tokens: range, layer: int) -> mx.array:
    """Keys [len(tokens), kv_heads, d] that say whose they are; every one different, exact in float32."""
    base = page * 100_000 + layer * 10_000
    numbers = base + np.array(tokens)[:, None, None] * 10 + np.arange(CONFIG.num_key_value_heads)[:, None]
    return mx.array(np.broadcast_to(numbers, (*numbers.shape[:2], CONFIG.head_dim)).astype(np.float32))


def queries(count: int) -> mx.array:
    return mx.zeros((count, CONFIG.num_attention_heads, CONFIG.head_dim))


def insert(cache: Cache, pages: dict[int, int]) -> None:
    """Prefill pages (number -> prompt length) with their marks; values are the marks' negatives."""
    attention = cache.insert(list(pages), list(pages.values()))
    for layer in range(CONFIG.num_hidden_layers):
        keys = mx.concatenate([marks(page, range(length), layer) for page, length in pages.items()])
        attention.attend(layer, queries(len(keys)), keys, -keys)


def step(cache: Cache) -> None:
    """One more token of each page; rows without a page get rubbish."""
    before = list(zip(cache.pages, cache.lengths, strict=True))
    attention = cache.step()
    rubbish = mx.full((1, CONFIG.num_key_value_heads, CONFIG.head_dim), 7e7)
    for layer in range(CONFIG.num_hidden_layers):
        rows = [marks(page, range(n, n + 1), layer) if page is not None else rubbish for page, n in before]
        keys = mx.concatenate(rows + [rubbish] * (attention.rows - len(before)))
        attention.attend(layer, queries(len(keys)), keys, -keys)


def assert_holds(cache: Cache, pages: dict[int, int]) -> None:
    """The cache holds exactly these pages (number -> length), each whole in every layer."""
    cache.check()
    rows = {page: row for row, page in enumerate(cache.pages) if page is not None}
    assert {page: cache.lengths[row] for page, row in rows.items()} == pages
    assert (cache.active, cache.free) == (len(pages), cache.slots - len(pages))
    for layer in range(CONFIG.num_hidden_layers):
        for page, length in pages.items():
            keys, values = (np.array(array) for array in cache.row(layer, rows[page]))
            expected = np.array(marks(page, range(length), layer)).swapaxes(0, 1)
            np.testing.assert_array_equal(keys[:, :length], expected)
            np.testing.assert_array_equal(values[:, :length], -expected)


def test_prompts_of_any_lengths_fill_rows_from_their_start() -> None:
    cache = new_cache()
    insert(cache, {1: 5, 2: 1, 3: 9})
    assert_holds(cache, {1: 5, 2: 1, 3: 9})
    insert(cache, {4: 3})
    assert_holds(cache, {1: 5, 2: 1, 3: 9, 4: 3})


def test_a_step_puts_one_token_at_the_end_of_every_pages_row() -> None:
    cache = new_cache()
    insert(cache, {1: 5, 2: 1})
    step(cache)
    step(cache)
    assert_holds(cache, {1: 7, 2: 3})


def test_a_removed_page_leaves_a_hole_that_is_stepped_over_until_it_is_filled() -> None:
    cache = new_cache()
    insert(cache, {1: 5, 2: 8, 3: 2, 4: 6})
    gone = cache.pages[1]
    assert gone is not None
    left = {page: length for page, length in {1: 5, 2: 8, 3: 2, 4: 6}.items() if page != gone}
    assert cache.remove(gone)
    assert (cache.holes, cache.free) == (1, 1)
    step(cache)
    left = {page: length + 1 for page, length in left.items()}
    assert_holds(cache, left)
    cache.settle()
    assert (cache.holes, len(cache.lengths)) == (0, 3)
    assert_holds(cache, left)
    step(cache)
    assert_holds(cache, {page: length + 1 for page, length in left.items()})


def test_removing_the_last_row_leaves_no_hole_and_an_unknown_page_changes_nothing() -> None:
    cache = new_cache()
    insert(cache, {1: 5, 2: 5})
    last = cache.pages[-1]
    assert last is not None
    assert cache.remove(last)
    assert not cache.remove(last)
    assert cache.holes == 0
    assert_holds(cache, {3 - last: 5})


def test_the_next_prompt_takes_a_freed_row_and_grows_from_its_own_end() -> None:
    cache = new_cache(slots=2)
    insert(cache, {1: 50, 2: 40})
    cache.remove(1)
    insert(cache, {3: 4})
    step(cache)
    assert_holds(cache, {2: 41, 3: 5})


def test_growing_keeps_what_is_in_the_rows() -> None:
    cache = new_cache()
    insert(cache, {1: SHORTEST - 1, 2: 3})
    for _ in range(3):
        step(cache)
    assert_holds(cache, {1: SHORTEST + 2, 2: 6})
    insert(cache, {3: 600})
    assert_holds(cache, {1: SHORTEST + 2, 2: 6, 3: 600})


def shelves(cache: Cache, rows: int) -> list[list[int]]:
    """The pages' lengths on each shelf."""
    lengths = list(cache.lengths)
    return [lengths[first : first + rows] for first in range(0, len(lengths), rows)]


def test_long_prompts_stand_on_the_first_shelf_and_short_ones_make_room_for_them() -> None:
    cache = new_cache(slots=4, max_length=3000, backend=replace(CPU, shelf_rows=(2,)))
    insert(cache, {1: 20, 2: 30})
    insert(cache, {3: 900, 4: 700})
    assert_holds(cache, {1: 20, 2: 30, 3: 900, 4: 700})
    assert [sorted(shelf) for shelf in shelves(cache, 2)] == [[700, 900], [20, 30]]
    tokens = 2 * (shelf_length(900) + SHORTEST)  # no shelf is longer than its own pages need
    assert cache.nbytes == tokens * KeyValueCache.bytes_per_token(CONFIG, mx.float32)


def test_a_hole_on_the_first_shelf_is_filled_with_the_longest_page_of_each_later_one() -> None:
    cache = new_cache(slots=6, max_length=3000, backend=replace(CPU, shelf_rows=(2,)))
    pages = {1: 1900, 2: 1500, 3: 1100, 4: 800, 5: 500, 6: 20}
    insert(cache, pages)
    cache.remove(1)
    cache.settle()
    del pages[1]
    assert_holds(cache, pages)
    assert [sorted(shelf) for shelf in shelves(cache, 2)] == [[1100, 1500], [500, 800], [20]]


def test_shelves_that_nobody_will_need_soon_give_their_memory_back() -> None:
    cache = new_cache(slots=6, backend=replace(CPU, shelf_rows=(2,)))
    insert(cache, dict.fromkeys(range(6), 10))
    whole = cache.nbytes
    for page in range(5):
        cache.remove(page)
    cache.settle()
    assert_holds(cache, {5: 10})
    assert cache.nbytes == whole * 2 / 3  # the next shelf is kept


@pytest.mark.parametrize("shelf_rows", [1, 2, 3, 8])
def test_any_order_of_coming_going_and_stepping_leaves_every_page_its_own_tokens(shelf_rows: int) -> None:
    chance = random.Random(5)
    cache = new_cache(slots=7, max_length=900, backend=replace(CPU, shelf_rows=(shelf_rows,)))
    pages: dict[int, int] = {}
    for page in range(60):
        if len(pages) < 7 and chance.random() < 0.7:
            pages[page] = chance.randint(1, 800)
            insert(cache, {page: pages[page]})
        if pages and max(pages.values()) < 900:
            step(cache)
            pages = {page: length + 1 for page, length in pages.items()}
        while pages and chance.random() < 0.45:
            gone = chance.choice(list(pages))
            assert cache.remove(gone)
            del pages[gone]
        if chance.random() < 0.3:
            cache.settle()
            assert cache.holes == 0
        assert_holds(cache, pages)


@pytest.mark.parametrize("shelf_rows", [16, 64])
def test_filling_holes_copies_the_pages_that_move_and_nothing_else(shelf_rows: int) -> None:
    cache = new_cache(slots=64, backend=replace(CPU, shelf_rows=(shelf_rows,)))
    insert(cache, dict.fromkeys(range(64), 8))
    layers = range(CONFIG.num_hidden_layers)
    for page in (1, 2, 40):
        cache.remove(page)
    mx.eval(cache.arrays(layers))
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    cache.settle()
    mx.eval(cache.arrays(layers))
    assert mx.get_peak_memory() - before < cache.arrays(layers)[0].nbytes / 2
    assert_holds(cache, {page: 8 for page in range(64) if page not in (1, 2, 40)})


def test_few_holes_are_left_and_many_are_worth_filling() -> None:
    cache = new_cache(slots=40, backend=replace(CPU, shelf_rows=(32,)))
    insert(cache, dict.fromkeys(range(40), 4))
    for number, page in enumerate([page for page in cache.pages if page is not None][:8], start=1):
        cache.remove(page)
        assert cache.unsettled == (number == 8)


@pytest.mark.parametrize(("pages", "rows"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (9, 16), (97, 104)])
def test_steps_where_shapes_are_shared_have_few_different_numbers_of_rows(pages: int, rows: int) -> None:
    assert shared_row_count(pages) == rows
    cache = new_cache(slots=100, backend=replace(CPU, shared_shapes=True))
    insert(cache, dict.fromkeys(range(pages), 3))
    assert cache.step().rows == min(rows, 100)


def test_more_prompts_than_free_slots_are_refused_and_nothing_changes() -> None:
    cache = new_cache(slots=2)
    insert(cache, {1: 5})
    with pytest.raises(ValueError, match=r"2 prompts.*1 free slot"):
        cache.insert([7, 8], [3, 4])
    assert_holds(cache, {1: 5})


def test_a_prompt_longer_than_a_row_is_refused_and_nothing_changes() -> None:
    cache = new_cache(max_length=600)
    insert(cache, {1: 5})
    with pytest.raises(ValueError, match=r"601 tokens.*600"):
        cache.insert([7, 8], [3, 601])
    assert_holds(cache, {1: 5})
    insert(cache, {2: 600})
    assert_holds(cache, {1: 5, 2: 600})


def test_a_step_into_a_full_row_is_refused_and_nothing_changes() -> None:
    cache = new_cache(max_length=20)
    insert(cache, {1: 5, 2: 19})
    step(cache)
    with pytest.raises(ValueError, match="row of 20 tokens is full"):
        cache.step()
    assert_holds(cache, {1: 6, 2: 20})


def test_the_check_passes_on_an_empty_cache_and_on_a_busy_one() -> None:
    cache = new_cache()
    cache.check()
    insert(cache, {1: 5, 2: 8})
    cache.check()


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"slots": 1}, "more rows than slots"),
        ({"_lengths": [8, 0]}, "the last row is a hole"),
        ({"_lengths": [0, 5]}, "a hole has tokens, or a page has none"),
        ({"_lengths": [SHORTEST + 1, 5]}, f"a row of {SHORTEST + 1} in {SHORTEST}"),
        ({"max_length": 7}, "a row of 8"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_the_check_notices_books_that_are_wrong(broken: dict[str, object], says: str) -> None:
    cache = new_cache()
    insert(cache, {1: 5, 2: 8})
    for name, value in broken.items():
        setattr(cache, name, value)
    with pytest.raises(AssertionError, match=says):
        cache.check()


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"layers": []}, "a layer's array is missing"),
        ({"capacity": 2 * SHORTEST}, "lost its shape"),
        ({"layers": [mx.zeros((3 * 2 * SHORTEST, 16))] * 2}, "lost its shape"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_the_check_notices_arrays_that_are_wrong(broken: dict[str, object], says: str) -> None:
    cache = new_cache()
    insert(cache, {1: 5, 2: 8})
    for name, value in broken.items():
        setattr(cache._place(0)[0], name, value)
    with pytest.raises(AssertionError, match=says):
        cache.check()


def test_chandra_1_takes_147456_bytes_a_token_in_16_bits() -> None:
    chandra = replace(CONFIG, num_hidden_layers=36, num_key_value_heads=8, head_dim=128)
    assert KeyValueCache.bytes_per_token(chandra, mx.bfloat16) == 147_456


def test_shelves_and_windows_cover_the_longest_page_and_shelves_come_in_few_sizes() -> None:
    sizes = [shelf_length(tokens) for tokens in range(1, 16_385)]
    assert all(tokens <= size < max(1.26 * tokens, tokens + 256) for tokens, size in enumerate(sizes, 1))
    assert sizes == sorted(sizes)
    assert len(set(sizes)) <= 32
    assert all(tokens <= window_length(tokens) < tokens + 64 for tokens in range(1, 16_385))
    assert all(window_length(tokens) <= shelf_length(tokens) for tokens in range(1, 16_385))


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.decode_attention)
def test_prompts_and_steps_attend_as_one_causal_pass_over_each_page_would(backend: Backend) -> None:
    """Pages of 70, 3 and 20 tokens; the first is removed after 4 steps, the others go on for 4 more."""
    whole = {page: _random_tokens(page, 80) for page in (1, 2, 3)}
    starts = {1: 70, 2: 3, 3: 20}
    cache = new_cache(backend=backend)
    attention = cache.insert(list(starts), list(starts.values()))
    parts = [[x[: starts[page]] for x in whole[page]] for page in starts]
    q, k, v = (mx.concatenate(list(together)) for together in zip(*parts, strict=True))
    out = np.array(attention.attend(1, q, k, v))
    outputs = {page: [rows] for page, rows in zip(starts, np.split(out, np.cumsum([70, 3])), strict=True)}
    for number in range(8):
        if number == 4:
            cache.remove(1)
        if number == 6:
            cache.settle()
        places = list(zip(cache.pages, cache.lengths, strict=True))
        attention = cache.step()
        places += [(None, 0)] * (attention.rows - len(places))
        token = [[x[n] for x in whole[page or 2]] for page, n in places]  # a hole gets anything
        q, k, v = (mx.stack(list(together)) for together in zip(*token, strict=True))
        out = np.array(attention.attend(1, q, k, v))
        for row, (page, _) in enumerate(places):
            if page is not None:
                outputs[page].append(out[row : row + 1])
    for page, pieces in outputs.items():
        ours = np.concatenate(pieces)
        q, k, v = (x[: len(ours)] for x in whole[page])
        expected = SegmentPass((len(ours),)).attend(1, q, k, v)
        np.testing.assert_allclose(ours, np.array(expected), rtol=0, atol=1e-5)


def _random_tokens(seed: int, tokens: int) -> list[mx.array]:
    """Queries [tokens, heads, d], keys and values [tokens, kv_heads, d]."""
    source = np.random.default_rng(seed)
    heads = (CONFIG.num_attention_heads, CONFIG.num_key_value_heads, CONFIG.num_key_value_heads)
    drawn: list[NDArray[np.float64]] = [source.normal(size=(tokens, n, CONFIG.head_dim)) for n in heads]
    return [mx.array(array.astype(np.float32)) for array in drawn]


def table_of(cache: Cache) -> StepTable:
    assert cache._table is not None
    return cache._table


def test_a_steps_table_is_counted_on_while_nobody_comes_or_goes() -> None:
    cache = new_cache()
    insert(cache, {1: 5, 2: 8})
    step(cache)
    first = np.array(table_of(cache).array)
    for steps in range(1, 4):
        step(cache)
        assert table_of(cache).steps == steps
        np.testing.assert_array_equal(np.array(table_of(cache).array), first + steps)
    cache.remove(1)
    step(cache)
    assert table_of(cache).steps == 0


def test_a_steps_table_is_made_anew_when_a_shelf_grows_and_before_a_hole_outgrows_it() -> None:
    cache = new_cache()
    insert(cache, {1: SHORTEST - 2, 2: 8, 3: 3})
    cache.remove(2)
    for expected in (0, 1, 0, 1):  # the third step's token is the first one behind the shelf's old end
        step(cache)
        assert table_of(cache).steps == expected
    cache = new_cache()
    insert(cache, {1: 3, 2: 2, 3: 4})
    cache.remove(3)
    seen = []
    for _ in range(SHORTEST - 20):
        step(cache)
        seen.append(table_of(cache).steps)
        hole = cache.lengths.index(0)
        assert table_of(cache).array[hole, -1].item() <= SHORTEST
    assert seen.count(0) == 2
    assert_holds(cache, {1: SHORTEST - 17, 2: SHORTEST - 18})


def test_keys_and_values_in_one_array_are_written_and_read_like_two() -> None:
    for backend in BACKENDS:
        apart, joined = new_cache(backend=backend), new_cache(backend=backend)
        for cache in (apart, joined):
            insert(cache, {1: 5, 2: 8, 3: 70})
        key = mx.random.key(3)
        q, k, v = mx.split(mx.random.normal((3, 4 + 2 + 2, 16), key=key), [4, 6], axis=1)
        one, other = apart.step(), joined.step()
        missing = one.rows - 3
        q, k, v = (mx.pad(x, [(0, missing), (0, 0), (0, 0)]) for x in (q, k, v))
        for layer in range(CONFIG.num_hidden_layers):
            expected = one.attend(layer, q, k, v)
            ours = other.attend_joined(layer, q, mx.stack([k, v], axis=2))
            assert mx.array_equal(ours[:3], expected[:3])
            for row in range(3):
                for mine, theirs in zip(joined.row(layer, row), apart.row(layer, row), strict=True):
                    assert mx.array_equal(mine, theirs)


def test_keys_and_values_of_a_bfloat16_model_are_kept_in_float16_where_the_backend_wants_it() -> None:
    backend = replace(BACKENDS[-1], float16_cache=True)
    assert backend.cache_dtype(mx.float32) == mx.float32
    cache: Cache = KeyValueCache(CONFIG, 4, 600, mx.bfloat16, backend)
    q, k, v = mx.split(mx.random.normal((3, 4 + 2 + 2, 16), key=mx.random.key(3)), [4, 6], axis=1)
    q, k, v = (x.astype(mx.bfloat16) for x in (q, k, v))
    attention = cache.insert([1], [3])
    for layer in range(CONFIG.num_hidden_layers):
        prompt = attention.attend(layer, q, k, v)
    step = cache.step()
    huge = mx.full((1, 2, 16), 1e6, mx.bfloat16)  # more than float16 can hold
    attended = step.attend(0, q[:1], k[:1], huge)
    keys, values = cache.row(0, 0)
    assert (prompt.dtype, attended.dtype) == (mx.bfloat16, mx.bfloat16)
    assert (keys.dtype, values.dtype) == (mx.float16, mx.float16)
    assert mx.array_equal(keys[:, :3], k.astype(mx.float16).swapaxes(0, 1))
    assert (values[:, 3] == 65504).all()
    assert mx.isfinite(attended).all()
