"""The clock of the phases, with a time of its own."""

from collections.abc import Callable

import pytest

from benchmarks.phases import Phase, PhaseClock


class FakeTime:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def passes(self, seconds: float) -> None:
        self.seconds += seconds


class Reader:
    """Takes one second to prepare a picture, and calls itself for a prompt."""

    def __init__(self, time: FakeTime) -> None:
        self.time = time

    def picture(self) -> str:
        self.time.passes(1.0)
        return "features"

    def prompt(self) -> str:
        self.time.passes(2.0)
        return self.picture() + " and text"

    def fail(self) -> None:
        self.time.passes(4.0)
        raise RuntimeError("broken")


def clock_over(time: FakeTime, wait: Callable[[object], None] = lambda result: None) -> PhaseClock:
    return PhaseClock(wait, time.now)


def test_a_phase_inside_another_counts_once_as_itself() -> None:
    time = FakeTime()
    clock = clock_over(time)
    with clock.around(Reader, "picture", Phase.VISION), clock.around(Reader, "prompt", Phase.PREFILL):
        assert Reader(time).prompt() == "features and text"
    times = clock.times(wall=10.0)
    assert (times.vision, times.prefill, times.decode, times.host) == (1.0, 2.0, 0.0, 7.0)


def test_waiting_for_the_device_belongs_to_the_phase_but_not_to_its_launch() -> None:
    time = FakeTime()
    clock = clock_over(time, wait=lambda result: time.passes(5.0))
    with clock.around(Reader, "picture", Phase.DECODE):
        Reader(time).picture()
        Reader(time).picture()
    times = clock.times(wall=12.0)
    assert (times.decode, times.decode_launch, times.decode_steps, times.host) == (12.0, 2.0, 2, 0.0)


def test_the_method_is_as_before_afterwards_and_a_failure_passes_through() -> None:
    time, before = FakeTime(), Reader.fail
    clock = clock_over(time)
    with pytest.raises(RuntimeError, match="broken"), clock.around(Reader, "fail", Phase.VISION):
        Reader(time).fail()
    assert Reader.fail is before
    assert clock.times(wall=4.0).vision == 4.0
