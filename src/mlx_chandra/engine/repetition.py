"""Sees that a page repeats itself: while it is in work, by its tokens and by its text, and at its end.

The official client looks at a finished answer and counts how often its last unit stands there in a row
(`detect_repeat_token` in chandra.model.util), at the answer's end and 50 characters before it.
`ends_in_repetition` does the same. A page in work may repeat itself rightly, in a dotted line or an empty
table, and go on after that. So to be stopped, it must pass the same count *and* have said nothing else for
`MINIMUM_SPAN` tokens: an empty table of some two hundred cells. Tokens show long units; the text shows units
that are cut into other tokens each time.
"""

from collections.abc import Sequence

import numpy as np

LONGEST_UNIT = 250  # tokens, or characters of a text
MINIMUM_SPAN = 1024  # tokens
CHECK_EVERY = 64  # tokens
CHECK_TEXT_EVERY = 256  # tokens; a text has to be decoded first
_REPEATS, _SCALING = 4, 3.0  # the official client's settings,
_ENDING = 50  # and the characters that it also does without, such as tags that close what was opened


def allowed_repeats(unit: int) -> int:
    """Return how often a unit of so many tokens or characters may stand in a row."""
    return int(_REPEATS * (1 + _SCALING / unit))


def is_repeating(tokens: Sequence[int]) -> bool:
    """Whether the end of an answer in work is one unit over and over."""
    if len(tokens) < MINIMUM_SPAN:
        return False
    tail = np.asarray(tokens[-LONGEST_UNIT * (_REPEATS + 2) :], dtype=np.int64)
    for unit in range(1, LONGEST_UNIT + 1):
        differs = np.flatnonzero(tail[unit:] != tail[:-unit])
        span = len(tail) if len(differs) == 0 else len(tail) - 1 - int(differs[-1])
        if span >= MINIMUM_SPAN and span // unit > allowed_repeats(unit):
            return True
    return False


def is_repeated_text(text: str) -> bool:
    """Whether a text, that of an answer's last `MINIMUM_SPAN` tokens, is one unit over and over."""
    whole = text.strip("\ufffd")  # the first or last character may have lost some of its tokens
    return any(
        len(whole) // unit > allowed_repeats(unit) and whole.startswith(whole[unit:])
        for unit in range(1, min(LONGEST_UNIT, len(whole)) + 1)
    )


def ends_in_repetition(text: str) -> bool:
    """Whether a finished answer repeats itself at its end, by the official client's count."""
    return _repeats_at_end(text) or (len(text) > _ENDING and _repeats_at_end(text[:-_ENDING]))


def _repeats_at_end(text: str) -> bool:
    for unit in range(1, min(LONGEST_UNIT, len(text)) + 1):
        span = unit * (allowed_repeats(unit) + 1)
        if span <= len(text) and (tail := text[-span:]).startswith(tail[unit:]):
            return True
    return False
