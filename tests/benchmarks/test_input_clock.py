"""What counts as idle for input, with a time of its own."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from benchmarks.input_clock import ClockedReader, InputClock, InputTimes, Work
from tests.benchmarks.test_phases import FakeTime

if TYPE_CHECKING:
    from mlx_chandra.engine.generator import BatchGenerator
    from mlx_chandra.pipeline import Reader
    from mlx_chandra.processing.processor import PageInputs


class Engine:
    """Tells a clock what an engine of four slots would."""

    def __init__(self, pages: int) -> None:
        self.time = FakeTime()
        self.clock = InputClock(pages, self.time.now)

    def takes(self, pages: int, after: float = 0.0) -> None:
        """Pages come, after a wait."""
        self.time.passes(after)
        for _ in range(pages):
            self.clock.worked(Work.PREPARE, 0.0, 0.0)
        self.clock.inserted(pages)

    def does(self, seconds: float, lacking: int = 0, prefill: bool = False, has: int = 1) -> None:
        """A pass with so many slots without a page; `has` pages are in the engine after it."""
        self.clock.begins()
        self.time.passes(seconds)
        self.clock.passed(lacking / 4, prefill)
        self.clock.leaves(has, 0, 4)


class Generator:
    """Slots of an engine that takes two seconds for a step."""

    def __init__(self, time: FakeTime, active: int, waiting: int = 0) -> None:
        self.time, self.slots, self.waiting = time, 4, waiting
        self.cache = SimpleNamespace(active=active)

    def insert(self, pages: list[object], limits: list[int] | None = None) -> list[int]:
        self.limits = limits
        return list(range(len(pages)))

    def next(self) -> tuple[list[object], list[object]]:
        self.time.passes(2.0)
        return [], []


def step(pages: int, came: int, active: int, waiting: int = 0) -> InputTimes:
    """The figures of a step: of `pages` in all so many came, and of these so many are in slots and wait."""
    time = FakeTime()
    clock, generator = InputClock(pages, time.now), Generator(time, active, waiting)
    reader = ClockedReader(cast("Reader", generator), cast("BatchGenerator", generator), clock)
    reader.insert([cast("PageInputs", None)] * came)
    reader.next()
    return clock.times()


def test_a_step_with_a_free_slot_is_short_while_pages_are_to_come() -> None:
    times = step(pages=9, came=3, active=3)
    assert (times.short_steps, times.lost) == (2.0, 0.25)


def test_a_step_lacks_no_more_pages_than_are_to_come() -> None:
    assert step(pages=4, came=3, active=1).lost == 0.25


def test_the_last_pages_leave_slots_free_and_starve_nobody() -> None:
    times = step(pages=9, came=9, active=1)
    assert (times.seconds, times.short_steps, times.ready_least) == (2.0, 0.0, None)


def test_full_slots_are_never_short() -> None:
    assert step(pages=9, came=4, active=4).short_steps == 0.0


def test_a_page_that_waits_in_the_engine_for_memory_is_not_late() -> None:
    assert step(pages=9, came=3, active=2, waiting=1).short_steps == 0.0


def test_answers_get_their_limits_in_the_order_in_which_pages_come() -> None:
    time = FakeTime()
    generator, inputs = Generator(time, 0), cast("PageInputs", None)
    reader = ClockedReader(
        cast("Reader", generator), cast("BatchGenerator", generator), InputClock(3, time.now), [7, 8, 9]
    )
    reader.insert([inputs])
    assert generator.limits == [7]
    reader.insert([inputs] * 2)
    assert generator.limits == [8, 9]


def test_the_wait_for_the_first_page_is_told_apart_from_idleness() -> None:
    engine = Engine(pages=4)
    engine.takes(4, after=2.0)
    engine.does(6.0, prefill=True)
    times = engine.clock.times()
    assert (times.first_page, times.seconds, times.idle, times.idle_of_all) == (2.0, 8.0, 0.0, 0.25)
    assert times.lost == 0.0


def test_having_nothing_in_the_engine_is_idle_while_pages_are_to_come() -> None:
    engine = Engine(pages=5)
    engine.takes(4)
    engine.does(6.0, has=0)
    engine.takes(1, after=3.0)
    engine.does(1.0, has=0)
    engine.time.passes(90.0)  # the end of the run
    times = engine.clock.times()
    assert (times.empty, times.no_page_ready, times.idle, times.lost) == (3.0, 3.0, 0.3, 0.3)


def test_a_step_that_lacks_pages_is_idle_as_a_whole_and_lost_by_its_slots() -> None:
    engine = Engine(pages=5)
    engine.takes(3)
    engine.does(2.0, lacking=1)
    engine.takes(1)
    engine.does(6.0)
    times = engine.clock.times()
    assert (times.short_steps, times.idle, times.lost) == (2.0, 0.25, 0.0625)


def test_a_prefill_that_lacks_pages_is_counted_by_itself() -> None:
    engine = Engine(pages=5)
    engine.takes(1)
    engine.does(2.0, lacking=3, prefill=True)
    times = engine.clock.times()
    assert (times.short_prefills, times.idle, times.lost) == (2.0, 0.0, 0.0)


def test_no_page_is_ready_until_a_worker_has_one() -> None:
    engine = Engine(pages=5)
    engine.takes(1)
    engine.clock.begins()
    engine.time.passes(0.5)
    engine.clock.worked(Work.PREPARE, 0.0, 0.0)
    engine.time.passes(1.5)
    engine.clock.passed(0.75, prefill=True)
    engine.does(2.0, lacking=3)
    assert engine.clock.times().no_page_ready == 2.5


def test_pages_that_are_ready_are_counted_where_a_slot_is_free() -> None:
    engine = Engine(pages=9)
    engine.takes(4)
    for _ in range(3):
        engine.clock.worked(Work.PREPARE, 0.0, 0.0)
    engine.does(1.0, has=4)  # no slot is free
    assert engine.clock.times().ready_mean is None
    engine.does(1.0, has=3)
    engine.clock.leaves(active=3, waiting=2, slots=4)
    times = engine.clock.times()
    assert (times.ready_least, times.ready_mean) == (3, 4.0)


def test_what_workers_do_is_said_for_each_page() -> None:
    class Opener:
        def open(self, name: str) -> str:
            return name.upper()

    engine, before = Engine(pages=4), Opener.open
    with engine.clock.around(Opener, "open", Work.OPEN):
        assert Opener().open("a page") == "A PAGE"
    assert Opener.open is before
    assert engine.clock.times().workers["open"].wall > 0
    engine.clock.worked(Work.FIND, 2.0, 1.0)
    assert engine.clock.times().workers["find"].wall == pytest.approx(0.5)
    assert engine.clock.times().workers["find"].cpu == pytest.approx(0.25)
