"""Who is admitted when: counts only."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlx_chandra.engine.scheduler import admit


@dataclass(frozen=True)
class Waiting:
    uid: int
    length: int


def queue(*prompts: int) -> deque[Waiting]:
    return deque(Waiting(uid, length) for uid, length in enumerate(prompts))


def admitted(
    waiting: deque[Waiting],
    most: int = 9,
    tokens: int = 100,
    fits: Callable[[Sequence[int]], bool] = lambda lengths: True,
) -> list[int]:
    return [request.uid for request in admit(waiting, most, tokens, fits)]


def test_pages_are_admitted_in_the_order_they_came_as_many_as_may_come() -> None:
    waiting = queue(30, 30, 30, 30, 30)
    assert admitted(waiting) == [0, 1, 2]
    assert admitted(waiting, most=0) == []
    assert admitted(waiting, most=1) == [3]
    assert admitted(waiting) == [4]
    assert not waiting


def test_a_prompt_above_the_token_budget_runs_alone() -> None:
    waiting = queue(500, 1)
    assert admitted(waiting) == [0]
    assert admitted(waiting) == [1]


def test_prompts_are_admitted_as_long_as_they_fit_together() -> None:
    waiting = queue(5, 6, 7)
    assert admitted(waiting, fits=lambda lengths: sum(lengths) <= 11) == [0, 1]
    assert admitted(waiting, fits=lambda lengths: False) == []
