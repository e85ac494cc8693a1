"""Seeing that a page goes in circles while it still does.

The official client looks at a finished answer and counts how often its last piece stands there in a row
(chandra.model.util.detect_repeat_token). A page in work may repeat itself rightly, in a dotted line or an
empty table, so here the same count must be passed *and* the repetition must have gone on for
`MINIMUM_SPAN` tokens.
"""

from collections.abc import Sequence

import numpy as np

LONGEST_PIECE = 250  # tokens
MINIMUM_SPAN = 512  # tokens
CHECK_EVERY = 64  # tokens
_REPEATS, _SCALING = 4, 3.0  # the official client's settings


def allowed_repeats(piece: int) -> int:
    """How often a piece of so many tokens may stand in a row."""
    return int(_REPEATS * (1 + _SCALING / piece))


def is_repeating(tokens: Sequence[int]) -> bool:
    """Whether the answer's end is one piece over and over."""
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
