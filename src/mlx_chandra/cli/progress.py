"""What a run looks like on the screen: a bar, plain lines now and then, or a line for each batch of work."""

import contextlib
import shlex
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn, Protocol, TextIO

from mlx_chandra.attempts import PageResult
from mlx_chandra.cli.numbers import counted
from mlx_chandra.cli.time_left import TimeLeft
from mlx_chandra.keeper import Endings
from mlx_chandra.pipeline import Observer, Snapshot, Summary

if TYPE_CHECKING:
    from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 5.0


class Screen(Observer, Protocol):
    """An observer that shows the run, until it is closed; closing it once more does nothing."""

    def close(self) -> None: ...


def observer_for(verbose: bool, stream: TextIO) -> "contextlib.closing[Screen]":
    """The observer to use, as a context manager: a bar on a terminal, else lines."""
    if verbose:
        return contextlib.closing(BatchLines(stream))
    if stream.isatty():
        return contextlib.closing(Bar(stream))
    return contextlib.closing(PlainLines(stream))


def summary_line(summary: Summary, results_path: str) -> str:
    """How the run ended, what it cost, where the failures are listed and where the results are: a line each,
    where there is something to say."""
    done = summary.ok + summary.failed
    rate = f" ({_rate(done / summary.seconds)} pages/s)" if summary.seconds and done else ""
    if not done and not summary.stopped:
        said = "Nothing to do: " + (
            "the one page is in the results already."
            if summary.skipped == 1
            else f"all {summary.skipped:,} pages are in the results already."
        )
    else:
        said = f"{counted(summary.ok, 'page')} ok, {failures(summary.failed, summary.endings)}"
        said += f" in {duration(summary.seconds)}{rate}"
        done_before = "1 was" if summary.skipped == 1 else f"{summary.skipped:,} were"
        said += f"; {done_before} done before." if summary.skipped else "."
        said += _retried(summary.endings)
    if summary.copied:
        were = "was" if summary.copied == 1 else "were"
        copied = counted(summary.copied, "page")
        said += f" {copied} {were} not read, but got the row of a file with the same content."
    if summary.documents:
        said += f" The files of {counted(summary.documents, 'document')} were written."
    if summary.unwritten_documents:
        said += f" Those of {counted(summary.unwritten_documents, 'document')} are missing."
    if summary.unwritten_texts:
        said += f" {summary.unwritten_texts:,} text files could not be written."
    if summary.stopped:
        said += " Stopped before the end: run again with --resume to go on."
    lines = [said, _tokens(summary), _where_failures_are(summary, results_path)]
    return "\n".join([*filter(None, lines), f"Results: {printable(results_path)}"])


def _tokens(summary: Summary) -> str:
    work = summary.work
    if not work.pages:
        return ""
    rate = work.generated_tokens / summary.seconds if summary.seconds else 0
    return (
        f"Tokens: {work.prompt_tokens:,} read, {work.generated_tokens:,} written ({rate:,.0f} tokens/s), "
        f"{work.generated_tokens / work.pages:,.0f} a page."
    )


def _where_failures_are(summary: Summary, results_path: str) -> str:
    """The command that lists them."""
    if not summary.failed:
        return ""
    return f"Failed pages: mlx-chandra status {shlex.quote(printable(results_path))} --failed"


def failures(failed: int, endings: Endings) -> str:
    """How many pages failed, and how many of them ended in which state, in the words of the status."""
    of_model = {
        "empty": endings.empty,
        "truncated": endings.truncated,
        "repetition": endings.repetition,
    }
    said = [f"{count:,} {state}" for state, count in of_model.items() if count]
    if said and endings.error:
        said.append(f"{endings.error:,} other")
    return f"{failed:,} failed" + (f" ({', '.join(said)})" if said else "")


def _retried(endings: Endings) -> str:
    if not endings.retried:
        return ""
    pages = "1 page was" if endings.retried == 1 else f"{endings.retried:,} pages were"
    return f" {pages} read more than once, {endings.mended:,} of them ok in the end."


def _rate(per_second: float) -> str:
    return f"{per_second:.2g}" if 0 < per_second < 1 else f"{per_second:.1f}"


def duration(seconds: float) -> str:
    """12.3 s, 4 min 05 s, 2 h 07 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def printable(text: str) -> str:
    """Text that any terminal takes: on one line, bytes that aren't UTF-8 escaped."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return shown.encode("utf-8", "backslashreplace").decode("utf-8")


class _Rates:
    """Pages and tokens per second between two looks: those of answers, and of prompts that were read."""

    def __init__(self) -> None:
        self._pages, self._tokens, self._read, self._seconds = 0, 0, 0, 0.0
        self.pages = self.tokens = self.read = 0.0

    def look(self, now: Snapshot) -> None:
        seconds = max(now.seconds - self._seconds, 1e-9)
        self.pages = (now.pages - self._pages) / seconds
        self.tokens = (now.stats.generation_tokens - self._tokens) / seconds
        self.read = (now.stats.prompt_tokens - self._read) / seconds
        self._pages, self._tokens, self._seconds = now.pages, now.stats.generation_tokens, now.seconds
        self._read = now.stats.prompt_tokens

    @property
    def said(self) -> str:
        """Tokens per second. Prompts are read in long passes, in which no answer gets on."""
        if not self.tokens and not self.read:
            return "reading pages"
        return f"{self.tokens:,.0f} tokens/s" + (f" (and {self.read:,.0f} read)" if self.read else "")


