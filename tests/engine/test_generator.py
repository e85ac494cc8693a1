"""BatchGenerator: what a page says never depends on its neighbours, and every page ends as it should."""

import io
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_chandra.engine.generator import BatchGenerator
from mlx_chandra.engine.request import Request
from mlx_chandra.engine.responses import FinishReason, GenerationResponse
from mlx_chandra.engine.runner import Runner
from mlx_chandra.engine.sampler import Sampling
from mlx_chandra.errors import PageError
from mlx_chandra.models import cpu, cuda, load_model
from mlx_chandra.models.attention import PLAIN, AttentionForm
from mlx_chandra.models.backend import current_backend
from mlx_chandra.models.qwen3_vl import Decoded, Qwen3VL
from mlx_chandra.processing.processor import PageInputs
from tests.engine.conftest import alone, run
from tests.fakes import StopsAt

FORMS = {"plain": PLAIN, "cpu": cpu.ATTENTION, "cuda": cuda.rounded_form(64)}
LIMITS = [1 + (7 * i) % 40 for i in range(32)]


@pytest.fixture(scope="module")
def texts_alone(model: Qwen3VL, pages: list[PageInputs]) -> list[list[int]]:
    return [alone(model, page, limit) for page, limit in zip(pages, LIMITS, strict=True)]


