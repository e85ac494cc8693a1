"""Daemon threads that compute, kept for the next service when one ends.

MLX keeps compiled functions for each thread and releases them, Python objects, when the thread ends. Where
that meets the end of the program, the process is aborted. A thread that waits for work never comes to it. And
the next service finds what is compiled.
"""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Running:
    """A function that runs on a thread of this module."""

    function: Callable[[], None]
    ended: threading.Event = field(default_factory=threading.Event)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the function has returned; return whether it has. Doesn't wait on its own thread."""
        return threading.current_thread().name == NAME or self.ended.wait(timeout)


NAME = "engine"

_idle: list["queue.SimpleQueue[Running]"] = []  # the inboxes of threads without work
_lock = threading.Lock()


def run_on_thread(function: Callable[[], None]) -> Running:
    """Run a function on a thread that waits for work, or on a new one. It must not raise."""
    with _lock:
        inbox = _idle.pop() if _idle else None
    if inbox is None:
        inbox = queue.SimpleQueue()
        threading.Thread(target=_work, args=(inbox,), name=NAME, daemon=True).start()
    running = Running(function)
    inbox.put(running)
    return running


def _work(inbox: "queue.SimpleQueue[Running]") -> None:
    while True:
        running = inbox.get()
        running.function()
        ended = running.ended
        del running  # and with it the engine, before somebody else uses its memory
        with _lock:
            _idle.append(inbox)
        ended.set()
