"""The cache's slots by their contents: recognisable numbers go in, and are looked for afterwards."""

import random
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_chandra.models.attention import SegmentPass
from mlx_chandra.models.backend import Backend, BackendName, DecodeAttention, PrefillForm
from mlx_chandra.models.cache import GROWTH, KeyValueCache, window_size
from tests.models.parts import text_config

CONFIG = text_config(layers=2, heads=4, kv_heads=2, head_dim=16)
CPU = Backend(BackendName.CPU, True, False, DecodeAttention.WRITTEN_OUT, PrefillForm(), 2048)
PROMPTS = (PrefillForm(), PrefillForm((24,)), PrefillForm(scores=300))
BACKENDS = [
    replace(CPU, decode_attention=form, prefill=form_of_prompts)
    for form, form_of_prompts in zip(DecodeAttention, PROMPTS, strict=True)
]


def new_cache(slots: int = 4, max_length: int = 600, backend: Backend = CPU) -> KeyValueCache:
    return KeyValueCache(CONFIG, slots, max_length, mx.float32, backend)


def marks(page: int, tokens: range, layer: int) -> mx.array:
    """Keys [len(tokens), kv_heads, d] that say whose they are; every one different, exact in float32."""
    base = page * 100_000 + layer * 10_000
    numbers = base + np.array(tokens)[:, None, None] * 10 + np.arange(CONFIG.num_key_value_heads)[:, None]
    return mx.array(np.broadcast_to(numbers, (*numbers.shape[:2], CONFIG.head_dim)).astype(np.float32))


def queries(count: int) -> mx.array:
    return mx.zeros((count, CONFIG.num_attention_heads, CONFIG.head_dim))


def insert(cache: KeyValueCache, pages: dict[int, int]) -> None:
    """Prefill pages (number -> prompt length) with their marks; values are the marks' negatives."""
    attention = cache.insert(list(pages.values()))
    for layer in range(CONFIG.num_hidden_layers):
        keys = mx.concatenate([marks(page, range(length), layer) for page, length in pages.items()])
        attention.attend(layer, queries(len(keys)), keys, -keys)


def step(cache: KeyValueCache, pages: list[int]) -> None:
    """One more token of each page; `pages` are the rows' pages in order."""
    lengths = cache.lengths
    attention = cache.step()
    for layer in range(CONFIG.num_hidden_layers):
        rows = [marks(p, range(n, n + 1), layer) for p, n in zip(pages, lengths, strict=True)]
        keys = mx.concatenate(rows)
        attention.attend(layer, queries(len(keys)), keys, -keys)


def assert_holds(cache: KeyValueCache, pages: dict[int, int]) -> None:
    """The rows hold exactly these pages (number -> length), in this order, in every layer."""
    cache.check()
    assert cache.lengths == tuple(pages.values())
    for layer in range(CONFIG.num_hidden_layers if pages else 0):
        keys, values = (np.array(array) for array in cache.layer(layer))
        for row, (page, length) in enumerate(pages.items()):
            expected = np.array(marks(page, range(length), layer)).swapaxes(0, 1)
            np.testing.assert_array_equal(keys[row, :, :length], expected)
            np.testing.assert_array_equal(values[row, :, :length], -expected)


def test_prompts_of_any_lengths_fill_the_next_rows_from_their_start() -> None:
    cache = new_cache()
    insert(cache, {1: 5, 2: 1, 3: 9})
    assert_holds(cache, {1: 5, 2: 1, 3: 9})
    assert (cache.active, cache.free) == (3, 1)
    insert(cache, {4: 3})
    assert_holds(cache, {1: 5, 2: 1, 3: 9, 4: 3})
    assert cache.free == 0


def test_a_step_puts_one_token_at_the_end_of_every_active_row() -> None:
    cache = new_cache()
    insert(cache, {1: 5, 2: 1})
    step(cache, [1, 2])
    step(cache, [1, 2])
    assert_holds(cache, {1: 7, 2: 3})


def test_a_removed_middle_row_takes_the_last_rows_contents_and_the_others_stay() -> None:
    cache = new_cache()
    insert(cache, {1: 5, 2: 8, 3: 2, 4: 6})
    assert cache.remove(1) == 3
    assert_holds(cache, {1: 5, 4: 6, 3: 2})
    step(cache, [1, 4, 3])
    assert_holds(cache, {1: 6, 4: 7, 3: 3})


def test_removing_the_last_row_moves_nothing() -> None:
    cache = new_cache()
    insert(cache, {1: 5, 2: 8})
    assert cache.remove(1) is None
    assert_holds(cache, {1: 5})
    assert cache.remove(0) is None
    assert_holds(cache, {})
    assert cache.free == 4


def test_the_next_prompt_takes_a_freed_slot_and_grows_from_its_own_end() -> None:
    cache = new_cache(slots=2)
    insert(cache, {1: 50, 2: 40})
    cache.remove(0)
    insert(cache, {3: 4})
    step(cache, [2, 3])
    assert_holds(cache, {2: 41, 3: 5})


