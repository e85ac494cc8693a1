"""Seeing that a page goes in circles: while it still does, by its tokens and by its text, and at its end.

The official client looks at a finished answer and counts how often its last piece stands there in a row
(`detect_repeat_token` in chandra.model.util), at the answer's end and 50 characters before it. A finished
answer is judged here in the same way, `ends_in_circles`. A page in work may repeat itself rightly, in a
dotted line or an empty table, and go on after that. So to be stopped, the same count must be passed *and*
nothing else may have come for `MINIMUM_SPAN` tokens: an empty table of some two hundred cells. Tokens see
long pieces; the text sees pieces that are cut into other tokens each time.
"""

from collections.abc import Sequence

import numpy as np

LONGEST_PIECE = 250  # tokens, or characters of a text
MINIMUM_SPAN = 1024  # tokens
CHECK_EVERY = 64  # tokens
CHECK_TEXT_EVERY = 256  # tokens; a text has to be decoded first
_REPEATS, _SCALING = 4, 3.0  # the official client's settings,
_ENDING = 50  # and the characters that it also does without, such as tags that close what was opened


def allowed_repeats(piece: int) -> int:
    """How often a piece of so many tokens or characters may stand in a row."""
    return int(_REPEATS * (1 + _SCALING / piece))


def is_repeating(tokens: Sequence[int]) -> bool:
    """Whether the end of an answer in work is one piece over and over."""
    if len(tokens) < MINIMUM_SPAN:
        return False
    tail = np.asarray(tokens[-LONGEST_PIECE * (_REPEATS + 2) :], dtype=np.int64)
    for piece in range(1, LONGEST_PIECE + 1):
        differs = np.flatnonzero(tail[piece:] != tail[:-piece])
        same = len(tail) - piece if len(differs) == 0 else len(tail) - piece - 1 - int(differs[-1])
        span = same + piece
        if span >= MINIMUM_SPAN and span // piece > allowed_repeats(piece):
            return True
    return False


def is_one_piece(text: str) -> bool:
    """Whether a text, that of an answer's last `MINIMUM_SPAN` tokens, is one piece over and over."""
    whole = text.strip("\ufffd")  # the first or last character may have lost some of its tokens
    return any(
        len(whole) // piece > allowed_repeats(piece) and whole.startswith(whole[piece:])
        for piece in range(1, min(LONGEST_PIECE, len(whole)) + 1)
    )


def ends_in_circles(text: str) -> bool:
    """Whether a finished answer repeats itself at its end, by the official client's count."""
    return _has_circle(text) or (len(text) > _ENDING and _has_circle(text[:-_ENDING]))


def _has_circle(text: str) -> bool:
    for piece in range(1, min(LONGEST_PIECE, len(text)) + 1):
        span = piece * (allowed_repeats(piece) + 1)
        if span <= len(text) and (tail := text[-span:]).startswith(tail[piece:]):
            return True
    return False
