"""Steps that are sent off from a thread of their own: in order, in halves, and with their errors."""

import threading
import time
from collections.abc import Callable, Iterator

import mlx.core as mx
import pytest

from mlx_chandra.engine.generator import BatchGenerator
from mlx_chandra.engine.lane import HalvedStep, Lane, OtherThread, SameThread, Tokens
from mlx_chandra.models.qwen3_vl import Qwen3VL
from mlx_chandra.processing.processor import PageInputs
from tests.engine.conftest import alone, run
from tests.fakes import StopsAt

PATIENCE = 5.0  # seconds


@pytest.fixture(params=[SameThread, OtherThread])
def lane(request: pytest.FixtureRequest) -> Iterator[Lane]:
    lane = request.param()
    yield lane
    lane.forget()


def made(*values: float) -> mx.array:
    """An array that is not yet computed."""
    return mx.array(values) + 1


def step(number: int, read: list[mx.array] | None = None) -> HalvedStep:
    return HalvedStep(None, [made(number)], read or [], [made(number, number)])


@pytest.fixture
def sendings(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What mx.async_eval does in its next calls, in place of computing."""
    todo: list[Callable[[], object]] = []

    def async_eval(*arrays: mx.array) -> None:
        if todo:
            todo.pop(0)()
        mx.eval(*arrays)

    monkeypatch.setattr(mx, "async_eval", async_eval)
    return todo


def nothing() -> None:
    pass


def fail() -> None:
    raise RuntimeError("[malloc] no room left")


def test_a_step_reads_the_tokens_of_the_passes_before_it(lane: Lane) -> None:
    with lane.turn():
        passes = [mx.array([1, 2, 3]) * 2, mx.array([4]) * 2]
        assert lane.send(step(1, passes)) == [[2, 4, 6], [8]]
        lane.wait()


def test_both_halves_are_computed_after_what_must_be_there_before(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[list[float]] = []
    for name in ("eval", "async_eval"):
        original = getattr(mx, name)

        def noted(*arrays: mx.array, original: Callable[..., None] = original) -> None:
            original(*arrays)
            sent.extend(array.tolist() for array in arrays)

        monkeypatch.setattr(mx, name, noted)
    with lane.turn():
        lane.send(HalvedStep(made(0), [made(1)], [], [made(2)]))
        lane.send(HalvedStep(made(3), [made(4)], [], [made(5)]))
        lane.wait()
    assert sent == [[1], [2], [3], [4], [5], [6]]


def test_the_next_step_is_put_together_while_the_second_half_is_sent_off(
    sendings: list[Callable[[], object]],
) -> None:
    lane, is_put_together = OtherThread(), threading.Event()
    in_time = []
    sendings[:] = [nothing, lambda: in_time.append(is_put_together.wait(PATIENCE))]
    with lane.turn():
        lane.send(step(1))
        is_put_together.set()
        lane.wait()
    assert in_time == [True]


def test_waiting_lasts_until_the_second_half_is_sent_off(sendings: list[Callable[[], object]]) -> None:
    lane, goes_on, order = OtherThread(), threading.Event(), []

    def second() -> None:
        goes_on.wait(PATIENCE)
        order.append("sent")

    sendings[:] = [nothing, second]
    with lane.turn():
        lane.send(step(1))
        goes_on.set()
        lane.wait()
        order.append("waited")
    assert order == ["sent", "waited"]


def test_an_error_in_the_first_half_is_raised_where_the_step_is_sent_and_only_there(
    lane: Lane, sendings: list[Callable[[], object]]
) -> None:
    sendings[:] = [fail]
    with lane.turn():
        with pytest.raises(RuntimeError, match="no room left"):
            lane.send(step(1))
        lane.wait()
        assert lane.send(step(2, [mx.array([7])])) == [[7]]
        lane.wait()


@pytest.mark.parametrize("call", ["send", "wait"])
def test_an_error_in_the_second_half_is_raised_once_at_the_next_call(
    call: str, sendings: list[Callable[[], object]]
) -> None:
    lane = OtherThread()
    sendings[:] = [nothing, fail]
    with lane.turn():
        lane.send(step(1))
        with pytest.raises(RuntimeError, match="no room left"):
            lane.send(step(2)) if call == "send" else lane.wait()
        lane.wait()
        assert lane.send(step(3, [mx.array([7])])) == [[7]]
        lane.wait()


def test_a_forgotten_step_raises_nothing(sendings: list[Callable[[], object]]) -> None:
    lane = OtherThread()
    sendings[:] = [nothing, fail]
    with lane.turn():
        lane.send(step(1))
        lane.forget()
        lane.wait()


def test_two_generators_in_turn_give_what_each_gives_alone(
    model_beside: Qwen3VL, pages: list[PageInputs]
) -> None:
    crowds = [
        BatchGenerator(model_beside, StopsAt(), completion_batch_size=3, stop_on_repetition=False)
        for _ in range(2)
    ]
    shares = (pages[:5], pages[5:10])
    uids = [crowd.insert(share, 24) for crowd, share in zip(crowds, shares, strict=True)]
    tokens: list[dict[int, list[int]]] = [{}, {}]
    while any(crowd.has_work for crowd in crowds):
        for crowd, seen in zip(crowds, tokens, strict=True):
            for response in crowd.next()[1]:
                seen.setdefault(response.uid, []).append(response.token)
    for share, crowd_uids, seen in zip(shares, uids, tokens, strict=True):
        assert [seen[uid] for uid in crowd_uids] == [alone(model_beside, page, 24) for page in share]


def test_generators_in_several_threads_give_what_they_give_alone(
    model_beside: Qwen3VL, pages: list[PageInputs]
) -> None:
    found: dict[int, list[list[int]]] = {}

    def read(number: int) -> None:
        crowd = BatchGenerator(model_beside, StopsAt(), completion_batch_size=2, stop_on_repetition=False)
        uids = crowd.insert(pages[4 * number : 4 * number + 4], 16)
        tokens = run(crowd)
        found[number] = [tokens[uid] for uid in uids]

    threads = [threading.Thread(target=read, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(3):
        share = pages[4 * number : 4 * number + 4]
        assert found[number] == [alone(model_beside, page, 16) for page in share]


def test_nothing_else_is_computed_while_a_step_is_being_sent_off(
    monkeypatch: pytest.MonkeyPatch, model_beside: Qwen3VL, pages: list[PageInputs]
) -> None:
    sending, calls = threading.Event(), {"beside": 0, "in its way": 0, "in turn": 0}

    def send_off(step: HalvedStep, tell: Callable[[Tokens], object]) -> None:
        sending.set()
        original(step, tell)
        time.sleep(0.003)  # as if it took long
        sending.clear()

    def noted(compute: Callable[..., None]) -> Callable[..., None]:
        def call(*arrays: object) -> None:
            is_beside = threading.current_thread().name.startswith("launch")
            calls["beside" if is_beside else "in its way" if sending.is_set() else "in turn"] += 1
            compute(*arrays)

        return call

    original = HalvedStep.send_off
    monkeypatch.setattr(HalvedStep, "send_off", send_off)
    for name in ("eval", "async_eval"):
        monkeypatch.setattr(mx, name, noted(getattr(mx, name)))
    crowd = BatchGenerator(model_beside, StopsAt(), completion_batch_size=3, stop_on_repetition=False)
    crowd.insert(pages[:5], [300, 9, 280, 31, 6])  # shelves grow, pages come and go, rows move
    run(crowd)
    crowd.close()
    assert calls["beside"] > 2 * 280
    assert calls["in turn"] > 4
    assert calls["in its way"] == 0