def test_growing_keeps_what_is_in_the_rows() -> None:
    cache = new_cache()
    insert(cache, {1: GROWTH - 1, 2: 3})
    assert cache.layer(0)[0].shape[2] == GROWTH
    for _ in range(3):
        step(cache, [1, 2])
    assert cache.layer(0)[0].shape[2] == 2 * GROWTH
    assert_holds(cache, {1: GROWTH + 2, 2: 6})
    insert(cache, {3: 600})
    assert cache.layer(0)[0].shape[2] == 3 * GROWTH  # 600 rounded up, and no more
    assert_holds(cache, {1: GROWTH + 2, 2: 6, 3: 600})


def test_any_order_of_coming_going_and_stepping_leaves_every_page_its_own_tokens() -> None:
    chance = random.Random(5)
    cache = new_cache(slots=5, max_length=400)
    pages: dict[int, int] = {}
    for page in range(60):
        if len(pages) < 5 and chance.random() < 0.7:
            pages[page] = chance.randint(1, 300)
            insert(cache, {page: pages[page]})
        if pages and max(pages.values()) < 400:
            step(cache, list(pages))
            pages = {page: length + 1 for page, length in pages.items()}
        if pages and chance.random() < 0.5:
            numbers, row = list(pages), chance.randrange(len(pages))
            moved = cache.remove(row)
            assert moved == (None if row == len(pages) - 1 else len(pages) - 1)
            numbers[row] = numbers[-1]
            pages = {number: pages[number] for number in numbers[:-1]}
        assert_holds(cache, pages)


def test_more_prompts_than_free_slots_are_refused_and_nothing_changes() -> None:
    cache = new_cache(slots=2)
    insert(cache, {1: 5})
    with pytest.raises(ValueError, match=r"2 prompts.*1 free slot"):
        cache.insert([3, 4])
    assert_holds(cache, {1: 5})


def test_a_prompt_longer_than_a_slot_is_refused_and_nothing_changes() -> None:
    cache = new_cache(max_length=600)
    insert(cache, {1: 5})
    with pytest.raises(ValueError, match=r"601 tokens.*600"):
        cache.insert([3, 601])
    assert_holds(cache, {1: 5})
    insert(cache, {2: 600})
    assert_holds(cache, {1: 5, 2: 600})


def test_a_step_into_a_full_slot_is_refused_and_nothing_changes() -> None:
    cache = new_cache(max_length=20)
    insert(cache, {1: 5, 2: 19})
    step(cache, [1, 2])
    with pytest.raises(ValueError, match="slot of 20 tokens is full"):
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
        ({"_lengths": [1, 1, 1, 1, 1]}, "5 rows in use of 4"),
        ({"_lengths": [5, 0]}, "an active row is empty"),
        ({"_lengths": [5, GROWTH + 1]}, f"a row of {GROWTH + 1} in {GROWTH}"),
        ({"max_length": 7}, "a row of 8"),
        ({"_keys": []}, "a layer's arrays are missing"),
        ({"_capacity": 2 * GROWTH}, "lost its shape"),
        ({"_values": [mx.zeros((3, 2, GROWTH, 16))] * 2}, "lost its shape"),
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


def test_chandra_1_takes_147456_bytes_a_token_in_16_bits() -> None:
    chandra = replace(CONFIG, num_hidden_layers=36, num_key_value_heads=8, head_dim=128)
    assert KeyValueCache.bytes_per_token(chandra, mx.bfloat16) == 147_456


def test_bytes_per_token_times_tokens_is_what_the_arrays_take() -> None:
    cache = new_cache(slots=4)
    insert(cache, {1: 5})
    taken = sum(array.nbytes for array in cache.arrays)
    assert taken == 4 * GROWTH * KeyValueCache.bytes_per_token(CONFIG, mx.float32)


def test_decode_windows_cover_the_longest_page_and_come_in_few_sizes() -> None:
    sizes = [window_size(tokens) for tokens in range(1, 4097)]
    assert all(tokens <= size < tokens + 256 for tokens, size in enumerate(sizes, 1))
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 8 + (4096 - 512) // 256


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.decode_attention)
def test_prompts_and_steps_attend_as_one_causal_pass_over_each_page_would(backend: Backend) -> None:
    """Pages of 70, 3 and 20 tokens; the first is removed after 4 steps, the others go on for 4 more."""
    whole = {page: _random_tokens(page, 80) for page in (1, 2, 3)}
    starts = {1: 70, 2: 3, 3: 20}
    cache = new_cache(backend=backend)
    attention = cache.insert(list(starts.values()))
    parts = [[x[: starts[page]] for x in whole[page]] for page in starts]
    q, k, v = (mx.concatenate(list(together)) for together in zip(*parts, strict=True))
    out = np.array(attention.attend(1, q, k, v))
    outputs = {page: [rows] for page, rows in zip(starts, np.split(out, np.cumsum([70, 3])), strict=True)}
    rows = [1, 2, 3]
    for number in range(8):
        if number == 4:
            cache.remove(0)
            rows = [3, 2]
        places = cache.lengths
        token = [[x[n] for x in whole[page]] for page, n in zip(rows, places, strict=True)]
        q, k, v = (mx.stack(list(together)) for together in zip(*token, strict=True))
        out = np.array(cache.step().attend(1, q, k, v))
        for row, page in enumerate(rows):
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
