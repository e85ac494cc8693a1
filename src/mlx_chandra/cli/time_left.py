"""Estimates how long a run still takes, from tokens: a label and a page of a book differ tenfold.

Left are the prompts and outputs of pages that were not begun, taken to be like those of finished ones, and
the rest of the outputs in work. A token costs what the last minute's tokens cost, prompt and output apart.
"""

from collections import deque

from mlx_chandra.reading.progress import Snapshot

_WINDOW = 60.0  # seconds that count as recent
_SPACING = 1.0  # seconds between the snapshots that are kept
_LEAST_REST = 0.25  # of a mean output: what each page in work has still to write, at least
_FEWEST = 2  # finished pages from which a mean output is estimated


class TimeLeft:
    """Looks at a run now and then, and estimates the seconds that it still takes."""

    def __init__(self) -> None:
        self._seen: deque[Snapshot] = deque()

    def look(self, now: Snapshot) -> float | None:
        """Seconds left; None while too little is known, and when nothing is left."""
        past = self._recent(now)
        pages = None if now.total is None else now.total - now.counts.pages
        if not pages or pages < 0 or now.counts.read < _FEWEST:
            return None
        return _seconds(now, past, *_tokens_left(now, pages))

    def _recent(self, now: Snapshot) -> Snapshot | None:
        """The snapshot of a minute ago; None for the beginning of the run."""
        if not self._seen or now.seconds - self._seen[-1].seconds >= _SPACING:
            self._seen.append(now)
        while len(self._seen) > 1 and now.seconds - self._seen[1].seconds >= _WINDOW:
            self._seen.popleft()
        return self._seen[0] if now.seconds - self._seen[0].seconds >= _WINDOW else None


def _tokens_left(now: Snapshot, pages: int) -> tuple[float, float]:
    """Prompt tokens and output tokens of `pages` pages without a result."""
    counts, in_work = now.counts, min(now.stats.active_slots, pages)
    begun = now.stats.generation_tokens - counts.generated_tokens
    # The first pages to finish are the short ones. Until as many are finished as are in work, the mean takes
    # in what the others have written so far (the estimate of a mean lifetime from censored data).
    early = begun if counts.read < in_work else 0
    mean = (counts.generated_tokens + early) / counts.read
    waiting = (pages - in_work) * counts.read / counts.pages  # some never come to the model
    rest = max(in_work * mean - begun, in_work * mean * _LEAST_REST)
    return waiting * counts.prompt_tokens / counts.read, waiting * mean + rest


def _seconds(now: Snapshot, past: Snapshot | None, prompt: float, output: float) -> float | None:
    """What so many tokens take at the recent rate."""
    stats = now.stats
    prompts, outputs, wall = stats.prompt_tokens, stats.generation_tokens, now.seconds
    prompt_time, output_time = stats.prompt_time, stats.generation_time
    if past is not None:
        prompts -= past.stats.prompt_tokens
        outputs -= past.stats.generation_tokens
        wall -= past.seconds
        prompt_time -= past.stats.prompt_time
        output_time -= past.stats.generation_time
    if not prompts + outputs:
        return _seconds(now, None, prompt, output) if past is not None else None
    if not (prompts and outputs and prompt_time + output_time):
        return wall * (prompt + output) / (prompts + outputs)
    idle = wall / (prompt_time + output_time)  # above 1 where the engine waited for pages
    return idle * (prompt * prompt_time / prompts + output * output_time / outputs)
