"""Where the time goes: vision, prefill, decode, and the host between them.

Waiting for the device at the end of every phase changes the speed, so phases are timed in a run of their own,
by wrapping an engine's functions from outside.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from unittest.mock import patch


class Phase(StrEnum):
    VISION = "vision"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True)
class PhaseTimes:
    """Seconds of one profiled run. `host` is what lies outside the three phases.

    `decode_launch` is the part of decode in which the host only prepared the step (Python and graph), and
    `decode_steps` the number of steps.
    """

    vision: float
    prefill: float
    decode: float
    host: float
    decode_launch: float
    decode_steps: int


class PhaseClock:
    """Adds up seconds per phase; a phase inside another one is counted once, as itself.

    Args:
        wait: Called with what a phase returned; returns when the device has computed it.
    """

    def __init__(self, wait: Callable[[object], None], now: Callable[[], float] = time.perf_counter) -> None:
        self._wait, self._now = wait, now
        self._seconds = dict.fromkeys(Phase, 0.0)
        self._launch = dict.fromkeys(Phase, 0.0)
        self._calls = dict.fromkeys(Phase, 0)
        self._open: list[tuple[Phase, float, float]] = []  # phase, its start, seconds of phases inside it

    def enter(self, phase: Phase) -> None:
        self._open.append((phase, self._now(), 0.0))

    def leave(self, result: object) -> None:
        """End the innermost phase, once the device has computed `result`."""
        returned = self._now()
        self._wait(result)
        phase, started, inside = self._open.pop()
        whole = self._now() - started
        self._seconds[phase] += whole - inside
        self._launch[phase] += returned - started - inside
        self._calls[phase] += 1
        if self._open:
            outer, outer_start, outer_inside = self._open.pop()
            self._open.append((outer, outer_start, outer_inside + whole))

    @contextmanager
    def around(self, owner: type, method: str, phase: Phase) -> Iterator[None]:
        """Time every call of a class's method while the context lasts."""
        original = getattr(owner, method)

        def timed(*arguments: Any, **named: Any) -> Any:
            self.enter(phase)
            result = None
            try:
                result = original(*arguments, **named)
            finally:
                self.leave(result)
            return result

        with patch.object(owner, method, timed):
            yield

    def times(self, wall: float) -> PhaseTimes:
        """The phases of a run that took `wall` seconds."""
        return PhaseTimes(
            vision=self._seconds[Phase.VISION],
            prefill=self._seconds[Phase.PREFILL],
            decode=self._seconds[Phase.DECODE],
            host=wall - sum(self._seconds.values()),
            decode_launch=self._launch[Phase.DECODE],
            decode_steps=self._calls[Phase.DECODE],
        )
