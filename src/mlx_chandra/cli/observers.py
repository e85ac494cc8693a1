"""Several observers of one run: the screen, a log, and whoever else wants to know."""

from collections.abc import Sequence

from mlx_chandra.attempts import PageResult
from mlx_chandra.pipeline import Observer, Snapshot


class Observers:
    """Tells all of them; `last` is how things stood when they were told last."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers
        self.last: Snapshot | None = None

    def update(self, now: Snapshot) -> None:
        self.last = now
        for observer in self._observers:
            observer.update(now)

    def warn(self, message: str) -> None:
        for observer in self._observers:
            observer.warn(message)

    def finished(self, pages: Sequence[PageResult]) -> None:
        for observer in self._observers:
            observer.finished(pages)
