"""The options that say which model reads, how it is asked, and when a page is retried."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_chandra import __version__
from mlx_chandra.cli.options import add_checkpoint, add_number
from mlx_chandra.documents.page import ReadSettings
from mlx_chandra.errors import UsageError

if TYPE_CHECKING:
    from mlx_chandra.engine.service import Service
    from mlx_chandra.processing.prompt import PromptType
    from mlx_chandra.reading.read import ReadOptions


@dataclass(frozen=True)
class ModelOptions:
    """What the options say of the model.

    None stands for what fits in `dtype` and `batch_size`, and in `prompt` for the words of `prompt_type`.
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

    def read_options(self) -> "ReadOptions":
        """How `read_pages` reads with these options."""
        from mlx_chandra.engine.retries import Retries
        from mlx_chandra.reading.read import ReadOptions

        return ReadOptions(
            prompt=self.asked,
            max_size=self.max_size or None,
            max_tokens=self.max_tokens,
            retries=Retries(self.retries, self.retry_truncated),
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
                "on_truncation": "retry" if self.retry_truncated else "keep",
            },
            checkpoint=fingerprint(self.model),
        )


ServiceFactory = Callable[[ModelOptions], "Service"]


def open_service(options: ModelOptions) -> "Service":
    """Load the model. Raises ModelNotFoundError, CheckpointError or ModelTooLargeError."""
    from mlx_chandra.engine import service

    batch_size = options.batch_size or "auto"
    return service.open_service(options.model, options.dtype, batch_size, options.max_tokens)


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the options to a command."""
    model = parser.add_argument_group("model")
    add_checkpoint(model)
    prompt = model.add_mutually_exclusive_group()
    prompt.add_argument(
        "--prompt-type",
        choices=("ocr_layout", "ocr"),
        default="ocr_layout",
        help="ask for HTML with layout boxes, or for HTML alone (default: %(default)s)",
    )
    prompt.add_argument("--prompt", metavar="TEXT", help="ask with words of your own")
    add_number(model, "--max-tokens", 1, 8192, "longest output (default: 8192)")
    size = "scale larger images down to N pixels on the longest side; 0: never (default: %(default)s)"
    add_number(model, "--max-size", 0, 1024, size)
    retried = parser.add_argument_group("pages that don't read well")
    retries = "retry a page that repeats itself without end up to N times; 0: never (default: %(default)s)"
    add_number(retried, "--retries", 0, 3, retries)
    retried.add_argument(
        "--on-truncation",
        choices=("keep", "retry"),
        default="keep",
        help="what to do with a page that reached --max-tokens; retry: read it again (default: %(default)s)",
    )


def options_of(arguments: argparse.Namespace) -> ModelOptions:
    """What the arguments say. Raises UsageError for retries of truncated pages where there are none."""
    retry_truncated = arguments.on_truncation == "retry"
    if retry_truncated and not arguments.retries:
        raise UsageError("--on-truncation retry needs retries.", "Leave it out, or give --retries 1 or more.")
    return ModelOptions(
        arguments.model,
        arguments.dtype,
        arguments.prompt,
        arguments.prompt_type,
        arguments.max_tokens,
        arguments.max_size,
        arguments.batch_size,
        arguments.retries,
        retry_truncated,
    )
