"""The options that say which model reads, how it is asked, and when a page is retried."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_chandra import __version__
from mlx_chandra.cli import checkpoint
from mlx_chandra.cli.numbers import at_least
from mlx_chandra.documents.page import ReadSettings
from mlx_chandra.errors import UsageError

if TYPE_CHECKING:
    from mlx_chandra.engine.retries import Retries
    from mlx_chandra.engine.service import Service
    from mlx_chandra.processing.prompt import PromptType
    from mlx_chandra.reading.read import ReadOptions

_KEEP, _RETRY = "keep", "retry"


@dataclass(frozen=True)
class ModelOptions:
    """What the options say of the model.

    Attributes:
        model: demo, a folder or a hub name.
        dtype: float32, bfloat16 or float16; None: what fits.
        prompt: The user's own words; None: those of `prompt_type`.
        prompt_type: ocr_layout or ocr.
        max_tokens: Longest output.
        max_size: Longest side in pixels; 0: no limit.
        batch_size: Pages decoded at once; None: what fits the machine.
        retries: How often a page is retried.
        retry_truncated: Whether one that reached `max_tokens` is retried too.
    """

    model: str
    dtype: str | None
    prompt: str | None
    prompt_type: str
    max_tokens: int
    max_size: int
    batch_size: int | None
    retries: int
    retry_truncated: bool

    @property
    def asked(self) -> "str | PromptType":
        """The prompt as `Processor.prepare` takes it."""
        from mlx_chandra.processing.prompt import PromptType

        return PromptType(self.prompt_type) if self.prompt is None else self.prompt

    def retry_rule(self) -> "Retries":
        from mlx_chandra.engine.retries import Retries

        return Retries(self.retries, self.retry_truncated)

    def read_options(self) -> "ReadOptions":
        """How `read_pages` reads with these options."""
        from mlx_chandra.reading.read import ReadOptions

        return ReadOptions(
            prompt=self.asked,
            max_size=self.max_size or None,
            max_tokens=self.max_tokens,
            retries=self.retry_rule(),
        )

    def settings(self) -> ReadSettings:
        """What stored pages are compared by. The checkpoint is None while it isn't on this machine."""
        from mlx_chandra.models.fingerprint import fingerprint

        return ReadSettings(
            program=f"mlx-chandra {__version__}",
            model=self.model,
            settings={
                "prompt_type": None if self.prompt is not None else self.prompt_type,
                "prompt": self.prompt,
                "max_tokens": self.max_tokens,
                "max_size": self.max_size,
                "dtype": self.dtype,
                "retries": self.retries,
                "on_truncation": _RETRY if self.retry_truncated else _KEEP,
            },
            checkpoint=fingerprint(self.model),
        )


ServiceFactory = Callable[[ModelOptions], "Service"]


def open_service(options: ModelOptions) -> "Service":
    """Load the model. Raises ModelNotFoundError, CheckpointError or ModelTooLargeError."""
    from mlx_chandra.engine import service

    return service.open_service(
        options.model, options.dtype, options.batch_size or "auto", options.max_tokens
    )


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the options to a command."""
    model = parser.add_argument_group("model")
    checkpoint.add_to(model)
    prompt = model.add_mutually_exclusive_group()
    prompt.add_argument(
        "--prompt-type",
        choices=("ocr_layout", "ocr"),
        default="ocr_layout",
        help="ask for HTML with layout boxes, or for HTML alone (default: %(default)s)",
    )
    prompt.add_argument("--prompt", metavar="TEXT", help="ask with words of your own")
    model.add_argument(
        "--max-tokens", type=at_least(1), default=8192, metavar="N", help="longest output (default: 8192)"
    )
    model.add_argument(
        "--max-size",
        type=at_least(0),
        default=1024,
        metavar="N",
        help="scale larger images down to N pixels on the longest side; 0: never (default: %(default)s)",
    )
    retries = parser.add_argument_group("pages that don't read well")
    retries.add_argument(
        "--retries",
        type=at_least(0),
        default=3,
        metavar="N",
        help="retry a page that repeats itself without end up to N times; 0: never (default: %(default)s)",
    )
    retries.add_argument(
        "--on-truncation",
        choices=(_KEEP, _RETRY),
        default=_KEEP,
        help="what to do with a page that reached --max-tokens; retry: read it again (default: %(default)s)",
    )


def options_of(arguments: argparse.Namespace) -> ModelOptions:
    """What the arguments say. Raises UsageError for retries of truncated pages where there are none."""
    retry_truncated = arguments.on_truncation == _RETRY
    if retry_truncated and not arguments.retries:
        raise UsageError("--on-truncation retry needs retries.", "Leave it out, or give --retries 1 or more.")
    return ModelOptions(
        model=arguments.model,
        dtype=arguments.dtype,
        prompt=arguments.prompt,
        prompt_type=arguments.prompt_type,
        max_tokens=arguments.max_tokens,
        max_size=arguments.max_size,
        batch_size=arguments.batch_size,
        retries=arguments.retries,
        retry_truncated=retry_truncated,
    )
