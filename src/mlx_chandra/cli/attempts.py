"""The options that say how often a page is read, and what they lead to."""

import argparse
from typing import TYPE_CHECKING

from mlx_chandra.cli.numbers import at_least
from mlx_chandra.errors import UsageError

if TYPE_CHECKING:
    from mlx_chandra.attempts import Retries

_DEFAULT_RETRIES = 3
_KEEP, _RETRY = "keep", "retry"


def add_to(parser: argparse.ArgumentParser) -> None:
    """Adds the options to a command."""
    attempts = parser.add_argument_group("pages that don't read well")
    attempts.add_argument(
        "--retries",
        type=at_least(0),
        default=_DEFAULT_RETRIES,
        metavar="N",
        help="read a page that goes in circles up to N times more; 0: never (default: %(default)s)",
    )
    attempts.add_argument(
        "--on-truncation",
        choices=(_KEEP, _RETRY),
        default=_KEEP,
        help="what to do with a page that reached --max-tokens; retry: read it again (default: %(default)s)",
    )


def retries_of(arguments: argparse.Namespace) -> "Retries":
    """When a page is read again. Raises UsageError for retries of truncated pages where there are none."""
    from mlx_chandra.attempts import Retries

    truncated = arguments.on_truncation == _RETRY
    if truncated and not arguments.retries:
        raise UsageError("--on-truncation retry needs retries.", "Leave it out, or give --retries 1 or more.")
    return Retries(arguments.retries, truncated)