def generator(model: Qwen3VL, slots: int, **settings: object) -> BatchGenerator:
    return BatchGenerator(
        model,
        StopsAt(),
        completion_batch_size=slots,
        stop_on_repetition=False,
        **settings,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("decode_ahead", [False, True])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_page_alone_and_in_a_crowd_has_the_same_tokens_in_every_form_of_attention(
    checkpoint: Path,
    pages: list[PageInputs],
    texts_alone: list[list[int]],
    form: AttentionForm,
    decode_ahead: bool,
) -> None:
    backend = replace(current_backend(), attention=form, decode_ahead=decode_ahead)
    crowd = generator(load_model(checkpoint, backend=backend), 7)
    uids = crowd.insert(pages, LIMITS)
    tokens = run(crowd)
    assert [tokens[uid] for uid in uids] == texts_alone


@pytest.mark.parametrize("size", [1, 3])
def test_compiled_steps_over_several_buckets_give_the_tokens_that_pages_have_alone(
    checkpoint: Path, pages: list[PageInputs], texts_alone: list[list[int]], size: int
) -> None:
    backend = replace(
        current_backend(),
        attention=cuda.rounded_form(64),
        decode_ahead=True,
        bucket_slots=(size,),
        shared_shapes=True,
        fused_layers=True,
    )
    crowd = generator(load_model(checkpoint, backend=backend), 7)
    uids = crowd.insert(pages, LIMITS)
    tokens = run(crowd)
    assert [tokens[uid] for uid in uids] == texts_alone


def test_all_32_pages_at_once_have_the_tokens_that_they_have_alone(
    model: Qwen3VL, pages: list[PageInputs], texts_alone: list[list[int]]
) -> None:
    crowd = generator(model, 32)
    uids = crowd.insert(pages, LIMITS)
    tokens = run(crowd)
    assert [tokens[uid] for uid in uids] == texts_alone


@pytest.mark.parametrize("fixture", ["model", "model_ahead"])
def test_pages_that_join_at_different_times_keep_their_tokens(
    request: pytest.FixtureRequest, fixture: str, pages: list[PageInputs], texts_alone: list[list[int]]
) -> None:
    crowd = generator(request.getfixturevalue(fixture), 5)
    order = np.random.default_rng(1).permutation(len(pages)).tolist()
    uids = {order[0]: crowd.insert([pages[order[0]]], LIMITS[order[0]])[0]}

    def join() -> None:
        for place in order[len(uids) : len(uids) + 2]:
            uids[place] = crowd.insert([pages[place]], LIMITS[place])[0]

    tokens = run(crowd, join)
    assert [tokens[uids[place]] for place in range(len(pages))] == texts_alone


@pytest.mark.parametrize("fixture", ["model", "model_ahead"])
def test_removing_pages_in_the_middle_disturbs_nobody(
    request: pytest.FixtureRequest, fixture: str, pages: list[PageInputs], texts_alone: list[list[int]]
) -> None:
    crowd = generator(request.getfixturevalue(fixture), 6)
    uids = crowd.insert(pages, LIMITS)
    gone = uids[::3]
    steps = iter(gone)

    def leave() -> None:
        uid = next(steps, None)
        if uid is not None:
            crowd.remove(uid)
            crowd.check()

    tokens = run(crowd, leave)
    for uid, expected in zip(uids, texts_alone, strict=True):
        if uid in gone:
            assert expected[: len(tokens.get(uid, []))] == tokens.get(uid, [])
        else:
            assert tokens[uid] == expected


def test_a_removed_page_says_nothing_more_and_can_not_be_removed_twice(
    model_ahead: Qwen3VL, pages: list[PageInputs]
) -> None:
    crowd = generator(model_ahead, 2)
    first, second, third = crowd.insert(pages[:3], 30)
    crowd.next()
    crowd.next()
    assert crowd.remove(first)
    assert crowd.remove(third)  # still waiting
    assert not crowd.remove(first)
    assert set(ends(crowd)) == {second}
    assert not crowd.remove(second)


def test_no_slot_idles_while_pages_wait(model: Qwen3VL, pages: list[PageInputs]) -> None:
    crowd = generator(model, 4, prefill_batch_size=3)
    crowd.insert(pages, LIMITS)
    run(crowd)
    assert crowd.stats().occupancy == 1.0
    few = generator(model, 4)
    few.insert(pages[:2], 9)
    run(few)
    assert few.stats().occupancy == 1.0  # nobody waited


def ends(crowd: BatchGenerator) -> dict[int, GenerationResponse]:
    """Every page's last response by uid."""
    last = {}
    while crowd.has_work:
        for response in crowd.next()[1]:
            last[response.uid] = response
    return last


@pytest.mark.parametrize("fixture", ["model", "model_ahead"])
def test_a_page_ends_at_its_stop_token_or_its_limit_and_says_which(
    request: pytest.FixtureRequest, fixture: str, pages: list[PageInputs], texts_alone: list[list[int]]
) -> None:
    longest = texts_alone[int(np.argmax(LIMITS))]
    stop = longest[len(longest) // 2]
    crowd = BatchGenerator(
        request.getfixturevalue(fixture), StopsAt(frozenset({stop})), completion_batch_size=4
    )
    uids = crowd.insert(pages, LIMITS)
    last = ends(crowd)
    for uid, text in zip(uids, texts_alone, strict=True):
        expected = text.index(stop) + 1 if stop in text else len(text)
        assert last[uid].generated_tokens == expected
        assert last[uid].finish_reason is (FinishReason.STOP if stop in text else FinishReason.LENGTH)


def test_a_page_that_stops_at_its_first_token_or_may_say_only_one_is_served(
    model_ahead: Qwen3VL, pages: list[PageInputs], texts_alone: list[list[int]]
) -> None:
    first = texts_alone[0][0]
    crowd = BatchGenerator(model_ahead, StopsAt(), stop_tokens=[first], completion_batch_size=2)
    stopped, short = crowd.insert([pages[0], pages[1]], [50, 1])
    last = ends(crowd)
    assert (last[stopped].finish_reason, last[stopped].generated_tokens) == (FinishReason.STOP, 1)
    assert last[short].generated_tokens == 1
    assert crowd.cache.active == 0


def test_a_prompt_longer_than_a_slot_is_refused_for_that_page_alone(
    model: Qwen3VL, pages: list[PageInputs], texts_alone: list[list[int]]
) -> None:
    by_length = sorted(range(len(pages)), key=lambda i: len(pages[i].token_ids))
    short, long = by_length[0], by_length[-1]
    limit = len(pages[short].token_ids) + LIMITS[short]
    assert len(pages[long].token_ids) > limit
    crowd = generator(model, 2, max_context=limit)
    refused, served = crowd.insert([pages[long], pages[short]], [LIMITS[long], LIMITS[short]])
    prompts, _ = crowd.next()
    errors = {prompt.uid: prompt.error for prompt in prompts}
    error = errors[refused]
    assert isinstance(error, PageError)
    assert error.kind == "too-long"
    assert str(len(pages[long].token_ids)) in str(error)
    assert errors[served] is None
    crowd.close()


def test_an_answer_fills_its_slot_to_the_last_token_and_is_then_cut(
    model: Qwen3VL, pages: list[PageInputs]
) -> None:
    page = pages[8]
    room = 9
    crowd = generator(model, 1, max_context=len(page.token_ids) + room - 1)
    (uid,) = crowd.insert([page], 100)
    tokens = run(crowd)[uid]
    assert tokens == alone(model, page, 100)[:room]


def test_a_page_sampled_with_a_seed_does_not_depend_on_its_neighbours(
    model_ahead: Qwen3VL, pages: list[PageInputs]
) -> None:
    samplings = [Sampling(temperature=0.8 if i % 2 else 0.0, top_p=0.9, seed=i) for i in range(8)]
    apart = [alone(model_ahead, page, 12, s) for page, s in zip(pages[:8], samplings, strict=True)]
    crowd = generator(model_ahead, 3)
    uids = crowd.insert(pages[:8], 12, samplings)
    tokens = run(crowd)
    assert [tokens[uid] for uid in uids] == apart
    assert apart[1] != alone(model_ahead, pages[1], 12)  # it was sampled, not greedy
    assert apart[1] != alone(model_ahead, pages[1], 12, replace(samplings[1], seed=99))


def test_a_sampler_of_the_callers_own_chooses_all_tokens(model: Qwen3VL, pages: list[PageInputs]) -> None:
    def second_best(logits: mx.array) -> mx.array:
        return mx.argsort(logits, axis=-1)[:, -2]

    crowd = generator(model, 2, sampler=second_best)
    uids = crowd.insert(pages[:3], 5)
    tokens = run(crowd)
    expected = np.argsort(np.array(model.logits([pages[0]])[0][-1]))[-2]
    assert tokens[uids[0]][0] == expected
    assert all(len(tokens[uid]) == 5 for uid in uids)


def test_a_page_that_repeats_itself_is_stopped_unless_that_is_turned_off(
    model: Qwen3VL, pages: list[PageInputs]
) -> None:
    def always_seven(logits: mx.array) -> mx.array:
        return mx.full((logits.shape[0],), 7)

    def last(stop_on_repetition: bool) -> GenerationResponse:
        crowd = BatchGenerator(
            model,
            StopsAt(),
            sampler=always_seven,
            completion_batch_size=1,
            stop_on_repetition=stop_on_repetition,
        )
        (uid,) = crowd.insert([pages[0]], 1200)
        return ends(crowd)[uid]

    assert last(True).finish_reason is FinishReason.REPETITION
    assert last(True).generated_tokens < 1200
    assert last(False).finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("decode_ahead", [False, True])
def test_a_page_whose_numbers_overflow_ends_in_an_error_and_harms_no_other_before_or_after_it(
    checkpoint: Path, pages: list[PageInputs], texts_alone: list[list[int]], decode_ahead: bool
) -> None:
    backend = replace(current_backend(), attention=FORMS["cuda"], decode_ahead=decode_ahead)
    model = load_model(checkpoint, dtype=mx.float16, backend=backend)
    expected = [alone(model, page, 12) for page in pages[:4]]
    broken = replace(pages[1], image=replace(pages[1].image, shift=np.full(3, np.inf, np.float32)))
    crowd = generator(model, 2)
    uids = crowd.insert([pages[0], broken, *pages[2:4]], 12)
    tokens: dict[int, list[int]] = {}
    reasons = {}
    while crowd.has_work:
        for response in crowd.next()[1]:
            reasons[response.uid] = response.finish_reason
            tokens.setdefault(response.uid, []).append(response.token)
        crowd.check()
    assert reasons[uids[1]] is FinishReason.ERROR
    assert [tokens[uid] for uid in (uids[0], *uids[2:])] == [expected[0], *expected[2:]]


def test_stats_count_every_token_and_page(
    model: Qwen3VL, pages: list[PageInputs], texts_alone: list[list[int]]
) -> None:
    crowd = generator(model, 3)
    crowd.insert(pages[:10], LIMITS[:10])
    assert (crowd.stats().slots, crowd.stats().waiting) == (3, 10)
    run(crowd)
    stats = crowd.stats()
    assert stats.prompt_tokens == sum(len(page.token_ids) for page in pages[:10])
    assert stats.generation_tokens == sum(map(len, texts_alone[:10]))
    assert stats.active_slots == stats.waiting == 0
    assert stats.prompt_time > 0
    assert stats.generation_time > 0


@pytest.mark.parametrize("decode_ahead", [False, True])
def test_pages_that_outgrow_the_planned_memory_are_sent_back_and_go_on_where_they_were(
    checkpoint: Path, pages: list[PageInputs], decode_ahead: bool
) -> None:
    backend = replace(current_backend(), decode_ahead=decode_ahead, bucket_slots=(1,))
    model = load_model(checkpoint, backend=backend)
    expected = [alone(model, page, 330) for page in pages[:5]]
    crowd = generator(model, 5, cache_tokens=5 * 256)  # room for five short pages, or for two longer ones
    crowd._answer_tokens = crowd._answer_count  # answers are expected to be short
    uids = crowd.insert(pages[:5], 330)
    active, cached = [], []
    tokens = run(crowd, lambda: (active.append(crowd.cache.active), cached.append(crowd.cache.allocated)))
    assert [tokens[uid] for uid in uids] == expected
    assert active[0] == 5
    assert min(active[: active.index(5) + 300]) <= 3
    assert max(cached) <= 5 * 256
    assert crowd.stats().prompt_tokens == sum(len(page.token_ids) for page in pages[:5])  # each counted once


@pytest.mark.parametrize("fixture", ["model", "model_ahead"])
def test_a_finished_page_is_kept_by_nobody(
    request: pytest.FixtureRequest, fixture: str, pages: list[PageInputs]
) -> None:
    crowd = generator(request.getfixturevalue(fixture), 3)
    crowd.insert(pages, LIMITS)
    everyone = [weakref.ref(request) for request in crowd._requests.values()]
    while len(crowd._requests) > 2:
        crowd.next()
    crowd.next()
    assert sum(request() is not None for request in everyone) <= 3
    crowd.close()


def test_no_more_pages_are_admitted_than_the_planned_memory_lets_grow(
    checkpoint: Path, pages: list[PageInputs]
) -> None:
    model = load_model(checkpoint, backend=replace(current_backend(), bucket_slots=(8,)))
    crowd = generator(model, 16, cache_tokens=8 * 1280)
    crowd.insert(pages[:16], 20)
    crowd.next()
    assert crowd.cache.active == 8  # with answers of 1,024 tokens, one bucket is all that fits
    assert (crowd.slots, crowd.waiting) == (16, 8)
    crowd.close()


class Shortage:
    """Lets the device run out of memory in some of the passes."""

    def __init__(self, failing: Callable[[int], bool]) -> None:
        self.failing, self.passes = failing, 0

    def around(self, method: Callable[..., object]) -> Callable[..., object]:
        def shorthanded(*arguments: object) -> object:
            self.passes += 1
            result = method(*arguments)
            if self.failing(self.passes):
                raise RuntimeError("[malloc_or_wait] Unable to allocate 402653184 bytes.")
            return result

        return shorthanded


@pytest.mark.parametrize("decode_ahead", [False, True])
@pytest.mark.parametrize("call", ["prefill", "step"])
def test_a_failed_allocation_halves_the_slots_and_loses_no_page_and_no_token(
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Path,
    pages: list[PageInputs],
    texts_alone: list[list[int]],
    call: str,
    decode_ahead: bool,
) -> None:
    model = load_model(checkpoint, backend=replace(current_backend(), decode_ahead=decode_ahead))
    shortage = Shortage(lambda number: number in (2, 5))
    monkeypatch.setattr(Runner, call, shortage.around(getattr(Runner, call)))
    crowd = generator(model, 12)
    uids = crowd.insert(pages, LIMITS)
    tokens = run(crowd)
    assert [tokens[uid] for uid in uids] == texts_alone
    assert shortage.passes > 5
    assert (crowd.slots, crowd.stats().prompt_tokens) == (3, sum(len(page.token_ids) for page in pages))


def test_a_page_that_does_not_even_fit_alone_ends_in_an_error_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
    model: Qwen3VL,
    pages: list[PageInputs],
    texts_alone: list[list[int]],
) -> None:
    original = Runner.prefill

    def prefill(runner: Runner, chosen: list[Request]) -> None:
        if any(page.inputs is pages[2] for page in chosen):
            raise RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory (00000008)")
        original(runner, chosen)

    monkeypatch.setattr(Runner, "prefill", prefill)
    crowd = generator(model, 4)
    uids = crowd.insert(pages[:6], LIMITS[:6])
    tokens: dict[int, list[int]] = {uid: [] for uid in uids}
    errors = {}
    while crowd.has_work:
        prompts, responses = crowd.next()
        errors.update({prompt.uid: prompt.error for prompt in prompts if prompt.error})
        for response in responses:
            tokens[response.uid].append(response.token)
    assert list(errors) == [uids[2]]
    assert isinstance(errors[uids[2]], PageError)
    assert errors[uids[2]].kind == "out-of-memory"
    for place in (0, 1, 3, 4, 5):
        assert tokens[uids[place]] == texts_alone[place]


def test_errors_that_have_nothing_to_do_with_memory_are_not_swallowed(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3VL, pages: list[PageInputs]
) -> None:
    def broken(runner: Runner, chosen: list[Request]) -> None:
        raise RuntimeError("[matmul] shapes don't fit")

    monkeypatch.setattr(Runner, "prefill", broken)
    crowd = generator(model, 4)
    crowd.insert(pages[:2], 4)
    with pytest.raises(RuntimeError, match="matmul"):
        crowd.next()


@pytest.mark.parametrize("fixture", ["model_ahead", "model_as_on_cuda"])
def test_a_model_loaded_in_one_thread_reads_the_same_in_others_one_after_the_other(
    request: pytest.FixtureRequest, fixture: str, pages: list[PageInputs]
) -> None:
    model = request.getfixturevalue(fixture)
    expected = [alone(model, page, 12) for page in pages[:5]]

    def read() -> list[list[int]]:
        crowd = generator(model, 3)
        uids = crowd.insert(pages[:5], 12)
        tokens = run(crowd)
        crowd.close()
        return [tokens[uid] for uid in uids]

    for _ in range(2):
        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(read).result() == expected


@pytest.mark.parametrize("call", ["async_eval", "eval"])
@pytest.mark.parametrize("fixture", ["model_ahead", "model_as_on_cuda"])
def test_after_a_failure_between_launch_and_read_a_generator_that_was_reset_reads_as_before(
    request: pytest.FixtureRequest, fixture: str, call: str, pages: list[PageInputs]
) -> None:
    model = request.getfixturevalue(fixture)
    expected = [alone(model, page, 20) for page in pages[:3]]
    crowd = generator(model, 3)
    crowd.insert(pages[3:9], 30)
    for _ in range(4):
        crowd.next()
    original = getattr(mx, call)

    def fails(*arrays: object) -> None:
        raise RuntimeError("[METAL] Command buffer execution failed: Caused GPU Hang Error")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mx, call, fails)
        with pytest.raises(RuntimeError, match="GPU Hang"):
            crowd.next()
        crowd.reset()  # while the device still says so
    assert getattr(mx, call) is original
    assert not crowd.has_work
    assert (crowd.cache.active, crowd.cache.allocated, crowd.waiting) == (0, 0, 0)
    crowd.check()
    uids = crowd.insert(pages[:3], 20)
    tokens = run(crowd)
    assert [tokens[uid] for uid in uids] == expected


