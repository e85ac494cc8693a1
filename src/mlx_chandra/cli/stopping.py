"""What Ctrl-C and SIGTERM do to a run: the first one stops it in good order, the second one at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 130  # what shells give a program that Ctrl-C ended
_STOPPING = (signal.SIGINT, signal.SIGTERM)
_SAID = b"\nStopping: finished pages are being written. Once more stops at once.\n"


class Stopping:
    """How a run is stopped.

    While nothing was begun yet, the first signal is a KeyboardInterrupt; after `gently()`, it sets the event
    and says so. The second one ends the program at once, which is safe too, as rows and texts are whole or
    not there at all.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self._gentle = False
        self._signals = 0

    def gently(self) -> None:
        """From now on there is something to finish."""
        self._gentle = True

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Hears the signals within its block.

        A thread listens for them, because Python's own handlers wait until the device has done what the main
        thread waits for.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may change what signals do
            return
        heard, said = os.pipe()
        os.set_blocking(said, False)
        threading.Thread(target=self._listen, args=(heard,), name="signals", daemon=True).start()
        before = {number: signal.signal(number, self._interrupt) for number in _STOPPING}
        before_fd = signal.set_wakeup_fd(said, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before_fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(said)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self._gentle:
            raise KeyboardInterrupt

    def _listen(self, heard: int) -> None:
        """Acts on the signals whose numbers come through the pipe, until it is closed."""
        while number := os.read(heard, 1):
            if number[0] not in _STOPPING:
                continue
            self._signals += 1
            if self._signals > 1:
                os._exit(INTERRUPTED)
            if self._gentle:
                self.event.set()
                with contextlib.suppress(OSError):  # nobody may be there to read it
                    os.write(2, _SAID)
        os.close(heard)
