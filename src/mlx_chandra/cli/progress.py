"""Shows a run on the screen: a bar on a terminal, lines elsewhere, a line for each batch with --verbose."""

import contextlib
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn, Protocol, TextIO

from mlx_chandra.cli.summary import failures
from mlx_chandra.cli.texts import duration, rate, short
from mlx_chandra.cli.time_left import TimeLeft
from mlx_chandra.documents.page import PageResult
from mlx_chandra.reading.progress import Observer, Snapshot

if TYPE_CHECKING:
    from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 5.0
_STEPS = 1000  # of the bar


class Screen(Observer, Protocol):
    """An observer that shows the run, until it is closed; closing it once more does nothing."""

    def close(self) -> None: ...


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


class Bar:
    """A progress bar. It moves with the estimated time, so also while no page is finished."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._left = TimeLeft()
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
        print(f"Warning: {message}", file=self._stream)

    def stored(self, results: Sequence[PageResult]) -> None:
        """The next update counts them."""

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
    """How much of the run is over: of its time where that can be told, else of its pages."""
    if left is not None and now.seconds:
        return now.seconds / (now.seconds + left)
    return min(1.0, now.counts.pages / now.total) if now.total else 0.0


class Lines:
    """A line every few seconds, for logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._left = TimeLeft()
        self._next = _SECONDS_BETWEEN_LINES

    def update(self, now: Snapshot) -> None:
        left = self._left.look(now)
        if now.seconds >= self._next:
            self._next = now.seconds + _SECONDS_BETWEEN_LINES
            print(status_line(now, left), file=self._stream, flush=True)

    def warn(self, message: str) -> None:
        print(f"Warning: {message}", file=self._stream, flush=True)

    def stored(self, results: Sequence[PageResult]) -> None:
        """The next update counts them."""

    def close(self) -> None:
        """Nothing to close."""


class BatchLines:
    """A line each time that as many pages are finished as there are slots, and one for the rest."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._left = TimeLeft()
        self._seconds_left: float | None = None
        self._printed: Snapshot | None = None
        self._last: Snapshot | None = None

    def update(self, now: Snapshot) -> None:
        self._last, self._seconds_left = now, self._left.look(now)
        if now.counts.pages - (self._printed.counts.pages if self._printed else 0) >= now.stats.slots:
            self._print(now)

    def warn(self, message: str) -> None:
        print(f"Warning: {message}", file=self._stream, flush=True)

    def stored(self, results: Sequence[PageResult]) -> None:
        """The next update counts them."""

    def close(self) -> None:
        last, printed = self._last, self._printed
        if last is not None and (printed is None or printed.counts.pages < last.counts.pages):
            self._print(last)

    def _print(self, now: Snapshot) -> None:
        before, self._printed = self._printed, now
        stats, counts = now.stats, now.counts
        prompt = stats.prompt_tokens - (before.stats.prompt_tokens if before else 0)
        output = stats.generation_tokens - (before.stats.generation_tokens if before else 0)
        seconds = max(now.seconds - (before.seconds if before else 0.0), 1e-9)
        parts = [f"{counts.pages:,}{'' if now.total is None else f' of {now.total:,}'} pages"]
        parts += [failures(counts)] if counts.failed else []
        parts += [f"{counts.retried:,} retried"] if counts.retried else []
        rest = "" if self._seconds_left is None else f", {duration(self._seconds_left)} left"
        print(
            f"{', '.join(parts)}: {prompt:,} prompt and {output:,} output tokens, "
            f"{output / seconds:,.0f} tokens/s, "
            f"{stats.active_slots} of {stats.slots} slots in use, {stats.waiting} waiting, "
            f"memory {stats.peak_memory / 1e9:.2f} GB{rest}",
            file=self._stream,
            flush=True,
        )
