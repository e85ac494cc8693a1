"""Types of numbers for argparse."""

import argparse
import contextlib


class at_least:
    """An argparse type: a whole number from `least` on."""

    def __init__(self, least: int) -> None:
        self._least = least

    def __call__(self, text: str) -> int:
        with contextlib.suppress(ValueError):
            if (number := int(text)) >= self._least:
                return number
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {self._least} on")


def batch_size(text: str) -> int | None:
    """An argparse type: a whole number from 1 on, or None for `auto`."""
    if text == "auto":
        return None
    with contextlib.suppress(ValueError):
        if (number := int(text)) >= 1:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor a whole number from 1 on")
