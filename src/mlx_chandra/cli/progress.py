"""Shows a run on the screen: a bar on a terminal, lines elsewhere, a line for each batch with --verbose."""

import contextlib
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn, TextIO

from mlx_chandra.cli.summary import failures
from mlx_chandra.cli.texts import duration, rate, short
from mlx_chandra.cli.time_left import TimeLeft
from mlx_chandra.documents.page import PageResult
from mlx_chandra.reading.progress import Snapshot

if TYPE_CHECKING:
    from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 5.0
_STEPS = 1000  # of the bar


def observer_for(verbose: bool, stream: TextIO) -> "contextlib.closing[Screen]":
    """The observer to use, as a context manager."""
    if verbose:
        return contextlib.closing(BatchLines(stream))
    return contextlib.closing(Bar(stream) if stream.isatty() else Lines(stream))


def status_line(now: Snapshot, left: float | None) -> str:
    """Where a run is, on one line. It changes from the first prefill on; what matters most stands first."""
    counts, stats, seconds = now.counts, now.stats, max(now.seconds, 1e-9)
    parts = [f"{counts.pages:,}{'' if now.total is None else f'/{now.total:,}'} pages"]
    parts += [] if left is None else [f"{duration(left)} left"]
    parts += [f"{stats.active_slots:,} in work"] if stats.active_slots else []
    parts += [f"{counts.failed:,} failed"] if counts.failed else []
    if stats.generation_tokens:
        parts.append(f"{short(stats.generation_tokens)} tokens, {stats.generation_tokens / seconds:,.0f}/s")
    else:
        parts.append("reading pages")
    parts += [f"{rate(counts.pages / seconds)} pages/s"] if counts.pages else []
    return ", ".join(parts)


class Screen:
    """An observer that shows a run. Closing it once more does nothing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._left = TimeLeft()

    def update(self, now: Snapshot) -> None:
        raise NotImplementedError

    def warn(self, message: str) -> None:
        print(f"Warning: {message}", file=self._stream, flush=True)

    def stored(self, results: Sequence[PageResult]) -> None:
        """The next update counts them."""

    def close(self) -> None:
        """Nothing to close."""


class Lines(Screen):
    """A line every few seconds, for logs."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._next = _SECONDS_BETWEEN_LINES

    def update(self, now: Snapshot) -> None:
        left = self._left.look(now)
        if now.seconds >= self._next:
            self._next = now.seconds + _SECONDS_BETWEEN_LINES
            print(status_line(now, left), file=self._stream, flush=True)


class Bar(Screen):
    """A progress bar. It moves with the estimated time, so also while no page is finished."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._bar: tqdm[NoReturn] | None = None

    def update(self, now: Snapshot) -> None:
        bar = self._bar = self._bar or self._new()
        left = self._left.look(now)
        bar.ncols = shutil.get_terminal_size().columns
        bar.set_description_str(status_line(now, left), refresh=False)
        bar.update(max(0, round(_STEPS * _share(now, left)) - bar.n))  # never backwards
        bar.refresh()

    def warn(self, message: str) -> None:
        if self._bar is not None:
            self._bar.clear()
        super().warn(message)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _new(self) -> "tqdm[NoReturn]":
        from tqdm import tqdm

        size = shutil.get_terminal_size()  # some terminals say 0 by 0, which tqdm would believe
        form = "{percentage:3.0f}% |{bar}| {desc}"
        return tqdm(
            total=_STEPS, file=self._stream, bar_format=form, ncols=size.columns, nrows=size.lines, miniters=0
        )


def _share(now: Snapshot, left: float | None) -> float:
    """How much of the run is over: of its time where the time left is known, else of its pages."""
    if left is not None and now.seconds:
        return now.seconds / (now.seconds + left)
    return min(1.0, now.counts.pages / now.total) if now.total else 0.0


class BatchLines(Screen):
    """A line each time that as many pages are finished as there are slots, and one for the rest."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._seconds_left: float | None = None
        self._last: Snapshot | None = None
        self._pages = self._prompt = self._output = 0  # up to the last line, as its seconds
        self._seconds = 0.0

    def update(self, now: Snapshot) -> None:
        self._last, self._seconds_left = now, self._left.look(now)
        if now.counts.pages - self._pages >= now.stats.slots:
            self._print(now)

    def close(self) -> None:
        if self._last is not None and self._pages < self._last.counts.pages:
            self._print(self._last)

    def _print(self, now: Snapshot) -> None:
        stats, counts = now.stats, now.counts
        output = stats.generation_tokens - self._output
        parts = [f"{counts.pages:,}{'' if now.total is None else f' of {now.total:,}'} pages"]
        parts += [failures(counts)] if counts.failed else []
        parts += [f"{counts.retried:,} retried"] if counts.retried else []
        rest = "" if self._seconds_left is None else f", {duration(self._seconds_left)} left"
        print(
            f"{', '.join(parts)}: {stats.prompt_tokens - self._prompt:,} prompt and {output:,} output tokens"
            f", {output / max(now.seconds - self._seconds, 1e-9):,.0f} tokens/s, "
            f"{stats.active_slots} of {stats.slots} slots in use, {stats.waiting} waiting, "
            f"memory {stats.peak_memory / 1e9:.2f} GB{rest}",
            file=self._stream,
            flush=True,
        )
        self._pages, self._seconds = counts.pages, now.seconds
        self._prompt, self._output = stats.prompt_tokens, stats.generation_tokens
