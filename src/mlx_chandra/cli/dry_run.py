"""`ocr --dry-run`: says what a run would read and how long that takes. Loads no model and writes nothing."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from mlx_chandra.cli.model import ModelOptions
from mlx_chandra.cli.texts import counted, duration, printable
from mlx_chandra.errors import PageError, error_status
from mlx_chandra.reading.forecast import DocumentForecast, Shape, forecast
from mlx_chandra.reading.resume import Resume

if TYPE_CHECKING:
    from mlx_chandra.cli.inputs import Source
    from mlx_chandra.documents.pages import Reading
    from mlx_chandra.processing.processor import Processor
    from mlx_chandra.store.store import Store

_MOST_FAILURES = 10  # that are listed without --verbose
_SECONDS_BETWEEN_NOTES = 5.0
_ASSUMED_OUTPUT = 1000  # tokens of a page; what `mlx-chandra bench` assumes too
_CHARACTERS_PER_TOKEN = 4  # of a prompt, assumed where the checkpoint's tokenizer isn't here
_CHANDRA_MIN_PIXELS, _CHANDRA_MAX_PIXELS = 65_536, 16_777_216  # Qwen3-VL's own


class PromptTokens:
    """Counts prompt tokens: by the checkpoint's rule where it is on this machine, else by Chandra 1's."""

    def __init__(self, options: ModelOptions) -> None:
        self._options = options
        self._counted: dict[Shape, int] = {}  # scans of one kind have one shape

    @property
    def note(self) -> str:
        """Says so where the rule isn't the checkpoint's own."""
        return "" if self._processor else " (by Chandra 1's rule; the model isn't on this machine)"

    def of(self, shape: Shape) -> int:
        """Tokens of a page of this height and width. Raises PageError for an impossible shape."""
        if shape not in self._counted:
            self._counted[shape] = self._count(shape)
        return self._counted[shape]

    @cached_property
    def _processor(self) -> "Processor | None":
        from mlx_chandra.models.hub import cached_checkpoint
        from mlx_chandra.processing.processor import Processor

        folder = cached_checkpoint(self._options.model)
        return None if folder is None else Processor.from_folder(folder)

    def _count(self, shape: Shape) -> int:
        from mlx_chandra.processing.image import ImageSettings, target_grid
        from mlx_chandra.processing.prompt import ModelFamily, PromptType, prompt_text

        asked, max_size = self._options.asked, self._options.max_size or None
        if self._processor is not None:
            return self._processor.prompt_tokens(shape, asked, max_size)
        settings = ImageSettings(_CHANDRA_MIN_PIXELS, _CHANDRA_MAX_PIXELS)
        text = prompt_text(asked, ModelFamily.CHANDRA_1) if isinstance(asked, PromptType) else asked
        patches = target_grid(shape, settings, max_size).patches
        return patches // settings.merge_size**2 + len(text) // _CHARACTERS_PER_TOKEN


@dataclass
class _Total:
    """All documents together."""

    kinds: Counter[str] = field(default_factory=Counter)
    pages: int = 0
    stored: int = 0
    to_read: int = 0
    copies: int = 0
    prompt_tokens: int = 0
    failures: dict[str, str] = field(default_factory=dict)  # statuses by path

    def add(self, document: DocumentForecast, prompts: PromptTokens) -> str:
        """Count a document; returns the line about it."""
        tokens, failures = 0, dict(document.failures)
        for path, shape in document.shapes:
            try:
                tokens += prompts.of(shape)
            except PageError as error:
                failures[path] = error_status(error)
        for copied in document.copies:  # what can't be read there can't be read here
            if copied.origin in self.failures:
                failures[copied.page.path] = self.failures[copied.origin]
        copies = sum(copied.page.path not in failures for copied in document.copies)
        self.kinds[document.kind] += 1
        self.pages += document.pages
        self.stored += document.stored
        self.to_read += document.pages - document.stored - copies - len(failures)
        self.copies += copies
        self.prompt_tokens += tokens
        self.failures |= failures
        parts = [document.kind, counted(document.pages, "page")]
        parts += [f"{document.stored:,} read before"] if document.stored else []
        parts += [f"{copies:,} with the same content as others"] if copies else []
        parts += [f"{tokens:,} prompt tokens"] if tokens else []
        parts += [printable(status) for status in failures.values()]
        return f"{printable(document.document.path)}: {', '.join(parts)}"


def show(
    source: "Source", store: "Store", options: ModelOptions, reading: "Reading", arguments: argparse.Namespace
) -> None:
    """Print what a run with these options would do; `store` is a preview."""
    total, prompts = _Total(), PromptTokens(options)
    resume = Resume(store, reading)
    for document in _noted(forecast(source, resume, reading), arguments.verbose):
        line = total.add(document, prompts)
        if arguments.verbose:
            print(line)
    for line in [*_lines(total), *(_cost(total, store, prompts) if total.to_read else [])]:
        print(line)
    if not arguments.verbose:
        _print_failures(total.failures)
    print("Nothing was read or written.")


def _noted(documents: Iterable[DocumentForecast], verbose: bool) -> Iterator[DocumentForecast]:
    """The same; every few seconds a note says how many were looked at."""
    noted = time.monotonic()
    for number, document in enumerate(documents, start=1):
        yield document
        if not verbose and time.monotonic() - noted > _SECONDS_BETWEEN_NOTES:
            noted = time.monotonic()
            print(f"{number:,} documents looked at", file=sys.stderr, flush=True)


def _lines(total: _Total) -> Sequence[str]:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in total.kinds.most_common())
    parts = [f"{total.stored:,} read before"] if total.stored else []
    parts += [f"{total.copies:,} with the same content as others"] if total.copies else []
    parts += [f"{len(total.failures):,} that can't be read"] if total.failures else []
    parts += [f"{total.to_read:,} to read"]
    return (
        f"Documents: {sum(total.kinds.values()):,} ({kinds})",
        f"Pages: {total.pages:,}: {', '.join(parts)}",
    )


def _cost(total: _Total, store: "Store", prompts: PromptTokens) -> Sequence[str]:
    """Tokens, and the time at the speed of the last run in these results."""
    from mlx_chandra.store.status import speed as speed_of

    speed = speed_of(store)
    a_page = speed.output_tokens if speed else _ASSUMED_OUTPUT
    origin = f"as in {counted(speed.pages, 'page')} of these results" if speed else "assumed"
    output = total.to_read * a_page
    tokens = (
        f"Tokens: about {total.prompt_tokens:,} of prompts{prompts.note} and {_rounded(output)} of output "
        f"({a_page:,.0f} a page, {origin})"
    )
    if speed is None:
        return tokens, "Time: not known, for no run is stored here; `mlx-chandra bench` measures the machine"
    seconds = (total.prompt_tokens + output) / speed.tokens_per_second
    return tokens, f"Time: about {duration(seconds)}, at the speed of these results' runs; loading aside"


def _print_failures(failures: dict[str, str]) -> None:
    for path, status in list(failures.items())[:_MOST_FAILURES]:
        print(f"  {printable(path)}: {printable(status)}")
    if len(failures) > _MOST_FAILURES:
        print(f"  and {len(failures) - _MOST_FAILURES:,} more; --verbose lists all")


def _rounded(number: float) -> str:
    """With two digits that count: more would promise too much."""
    return f"{float(f'{number:.2g}'):,.0f}"
