"""Work on threads, ahead but not too far."""

import threading
from concurrent.futures import Future

import pytest

from mlx_chandra.engine.ahead import run_ahead


def results(futures: list[Future[int]]) -> list[int]:
    return [future.result() for future in futures]


def test_results_come_in_the_order_of_the_items() -> None:
    first_may_end = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            first_may_end.wait(5)
        if item == 3:
            first_may_end.set()
        return item * item

    assert results(list(run_ahead(work, range(6), workers=4, depth=6))) == [0, 1, 4, 9, 16, 25]


def test_no_more_than_the_depth_is_started_before_it_is_asked_for() -> None:
    started: list[int] = []
    work = run_ahead(started.append, range(100), workers=2, depth=5)
    next(work).result()
    work.close()
    assert len(started) <= 5


def test_an_error_is_the_business_of_who_asks_for_that_result() -> None:
    def work(item: int) -> int:
        if item == 1:
            raise RuntimeError("item 1")
        return item

    first, second, third = run_ahead(work, range(3), workers=1, depth=2)
    assert (first.result(), third.result()) == (0, 2)
    with pytest.raises(RuntimeError, match="item 1"):
        second.result()
