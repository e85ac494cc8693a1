"""How long a run still takes, from tokens rather than pages: a page of a book and a label differ tenfold.

What is left: the prompts and answers of the pages that were not begun, taken to be like those of the finished
ones, and the rest of the answers that are being written. What a token costs is what the last minute's cost,
prompts and answers apart.
"""

from collections import deque

from mlx_chandra.pipeline import Snapshot

_WINDOW = 60.0  # seconds that count as recent
_BETWEEN = 1.0  # seconds between the moments that are remembered
_LEAST_OF_AN_ANSWER = 0.25  # what the pages in work have still to go at least, as a share of a mean answer


class TimeLeft:
    """Looks at a run now and then, and says how many seconds it still takes."""

    def __init__(self) -> None:
        self._seen: deque[Snapshot] = deque()

    def look(self, now: Snapshot) -> float | None:
        """Seconds left; None while too little is known, and when nothing is left.

        That is until as many pages were answered as are in work: the first ones to be finished are the short
        ones, and a mean of them would promise too much.
        """
        past = self._recent(now)
        pages = None if now.total is None else now.total - now.pages
        if not pages or pages < 0:
            return None
        in_work = min(now.stats.active_slots, pages)
        if not now.work.pages or now.work.pages < in_work:
            return None
        return _seconds(now, past, *_tokens_left(now, pages, in_work))

    def _recent(self, now: Snapshot) -> Snapshot | None:
        """The moment a minute ago, or the first one that was seen; None for the beginning of the run."""
        if not self._seen or now.seconds - self._seen[-1].seconds >= _BETWEEN:
            self._seen.append(now)
        while len(self._seen) > 1 and now.seconds - self._seen[1].seconds >= _WINDOW:
            self._seen.popleft()
        return self._seen[0] if now.seconds - self._seen[0].seconds >= _WINDOW else None


def _tokens_left(now: Snapshot, pages: int, in_work: int) -> tuple[float, float]:
    """Of prompts, and of answers."""
    prompt = now.work.prompt_tokens / now.work.pages
    answer = now.work.generated_tokens / now.work.pages
    waiting = (pages - in_work) * now.work.pages / now.pages  # some never come to the model
    begun = now.stats.generation_tokens - now.work.generated_tokens
    rest = max(in_work * answer - begun, in_work * answer * _LEAST_OF_AN_ANSWER)
    return waiting * prompt, waiting * answer + rest


def _seconds(now: Snapshot, past: Snapshot | None, prompt: float, answer: float) -> float | None:
    """What so many tokens take at the recent rate."""
    stats = now.stats
    read, written, wall = stats.prompt_tokens, stats.generation_tokens, now.seconds
    reading, writing = stats.prompt_time, stats.generation_time
    if past is not None:
        read, written = read - past.stats.prompt_tokens, written - past.stats.generation_tokens
        wall -= past.seconds
        reading -= past.stats.prompt_time
        writing -= past.stats.generation_time
    if not read + written:
        return _seconds(now, None, prompt, answer) if past is not None else None
    if not (read and written and reading + writing):  # all tokens alike
        return wall * (prompt + answer) / (read + written)
    busy = wall / (reading + writing)  # the engine may have waited for pages
    return busy * (prompt * reading / read + answer * writing / written)
