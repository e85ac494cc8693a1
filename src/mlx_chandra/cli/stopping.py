"""Stops a run on Ctrl-C or SIGTERM: the first one in good order, the second one at once."""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from mlx_chandra.errors import ExitCode

SECONDS_TO_LEAVE = 5.0  # for a stopped program, from its last line to its end
_STOPPING = (signal.SIGINT, signal.SIGTERM)
_LEAVING = b"\0"  # no signal's number
_SAID = b"\nStopping: finished pages are being written. Once more stops at once.\n"


class Stopping:
    """Stops a run.

    Before `gently()`, the first signal raises KeyboardInterrupt. After it, the first signal sets `event` and
    says so. The second signal ends the program at once. Rows and texts are whole or not there at all, so
    that is safe too.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self._gentle = False
        self._signals = 0

    def gently(self) -> None:
        """Lets the next signal set the event, because there is work to finish from now on."""
        self._gentle = True

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Acts on signals within its block, and after a first one until the program has ended.

        A thread reads them, because Python's own handlers run on the main thread, which may wait for the
        device. A stopped program gets `SECONDS_TO_LEAVE` behind the block: a thread in a library may
        never come back.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may change what signals do
            return
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        threading.Thread(target=self._listen, args=(reader,), name="signals", daemon=True).start()
        before = {number: signal.signal(number, self._interrupt) for number in _STOPPING}
        before_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            yield
        finally:
            if self._signals:
                self._gentle = True  # no KeyboardInterrupt while Python takes itself down
                with contextlib.suppress(OSError, ValueError):  # stdout may be closed
                    sys.stdout.flush()
                os.write(writer, _LEAVING)
            else:
                signal.set_wakeup_fd(before_fd)
                for number, handler in before.items():
                    signal.signal(number, handler)
                os.close(writer)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self._gentle:
            raise KeyboardInterrupt

    def _listen(self, reader: int) -> None:
        """Acts on the signals whose numbers come through the pipe, until it is closed."""
        limit = None
        while select.select([reader], [], [], limit)[0]:
            number = os.read(reader, 1)
            if not number:
                os.close(reader)
                return
            if number == _LEAVING:
                limit = SECONDS_TO_LEAVE
            elif number[0] in _STOPPING:
                self._count()
        os._exit(ExitCode.INTERRUPTED)

    def _count(self) -> None:
        self._signals += 1
        if self._signals > 1:
            os._exit(ExitCode.INTERRUPTED)
        if self._gentle:
            self.event.set()
            with contextlib.suppress(OSError):  # nobody may be there to read it
                os.write(2, _SAID)