def test_errors_that_come_late_and_more_than_once_halve_the_slots_only_once(
    monkeypatch: pytest.MonkeyPatch, model_ahead: Qwen3VL, pages: list[PageInputs]
) -> None:
    errors = [RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory")] * 3

    def late() -> None:
        """What was launched after the failure fails too, and says so to whoever waits."""
        if errors:
            raise errors.pop()

    original = Runner.step
    monkeypatch.setattr(mx, "synchronize", lambda: errors.clear())
    monkeypatch.setattr(Runner, "step", lambda runner: (late(), original(runner))[1])
    crowd = generator(model_ahead, 4)
    crowd.insert(pages[:4], 9)
    run(crowd)
    assert crowd.slots == 2


@pytest.mark.parametrize("fixture", ["model", "model_ahead", "model_as_on_cuda"])
def test_decode_steps_write_the_cache_in_place(
    request: pytest.FixtureRequest, fixture: str, pages: list[PageInputs]
) -> None:
    model = request.getfixturevalue(fixture)
    before = mx.get_active_memory()
    crowd = generator(model, 96)
    crowd.insert(pages[:6], 60)
    while crowd.stats().steps < 3:
        crowd.next()
    cache = crowd.cache.cache.arrays(range(model.config.text.num_hidden_layers))
    size, layer = sum(array.nbytes for array in cache), cache[0].nbytes
    del cache
    mx.reset_peak_memory()
    for _ in range(50):
        crowd.next()
    assert mx.get_peak_memory() - before - size < layer  # not even one layer's keys were copied
    crowd.close()


def test_the_host_says_where_tokens_are_only_where_pages_have_come_or_moved(
    monkeypatch: pytest.MonkeyPatch, model_as_on_cuda: Qwen3VL, pages: list[PageInputs]
) -> None:
    graphs: list[str] = []
    original = Qwen3VL.decode

    def decode(model: Qwen3VL, token_ids: mx.array, *others: Any) -> Decoded:
        graph = io.StringIO()
        mx.export_to_dot(graph, token_ids)
        graphs.append(graph.getvalue())
        return original(model, token_ids, *others)

    monkeypatch.setattr(Qwen3VL, "decode", decode)
    crowd = generator(model_as_on_cuda, 11)  # a step has 16 rows
    crowd.insert(pages[:11], [60, 9, 60, 60, 20, 60, 60, 60, 60, 31, 60])  # three holes
    run(crowd)
    assert len(graphs) == 59
    assert ["Gather" in graph for graph in graphs].count(True) <= 1


def test_after_close_there_is_no_work_and_no_slot_in_use(
    model_ahead: Qwen3VL, pages: list[PageInputs]
) -> None:
    crowd = generator(model_ahead, 3)
    crowd.insert(pages, 20)
    for _ in range(4):
        crowd.next()
    crowd.close()
    assert not crowd.has_work
    assert crowd.cache.active == 0
    assert crowd.next() == ([], [])


@pytest.mark.parametrize(
    "call",
    [
        lambda crowd, pages: crowd.insert(pages[:2], [1, 2, 3]),
        lambda crowd, pages: crowd.insert(pages[:2], 0),
        lambda crowd, pages: crowd.insert(pages[:2], 4, [Sampling()]),
    ],
    ids=["more limits than prompts", "a limit of zero", "fewer samplings than prompts"],
)
def test_wrong_arguments_queue_nothing(
    model: Qwen3VL, pages: list[PageInputs], call: Callable[[BatchGenerator, Sequence[PageInputs]], object]
) -> None:
    crowd = generator(model, 2)
    with pytest.raises(ValueError, match=r"max_tokens|samplings|limits"):
        call(crowd, pages)
    assert not crowd.has_work


@pytest.mark.parametrize("size", [0, "many"])
def test_a_batch_size_that_makes_no_sense_is_refused(model: Qwen3VL, size: int | str) -> None:
    with pytest.raises(ValueError, match="completion_batch_size"):
        BatchGenerator(model, StopsAt(), completion_batch_size=size)
    with pytest.raises(ValueError, match="prefill_batch_size"):
        BatchGenerator(model, StopsAt(), prefill_batch_size=0)


def test_the_automatic_batch_size_is_at_least_8_for_a_small_model(model: Qwen3VL) -> None:
    assert BatchGenerator(model, StopsAt()).slots >= 8
