"""Where decode steps are sent off from: the caller's own thread, or one beside it.

On CUDA it takes the host three times as long to send a step off as to put it together in Python, and MLX lets
go of the interpreter meanwhile. So there another thread sends off the second half of a step, while the
caller's puts the next one together.

Only one of them may compute at a time, and each must be able to compute what the other put together: MLX has
a kind of stream for that. The process has one, like the thread, for MLX never takes a stream back.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from threading import RLock
from typing import Protocol

import mlx.core as mx
import numpy as np

Tokens = list[list[int]]  # of each pass that was read


def read_tokens(passes: Sequence[mx.array]) -> Tokens:
    """Wait for passes' tokens, each [n]."""
    return [np.array(tokens).tolist() for tokens in passes]


@dataclass(frozen=True)
class HalvedStep:
    """A decode step put together, to be sent off in halves (`Passes.step` says why).

    Attributes:
        before: What must be there before the first half is sent off; None where nothing is on its way.
        first: The first half's outcome.
        read: Tokens [n] of each pass before it, to be read before the second half is sent off.
        second: The second half's outcome.
    """

    before: mx.array | None
    first: Sequence[mx.array]
    read: Sequence[mx.array]
    second: Sequence[mx.array]

    def send_off(self, tell: Callable[[Tokens], object]) -> None:
        """`tell` is called as soon as the tokens are there."""
        if self.before is not None:
            mx.eval(self.before)
        mx.async_eval(*self.first)  # type: ignore[no-untyped-call]
        tell(read_tokens(self.read))
        mx.async_eval(*self.second)  # type: ignore[no-untyped-call]


class Lane(Protocol):
    """What sends off steps, one after the other."""

    def turn(self) -> AbstractContextManager[object]:
        """Put together and compute within it."""
        ...

    def send(self, step: HalvedStep) -> Tokens:
        """Have a step sent off; returns what it reads, perhaps before all of it is sent off.

        Raises:
            RuntimeError: This step, or the one before it, couldn't be sent off.
        """
        ...

    def wait(self) -> None:
        """Return when nothing is being sent off any more; so before anything else is computed.

        Raises:
            RuntimeError: The last step couldn't be sent off.
        """
        ...

    def forget(self) -> None:
        """The same, whatever became of the last step."""
        ...


class SameThread:
    """Whoever brings a step sends it off."""

    def turn(self) -> AbstractContextManager[object]:
        return nullcontext()

    def send(self, step: HalvedStep) -> Tokens:
        known: Tokens = []
        step.send_off(known.extend)
        return known

    def wait(self) -> None:
        """Nothing to wait for."""

    def forget(self) -> None:
        """Nothing to wait for."""


@dataclass(frozen=True)
class _Beside:
    """The thread that sends off, the stream of what it sends off, and whose turn it is to put together."""

    thread: ThreadPoolExecutor
    stream: mx.Stream
    turn: RLock


@cache
def _beside() -> _Beside:
    """The same for all of the process."""
    stream = mx.new_thread_unsafe_stream(mx.default_device())
    return _Beside(ThreadPoolExecutor(1, thread_name_prefix="launch"), stream, RLock())


class OtherThread:
    """Steps are sent off beside whoever brings them."""

    def __init__(self) -> None:
        self._beside = _beside()
        self._last: Future[None] | None = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._beside.turn, mx.stream(self._beside.stream):
            yield

    def send(self, step: HalvedStep) -> Tokens:
        known: Future[Tokens] = Future()
        self._last = self._beside.thread.submit(_send_off, step, known, self._last)
        try:
            return known.result()
        except Exception:
            self._last = None  # it is said once
            raise

    def wait(self) -> None:
        self._beside.thread.submit(_nothing).result()  # other generators' steps too
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def forget(self) -> None:
        self._last = None
        self.wait()


def _send_off(step: HalvedStep, known: "Future[Tokens]", last: "Future[None] | None") -> None:
    """Send off a step if the last one, which is over, was sent off."""
    try:
        if last is not None:
            last.result()
        step.send_off(known.set_result)
    except BaseException as error:
        if not known.done():
            known.set_exception(error)
        raise


def _nothing() -> None:
    """For waiting until a thread has nothing else to do."""


def lane_for(other_thread: bool) -> Lane:
    """The lane of one generator."""
    return OtherThread() if other_thread else SameThread()
