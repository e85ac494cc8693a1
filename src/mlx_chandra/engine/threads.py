"""Daemon threads that compute, kept for the next service when one ends.

MLX keeps compiled functions for each thread and releases them, Python objects, when the thread ends. Where
that meets the end of the program, the process is aborted. A thread that waits for work never comes to it. And
the next service finds what is compiled.
"""

import queue
import threading
from collections.abc import Callable

NAME = "engine"

_Inbox = queue.SimpleQueue[tuple[Callable[[], None], threading.Event]]
_idle: list[_Inbox] = []  # of threads without work


def run_on_thread(function: Callable[[], None]) -> threading.Event:
    """Run a function on a thread that waits for work, or on a new one. It must not raise.

    Returns:
        Is set when the function has returned.
    """
    try:
        inbox = _idle.pop()
    except IndexError:
        inbox = queue.SimpleQueue()
        threading.Thread(target=_work, args=(inbox,), name=NAME, daemon=True).start()
    ended = threading.Event()
    inbox.put((function, ended))
    return ended


def _work(inbox: _Inbox) -> None:
    while True:
        function, ended = inbox.get()
        function()
        del function  # and with it the engine, before somebody else uses its memory
        _idle.append(inbox)
        ended.set()
