"""`ocr --dry-run`: says what a run would read and how long that takes. Loads no model and writes nothing."""

import functools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
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


def show(source: "Source", store: "Store", options: ModelOptions, reading: "Reading", verbose: bool) -> None:
    """Print what a run with these options would do; `store` is a preview."""
    processor = functools.cache(lambda: _processor(options.model))
    total = _Total(functools.cache(lambda shape: _prompt_tokens(shape, processor(), options)))
    for document in _noted(forecast(source, Resume(store, reading), reading), verbose):
        line = total.add(document)
        if verbose:
            print(line)
    for line in total.lines():
        print(line)
    if total.to_read:
        note = "" if processor() else " (by Chandra 1's rule; the model isn't on this machine)"
        _print_cost(total, store, note)
    if not verbose:
        _print_failures(total.failures)
    print("Nothing was read or written.")


def _processor(model: str) -> "Processor | None":
    """That of the checkpoint; None where it isn't on this machine."""
    from mlx_chandra.models.hub import cached_checkpoint
    from mlx_chandra.processing.processor import Processor

    folder = cached_checkpoint(model)
    return None if folder is None else Processor.from_folder(folder)


def _prompt_tokens(shape: Shape, processor: "Processor | None", options: ModelOptions) -> int:
    """Tokens of a page of this height and width; by Chandra 1's rule where the checkpoint isn't here.

    Raises PageError for an impossible shape.
    """
    from mlx_chandra.processing.image import ImageSettings, target_grid
    from mlx_chandra.processing.prompt import ModelFamily, PromptType, prompt_text

    asked, max_size = options.asked, options.max_size or None
    if processor is not None:
        return processor.prompt_tokens(shape, asked, max_size)
    settings = ImageSettings(_CHANDRA_MIN_PIXELS, _CHANDRA_MAX_PIXELS)
    text = prompt_text(asked, ModelFamily.CHANDRA_1) if isinstance(asked, PromptType) else asked
    patches = target_grid(shape, settings, max_size).patches
    return patches // settings.merge_size**2 + len(text) // _CHARACTERS_PER_TOKEN


class _Total:
    """All documents together. `tokens_of` counts a page's prompt tokens."""

    def __init__(self, tokens_of: Callable[[Shape], int]) -> None:
        self._tokens_of = tokens_of
        self._kinds: Counter[str] = Counter()
        self._pages = self._stored = self._copies = 0
        self.to_read = self.prompt_tokens = 0
        self.failures: dict[str, str] = {}  # statuses by path

    def add(self, document: DocumentForecast) -> str:
        """Count a document; return the line about it."""
        tokens, failures = 0, dict(document.failures)
        for path, shape in document.shapes:
            try:
                tokens += self._tokens_of(shape)
            except PageError as error:
                failures[path] = error_status(error)
        for copied in document.copies:  # what can't be read there can't be read here
            if copied.origin in self.failures:
                failures[copied.page.path] = self.failures[copied.origin]
        copies = sum(copied.page.path not in failures for copied in document.copies)
        self._kinds[document.kind] += 1
        self._pages += document.pages
        self._stored += document.stored
        self._copies += copies
        self.to_read += document.pages - document.stored - copies - len(failures)
        self.prompt_tokens += tokens
        self.failures |= failures
        parts = [document.kind, counted(document.pages, "page"), *_passed_over(document.stored, copies)]
        parts += [f"{tokens:,} prompt tokens"] if tokens else []
        parts += map(printable, failures.values())
        return f"{printable(document.document.path)}: {', '.join(parts)}"

    def lines(self) -> Iterator[str]:
        """Documents by kind, and pages by what becomes of them."""
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self._kinds.most_common())
        yield f"Documents: {sum(self._kinds.values()):,} ({kinds})"
        parts = _passed_over(self._stored, self._copies)
        parts += [f"{len(self.failures):,} that can't be read"] if self.failures else []
        yield f"Pages: {self._pages:,}: {', '.join([*parts, f'{self.to_read:,} to read'])}"


def _passed_over(stored: int, copies: int) -> list[str]:
    parts = {"read before": stored, "with the same content as others": copies}
    return [f"{count:,} {what}" for what, count in parts.items() if count]


def _noted(documents: Iterable[DocumentForecast], verbose: bool) -> Iterator[DocumentForecast]:
    """The same; every few seconds a note says how many were looked at."""
    noted = time.monotonic()
    for number, document in enumerate(documents, start=1):
        yield document
        if not verbose and time.monotonic() - noted > _SECONDS_BETWEEN_NOTES:
            noted = time.monotonic()
            print(f"{number:,} documents looked at", file=sys.stderr, flush=True)


def _print_cost(total: _Total, store: "Store", note: str) -> None:
    """Tokens, and the time at the speed of the last run in these results."""
    from mlx_chandra.store.status import speed as speed_of

    speed = speed_of(store)
    a_page = speed.output_tokens if speed else _ASSUMED_OUTPUT
    origin = f"as in {counted(speed.pages, 'page')} of these results" if speed else "assumed"
    output = total.to_read * a_page
    two_digits = float(f"{output:.2g}")  # more would promise too much
    print(
        f"Tokens: about {total.prompt_tokens:,} of prompts{note} and {two_digits:,.0f} of output "
        f"({a_page:,.0f} a page, {origin})"
    )
    if speed is None:
        print("Time: not known, for no run is stored here; `mlx-chandra bench` measures the machine")
    else:
        seconds = duration((total.prompt_tokens + output) / speed.tokens_per_second)
        print(f"Time: about {seconds}, at the speed of these results' runs; loading aside")


def _print_failures(failures: dict[str, str]) -> None:
    for path, status in list(failures.items())[:_MOST_FAILURES]:
        print(f"  {printable(path)}: {printable(status)}")
    if len(failures) > _MOST_FAILURES:
        print(f"  and {len(failures) - _MOST_FAILURES:,} more; --verbose lists all")