class Bar:
    """One progress bar with pages/s, tokens/s and the time left."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._left = TimeLeft()
        self._bar: tqdm[NoReturn] | None = None

    def update(self, now: Snapshot) -> None:
        if self._bar is None:
            self._bar = self._new(now)
        self._bar.total = now.total
        self._bar.ncols = shutil.get_terminal_size().columns
        seconds = max(now.seconds, 1e-9)
        tokens = now.stats.generation_tokens / seconds
        parts = [f"{_rate(now.pages / seconds)} pages/s"]
        parts += [f"{tokens:,.0f} tokens/s" if now.stats.generation_tokens else "reading pages"]
        if now.failed:
            parts.append(f"{now.failed:,} failed")
        left = self._left.look(now)
        if left is not None:
            parts.append(f"{duration(left)} left")
        self._bar.set_postfix_str(", ".join(parts), refresh=False)
        self._bar.update(now.pages - self._bar.n)
        self._bar.refresh()

    def warn(self, message: str) -> None:
        if self._bar is not None:
            self._bar.clear()
        print(f"Warning: {message}", file=self._stream)

    def finished(self, pages: Sequence[PageResult]) -> None:
        """The next update counts them."""

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _new(self, now: Snapshot) -> "tqdm[NoReturn]":
        from tqdm import tqdm

        counts = "{n_fmt}/{total_fmt} pages{postfix}"
        form = "{percentage:3.0f}% |{bar}| " + counts
        size = shutil.get_terminal_size()  # some terminals say 0 by 0, which tqdm would believe
        return tqdm(
            total=now.total,
            unit=" pages",
            file=self._stream,
            bar_format=form,
            ncols=size.columns,
            nrows=size.lines,
        )


class PlainLines:
    """A line every few seconds, for logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rates = _Rates()
        self._left = TimeLeft()
        self._next = _SECONDS_BETWEEN_LINES

    def update(self, now: Snapshot) -> None:
        left = self._left.look(now)
        if now.seconds < self._next:
            return
        self._next = now.seconds + _SECONDS_BETWEEN_LINES
        self._rates.look(now)
        of_total = f" of {now.total:,}" if now.total is not None else ""
        parts = [f"{now.pages:,}{of_total} pages", f"{_rate(self._rates.pages)} pages/s", self._rates.said]
        if now.failed:
            parts.append(f"{now.failed:,} failed")
        if left is not None:
            parts.append(f"{duration(left)} left")
        print(", ".join(parts), file=self._stream, flush=True)

    def warn(self, message: str) -> None:
        print(f"Warning: {message}", file=self._stream, flush=True)

    def finished(self, pages: Sequence[PageResult]) -> None:
        """The next update counts them."""

    def close(self) -> None:
        """Nothing to close."""


class BatchLines:
    """A line each time that as many pages are finished as are decoded at once, and one for the rest."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rates = _Rates()
        self._left = TimeLeft()
        self._seconds_left: float | None = None
        self._told: Snapshot | None = None
        self._last: Snapshot | None = None

    def update(self, now: Snapshot) -> None:
        self._last, self._seconds_left = now, self._left.look(now)
        if now.pages - (self._told.pages if self._told else 0) >= now.stats.slots:
            self._tell(now)

    def warn(self, message: str) -> None:
        print(f"Warning: {message}", file=self._stream, flush=True)

    def finished(self, pages: Sequence[PageResult]) -> None:
        """The next update counts them."""

    def close(self) -> None:
        if self._last is not None and (self._told is None or self._told.pages < self._last.pages):
            self._tell(self._last)

    def _tell(self, now: Snapshot) -> None:
        before, self._told = self._told, now
        self._rates.look(now)
        stats = now.stats
        prompt = stats.prompt_tokens - (before.stats.prompt_tokens if before else 0)
        generated = stats.generation_tokens - (before.stats.generation_tokens if before else 0)
        of_total = f" of {now.total:,}" if now.total is not None else ""
        failed = f", {failures(now.failed, now.endings)}" if now.failed else ""
        left = "" if self._seconds_left is None else f", {duration(self._seconds_left)} left"
        retried = f", {now.endings.retried:,} read more than once" if now.endings.retried else ""
        print(
            f"{now.pages:,}{of_total} pages{failed}{retried}: "
            f"{prompt:,} prompt and {generated:,} generated tokens, "
            f"{self._rates.tokens:,.0f} tokens/s, {stats.active_slots} of {stats.slots} slots in use, "
            f"{stats.waiting} waiting, memory {stats.peak_memory / 1e9:.2f} GB{left}",
            file=self._stream,
            flush=True,
        )
