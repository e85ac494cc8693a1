"""What is timed in the time there is, and what is made of it; over machines that are numbers alone."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import pytest

from mlx_chandra.engine.bench import (
    Finding,
    Point,
    Prefill,
    Skipped,
    StepTimes,
    batch_sizes,
    measure,
    pages_per_second,
    recommended,
)
from mlx_chandra.errors import MeasurementError


@dataclass
class Machine:
    """A timer whose clock goes on by what it times. A step of n pages takes step + n * row seconds; five
    steps, warm-up included, are the fewest that a batch size takes."""

    prefill: float
    step: float
    row: float
    first_prefill: float | None = None
    fails_from: int = 1 << 30
    clock: float = 0.0
    granted: list[float] = field(default_factory=list)
    closed: bool = False

    def now(self) -> float:
        return self.clock

    def prefills(self) -> Generator[float, None, None]:
        try:
            took = self.prefill if self.first_prefill is None else self.first_prefill
            while True:
                self.clock += took
                yield took
                took = self.prefill
        finally:
            self.closed = True

    def decode(self, batch_size: int, seconds: float) -> StepTimes:
        if batch_size >= self.fails_from:
            raise MeasurementError("The device gave up: out of memory", "Less.")
        self.granted.append(seconds)
        step = self.step + batch_size * self.row
        steps = max(5, int(seconds / step))
        self.clock += steps * step
        return StepTimes(step, steps, 0)


def found(
    machine: Machine, sizes: Sequence[int] = batch_sizes(64), tokens: int = 1000, seconds: float = 120
) -> list[Finding]:
    return list(measure(machine, sizes, tokens, seconds, machine.now))


def points_in(findings: Sequence[Finding]) -> list[Point]:
    return [finding for finding in findings if isinstance(finding, Point)]


def point(size: int, rate: float) -> Point:
    return Point(size, 0.1, 10, 0, rate, rate * 1000)


@pytest.mark.parametrize(
    ("most", "sizes"),
    [(1, (1,)), (2, (1, 2)), (20, (1, 2, 4, 8, 16, 20)), (64, (1, 2, 4, 8, 16, 32, 64))],
)
def test_batch_sizes_double_up_to_the_most_that_fits(most: int, sizes: tuple[int, ...]) -> None:
    assert batch_sizes(most) == sizes


def test_a_page_costs_its_reading_and_its_share_of_every_later_step() -> None:
    # half a second, then 999 steps of 80 ms for 16 pages
    assert pages_per_second(0.5, 0.08, 16, 1000) == pytest.approx(1 / (0.5 + 4.995))


def test_an_answer_of_one_token_needs_no_step() -> None:
    assert pages_per_second(0.5, 0.08, 16, 1) == 2.0


def test_the_smallest_batch_size_within_three_percent_of_the_best_is_recommended() -> None:
    points = [point(1, 1.0), point(8, 3.87), point(16, 3.89), point(32, 4.0), point(64, 3.95)]
    assert recommended(points) == point(16, 3.89)
    assert recommended([*points, point(128, 4.2)]) == point(128, 4.2)


def test_nothing_timed_is_nothing_recommended() -> None:
    assert recommended([]) is None


def test_a_quick_machine_times_every_batch_size_and_leaves_out_the_first_reading() -> None:
    machine = Machine(prefill=0.04, step=0.01, row=0.0001, first_prefill=9.0)
    findings = found(machine)
    assert findings[0] == Prefill(pytest.approx(0.04), 5, cold=False)
    assert [p.batch_size for p in points_in(findings)] == [1, 2, 4, 8, 16, 32, 64]
    assert not [f for f in findings if isinstance(f, Skipped)]
    assert machine.closed


def test_no_batch_size_takes_more_than_a_few_seconds() -> None:
    machine = Machine(prefill=0.04, step=0.01, row=0.0001)
    found(machine, seconds=1000)
    assert max(machine.granted) == 5.0


def test_rates_follow_from_the_reading_and_the_steps() -> None:
    findings = found(Machine(prefill=0.5, step=0.075, row=0.005), sizes=[1, 16], tokens=101)
    (one, sixteen) = points_in(findings)
    assert one.pages_per_second == pytest.approx(1 / (0.5 + 100 * 0.08))
    assert sixteen.step_seconds == pytest.approx(0.155)
    assert sixteen.pages_per_second == pytest.approx(1 / (0.5 + 100 * 0.155 / 16))
    assert sixteen.tokens_per_second == pytest.approx(101 * sixteen.pages_per_second)


@pytest.mark.parametrize("seconds", [20, 60, 120])
@pytest.mark.parametrize("prefill", [0.05, 1, 5])
@pytest.mark.parametrize("step", [0.01, 0.1, 0.4])
@pytest.mark.parametrize("row", [0.0, 0.005, 0.1])
def test_the_time_is_kept_on_any_machine_that_can_do_anything_in_it(
    seconds: float, prefill: float, step: float, row: float
) -> None:
    machine = Machine(prefill, step, row, first_prefill=1.5 * prefill)
    findings = found(machine, seconds=seconds)
    assert machine.clock <= seconds
    assert points_in(findings)


def test_a_slow_machine_keeps_its_first_reading_and_says_which_batch_sizes_it_left_out() -> None:
    machine = Machine(prefill=30, step=1.0, row=0.5)
    findings = found(machine)
    assert findings[0] == Prefill(30, 1, cold=True)
    timed = [p.batch_size for p in points_in(findings)]
    assert timed == [1, 2, 4, 8]
    assert findings[-1] == Skipped((16, 32, 64), "the time was up")
    assert machine.clock <= 120


def test_a_machine_too_slow_for_anything_still_times_one_reading_and_one_batch_size() -> None:
    findings = found(Machine(prefill=300, step=10, row=0))
    assert findings[0] == Prefill(300, 1, cold=True)
    assert [p.batch_size for p in points_in(findings)] == [1]
    assert findings[-1] == Skipped((2, 4, 8, 16, 32, 64), "the time was up")


def test_a_batch_size_that_the_device_fails_at_ends_the_timing_and_keeps_the_smaller_ones() -> None:
    findings = found(Machine(prefill=0.1, step=0.01, row=0.001, fails_from=16))
    assert [p.batch_size for p in points_in(findings)] == [1, 2, 4, 8]
    assert findings[-1] == Skipped((16, 32, 64), "The device gave up: out of memory")


def test_a_device_that_fails_at_the_first_batch_size_is_an_error() -> None:
    with pytest.raises(MeasurementError, match="gave up"):
        found(Machine(prefill=0.1, step=0.01, row=0.001, fails_from=1))


def test_what_was_timed_is_given_out_at_once() -> None:
    machine = Machine(prefill=1, step=0.1, row=0)
    findings = measure(machine, [1, 2], 100, 120, machine.now)
    assert isinstance(next(findings), Prefill)
    assert not machine.granted
    assert isinstance(next(findings), Point)
    assert len(machine.granted) == 1
