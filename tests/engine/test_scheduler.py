"""Who is admitted when: counts only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from mlx_chandra.engine.scheduler import Scheduler


@dataclass(frozen=True)
class Waiting:
    uid: int
    length: int


def scheduler(*prompts: int, pages: int = 4, tokens: int = 100) -> Scheduler[Waiting]:
    queue: Scheduler[Waiting] = Scheduler(pages, tokens)
    queue.add(Waiting(uid, length) for uid, length in enumerate(prompts))
    return queue


def admitted(
    queue: Scheduler[Waiting],
    free_slots: int = 9,
    fits: Callable[[Sequence[int]], bool] = lambda lengths: True,
) -> list[int]:
    return [request.uid for request in queue.admit(free_slots, fits)]


def test_pages_are_admitted_in_the_order_they_came() -> None:
    queue = scheduler(30, 30, 30, 30)
    assert admitted(queue, free_slots=9) == [0, 1, 2]
    assert admitted(queue, free_slots=9) == [3]
    assert len(queue) == 0


def test_no_more_pages_than_free_slots_are_admitted() -> None:
    queue = scheduler(1, 1, 1)
    assert admitted(queue, free_slots=0) == []
    assert admitted(queue, free_slots=2) == [0, 1]


def test_no_more_prompts_than_the_pass_takes_are_admitted() -> None:
    assert admitted(scheduler(1, 1, 1, pages=2)) == [0, 1]


def test_a_prompt_above_the_token_budget_runs_alone() -> None:
    queue = scheduler(500, 1, tokens=100)
    assert admitted(queue, free_slots=9) == [0]
    assert admitted(queue, free_slots=9) == [1]


def test_a_removed_page_is_never_admitted() -> None:
    queue = scheduler(1, 1, 1)
    assert queue.remove(Waiting(1, 1))
    assert not queue.remove(Waiting(1, 1))
    assert admitted(queue, free_slots=9) == [0, 2]


@pytest.mark.parametrize(("pages", "tokens"), [(0, 10), (1, 0)])
def test_a_pass_that_could_take_nothing_is_refused(pages: int, tokens: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Scheduler(pages, tokens)


def test_pages_that_lost_their_slots_come_first_in_their_order() -> None:
    queue = scheduler(1, 1)
    queue.add_first([Waiting(7, 3), Waiting(8, 3)])
    assert Waiting(7, 3) in queue
    assert len(queue) == 4
    assert admitted(queue, free_slots=3) == [7, 8, 0]


def test_prompts_are_admitted_as_long_as_they_fit_together() -> None:
    queue = scheduler(5, 6, 7)
    assert admitted(queue, fits=lambda lengths: sum(lengths) <= 11) == [0, 1]
    assert admitted(queue, fits=lambda lengths: False) == []
