"""Work done on threads ahead of whoever needs its results, in order, and never too far ahead."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, depth: int
) -> Generator[Future[Result], None, None]:
    """Apply `function` to all items on `workers` threads.

    Yields each item's future in the order of the items, done or not; at most `depth` of them are started
    and not yet yielded. Closing the iterator drops what has not been started.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prepare")
    started: deque[Future[Result]] = deque()
    wanted = True
    try:
        for item in items:
            started.append(pool.submit(function, item))
            if len(started) >= depth:
                yield started.popleft()
        while started:
            yield started.popleft()
        wanted = False  # nothing is left to drop: the last results may still be on their way
    finally:
        pool.shutdown(wait=wanted, cancel_futures=wanted)
