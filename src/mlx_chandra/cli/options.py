"""What commands share in declaring their options."""

import argparse
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
    Options = argparse.ArgumentParser | argparse._ArgumentGroup


def at_least(least: int) -> Callable[[str], int]:
    """Return an argparse type: a whole number from `least` on."""

    def whole_number(text: str) -> int:
        with contextlib.suppress(ValueError):
            if (number := int(text)) >= least:
                return number
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")

    return whole_number


def batch_size(text: str) -> int | None:
    """An argparse type: a whole number from 1 on, or None for `auto`."""
    if text == "auto":
        return None
    try:
        return at_least(1)(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor a whole number from 1 on") from None


def add_number(options: "Options", name: str, least: int, default: int | None, help: str) -> None:
    """Add an option that takes a whole number from `least` on."""
    options.add_argument(name, type=at_least(least), default=default, metavar="N", help=help)


def add_checkpoint(options: "Options") -> None:
    """Add --model and --dtype."""
    options.add_argument(
        "--model",
        default="mlx-community/chandra-bf16",
        help="demo, a folder, or a Hugging Face name (default: %(default)s)",
    )
    options.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="numbers of the model (default: what fits)",
    )
