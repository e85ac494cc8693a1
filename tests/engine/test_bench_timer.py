"""The engine timed on one page: what is run for it, and that nothing runs on afterwards."""

import itertools
from collections.abc import Sequence
from contextlib import closing

import mlx.core as mx
import pytest

from mlx_chandra.engine.bench import FEWEST_STEPS, MOST_STEPS, WARM_UP, EngineTimer, model_facts
from mlx_chandra.engine.generator import BatchGenerator
from mlx_chandra.errors import MeasurementError, UsageError
from mlx_chandra.models.inputs import Page
from mlx_chandra.models.qwen3_vl import Qwen3VL
from mlx_chandra.models.slots import Slots
from mlx_chandra.processing.processor import PageInputs
from tests.fakes import StopsAt


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[BatchGenerator]:
    """The generators that were closed."""
    found: list[BatchGenerator] = []
    close = BatchGenerator.close
    monkeypatch.setattr(BatchGenerator, "close", lambda self: (found.append(self), close(self))[1])
    return found


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the prompts that the model was run on."""
    found: list[int] = []
    prefill = Qwen3VL.prefill

    def counted(self: Qwen3VL, pages: Sequence[Page], attention: object) -> mx.array:
        found.extend(len(page.token_ids) for page in pages)
        return prefill(self, pages, attention)  # type: ignore[arg-type]

    monkeypatch.setattr(Qwen3VL, "prefill", counted)
    return found


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The lengths of the pages in each decode step."""
    found: list[tuple[int, ...]] = []
    step = Slots.step

    def noted(self: "Slots[object]") -> object:
        attention = step(self)
        found.append(self.lengths)
        return attention

    monkeypatch.setattr(Slots, "step", noted)
    return found


def test_reading_a_page_runs_its_whole_prompt_alone_each_time(
    model: Qwen3VL, pages: list[PageInputs], prompts: list[int], closed: list[BatchGenerator]
) -> None:
    with closing(EngineTimer(model, pages[0], 10).prefills()) as passes:
        seconds = list(itertools.islice(passes, 3))
    assert all(taken > 0 for taken in seconds)
    assert prompts == [len(pages[0].token_ids)] * 3
    assert len(closed) == 1


@pytest.mark.parametrize("batch_size", [1, 5, 20])
def test_steps_are_of_pages_spread_over_their_answers_and_need_no_prompt_to_be_read(
    model: Qwen3VL, pages: list[PageInputs], prompts: list[int], steps: list[tuple[int, ...]], batch_size: int
) -> None:
    times = EngineTimer(model, pages[0], 100).decode(batch_size, seconds=0)
    assert not prompts
    assert times.steps == FEWEST_STEPS
    assert len(steps) == WARM_UP + FEWEST_STEPS
    start = len(pages[0].token_ids)
    expected = [start + int(100 * (place + 0.5) / batch_size) + 1 for place in range(batch_size)]
    assert sorted(steps[0]) == expected
    assert all(len(lengths) == batch_size for lengths in steps)


def test_a_quick_model_takes_only_so_many_steps(model: Qwen3VL, pages: list[PageInputs]) -> None:
    assert EngineTimer(model, pages[0], 10).decode(2, seconds=60).steps == MOST_STEPS


def test_the_memory_is_that_of_this_batch_size(model: Qwen3VL, pages: list[PageInputs]) -> None:
    timer = EngineTimer(model, pages[0], 2000)
    many, few = (timer.decode(batch_size, seconds=0).peak_memory for batch_size in (16, 1))
    cache = 15 * 2000 // 2 * model_facts(model).cache_per_token  # of the 15 pages more, at least
    assert many - few > cache
    assert few > model.nbytes


def test_steps_launched_ahead_are_timed_as_well(model_ahead: Qwen3VL, pages: list[PageInputs]) -> None:
    timer = EngineTimer(model_ahead, pages[0], 50)
    with closing(timer.prefills()) as passes:
        assert next(passes) > 0
    assert timer.decode(4, seconds=0).seconds > 0


def test_pages_of_the_greatest_length_have_room_for_the_steps_that_are_timed(
    model: Qwen3VL, pages: list[PageInputs], steps: list[tuple[int, ...]]
) -> None:
    longest = model.config.text.max_position_embeddings
    timer = EngineTimer(model, pages[0], longest - len(pages[0].token_ids))
    assert timer.decode(40, seconds=60).steps == MOST_STEPS
    assert all(len(lengths) == 40 for lengths in steps)


def test_an_answer_that_the_model_has_no_room_for_is_wrong_usage(
    model: Qwen3VL, pages: list[PageInputs]
) -> None:
    room = model.config.text.max_position_embeddings - len(pages[0].token_ids)
    with pytest.raises(UsageError, match=r"prompt tokens.*--output-tokens"):
        EngineTimer(model, pages[0], room + 1)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("[METAL] Command buffer execution failed: Insufficient Memory", r"not enough memory.*--batch-size"),
        ("[METAL] Command buffer execution failed: Caused GPU Hang", r"gave up: .*GPU Hang.*--batch-size"),
    ],
)
@pytest.mark.parametrize("work", ["prefill", "decode"])
def test_a_device_that_gives_up_is_an_error_that_says_what_it_said(
    model: Qwen3VL,
    pages: list[PageInputs],
    monkeypatch: pytest.MonkeyPatch,
    closed: list[BatchGenerator],
    work: str,
    words: str,
    says: str,
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(Qwen3VL, work, fails)
    timer = EngineTimer(model, pages[0], 10)
    with pytest.raises(MeasurementError, match=says):
        next(timer.prefills()) if work == "prefill" else timer.decode(4, seconds=0)
    assert closed


def test_ctrl_c_leaves_no_step_running(
    model: Qwen3VL, pages: list[PageInputs], monkeypatch: pytest.MonkeyPatch, closed: list[BatchGenerator]
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Qwen3VL, "decode", stopped)
    with pytest.raises(KeyboardInterrupt):
        EngineTimer(model, pages[0], 10).decode(4, seconds=0)
    assert len(closed) == 1
    assert not closed[0].has_work


def test_the_most_slots_are_those_that_a_run_would_choose(model: Qwen3VL, pages: list[PageInputs]) -> None:
    assert EngineTimer(model, pages[0], 10).most_slots == BatchGenerator(model, StopsAt()).slots


def test_a_models_facts_are_its_numbers_and_what_they_take(model: Qwen3VL) -> None:
    facts = model_facts(model)
    text = model.config.text
    assert (facts.dtype, facts.bits, facts.group_size) == ("float32", None, None)
    assert facts.weights == model.nbytes
    assert facts.cache_per_token == 8 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim
