"""Finished pages, written: a page's text file first, then its row, both synced.

On a thread of its own and in groups, so that syncing the disk never holds up the device. What is kept of a
page is one `PageResult`; its text file, its row, and what its document's files say of it all come from that.
"""

import queue
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlx_chandra.assembly import Follower
from mlx_chandra.attempts import PageResult
from mlx_chandra.documents.page import Page
from mlx_chandra.done import ByPath, Done
from mlx_chandra.errors import OutputError, PageError, PageState, error_status, state_of
from mlx_chandra.feed import Copied
from mlx_chandra.outputs.journal import JournalPage
from mlx_chandra.outputs.ledger import PageFacts
from mlx_chandra.outputs.results_csv import ResultsFile, Row
from mlx_chandra.outputs.writers import TextFiles, text_path

_LARGEST_GROUP = 256  # pages that are synced to the disk together


@dataclass(frozen=True)
class Endings:
    """How pages ended that weren't plainly read, in numbers: each state but ok; how many were read more than
    once, whatever came of it; and how many of these ended ok."""

    empty: int = 0
    truncated: int = 0
    repetition: int = 0
    error: int = 0
    retried: int = 0
    mended: int = 0


@dataclass(frozen=True)
class Work:
    """What the model did for finished pages: how many came to it, and the tokens of their prompts and of all
    their answers."""

    pages: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0


Told = Callable[[Sequence[PageResult]], None]
"""Is told, on the keeper's thread, what is on the disk now."""


def _nobody(results: Sequence[PageResult]) -> None:
    """For runs in which nobody wants to know."""


class Keeper:
    """Writes finished pages, and counts them.

    Args:
        results: The table.
        box_scale: What the boxes in answers are normalised to; can be set later, before the first of them.
        texts: Whether each page's text gets a file of its own.
        text_dir: Top of the tree of text files; None puts them beside the images.
        documents: Are told of each page.
        done: Remembers how pages were read.
        told: Is told of each page, too.
    """

    def __init__(
        self,
        results: ResultsFile,
        box_scale: int | None,
        texts: bool,
        text_dir: str | None,
        documents: Follower,
        done: Done | None = None,
        told: Told = _nobody,
    ) -> None:
        self.ok = self.failed = self.copied = self.unwritten_texts = 0
        self.endings, self.work = Endings(), Work()
        self.first_unwritten: OutputError | None = None
        self.box_scale = box_scale
        self._results, self._documents, self._done = results, documents, done or ByPath()
        self._texts, self._text_dir = texts, text_dir
        self._told = told
        self._files = TextFiles(results.path)
        self._finished: queue.SimpleQueue[PageResult | Copied | None] = queue.SimpleQueue()
        self._waiting: dict[str, list[Copied]] = {}  # by the page that they wait for
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="keep", daemon=True)
        self._thread.start()

    def keep(self, page: PageResult | Copied) -> None:
        """Writes the page soon; returns at once. A copy waits until the page that it is of has its row."""
        self._finished.put(page)

    def check(self) -> None:
        """Raises what went wrong with writing."""
        if self._error is not None:
            raise self._error
        self._documents.check()

    def close(self) -> None:
        """Returns when all pages are on the disk; raises what went wrong."""
        self._finished.put(None)
        self._thread.join()
        self.check()

    def _work(self) -> None:
        try:
            group: list[PageResult | Copied | None] = []
            while None not in group:
                group = [self._finished.get()]
                while len(group) < _LARGEST_GROUP and not self._finished.empty():
                    group.append(self._finished.get())
                self._write([page for page in group if page is not None])
        except BaseException as error:
            self._error = error

    def _write(self, pages: Sequence[PageResult | Copied]) -> None:
        """Writes pages, and the copies that waited for them."""
        while pages:
            group = [page if isinstance(page, PageResult) else self._copy(page) for page in pages]
            written = [result for result in group if result is not None]
            if written:
                self._write_group(written)
            pages = [copy for result in written for copy in self._waiting.pop(result.page.path, ())]

    def _copy(self, copied: Copied) -> PageResult | None:
        """What the page gets that is of the same bytes as another one; None while that one has no row."""
        place, known = (None, None) if copied.row is None else (copied.row.place, copied.row.known)
        if known is None:
            if copied.origin not in self._results:
                self._waiting.setdefault(copied.origin, []).append(copied)
                return None
            known = self._done.known(copied.origin)
        row = self._results.row(copied.origin, place)
        if row is None or known is None:
            trouble = PageError("internal", "the row of a file with the same content can't be read")
            return PageResult(copied.page, PageState.ERROR, error_status(trouble))
        return PageResult(
            page=copied.page,
            state=state_of(row.status),
            status=row.status,
            text=row.text,
            size=known.size,
            prompt_tokens=known.prompt_tokens,
            generated_tokens=known.generated_tokens,
            answer_tokens=known.answer_tokens,
            finish_reason=known.finish_reason,
            attempts=known.attempts,
            seconds=known.seconds,
            box_scale=known.box_scale,
            copy_of=copied.origin,
        )

    def _write_group(self, group: list[PageResult]) -> None:
        texts = {self._text_path(result.page): result.text for result in group if result.text.strip()}
        failed = self._files.write(texts if self._texts else {})
        self._documents.record([self._facts(result) for result in group])
        self._results.append([Row(result.page.path, result.status, result.text) for result in group])
        self._done.keep([self._journal_page(result) for result in group])
        self._documents.finished([result.page for result in group])
        self.unwritten_texts += len(failed)
        self.first_unwritten = self.first_unwritten or next(iter(failed.values()), None)
        self._count(group)
        self._told(group)

    def _count(self, group: list[PageResult]) -> None:
        states = Counter(result.state for result in group)
        retried = [result for result in group if result.attempts > 1 and result.copy_of is None]
        self.copied += sum(result.copy_of is not None for result in group)
        self.ok += states[PageState.OK]
        self.failed += len(group) - states[PageState.OK]
        self.endings = Endings(
            empty=self.endings.empty + states[PageState.EMPTY],
            truncated=self.endings.truncated + states[PageState.TRUNCATED],
            repetition=self.endings.repetition + states[PageState.REPETITION],
            error=self.endings.error + states[PageState.ERROR],
            retried=self.endings.retried + len(retried),
            mended=self.endings.mended + sum(result.state is PageState.OK for result in retried),
        )
        read = [result for result in group if result.attempts and result.copy_of is None]
        self.work = Work(
            pages=self.work.pages + len(read),
            prompt_tokens=self.work.prompt_tokens + sum(result.prompt_tokens for result in read),
            generated_tokens=self.work.generated_tokens + sum(result.generated_tokens for result in read),
        )

    def _text_path(self, page: Page) -> str:
        return text_path(page.path, page.text_stem, page.below, self._text_dir)

    def _facts(self, result: PageResult) -> PageFacts:
        """How the page was read, for its document's files."""
        return PageFacts(
            document=result.page.document.path,
            page=result.page.path,
            size=result.size,
            finish_reason=result.finish_reason,
            prompt_tokens=result.prompt_tokens,
            generated_tokens=result.answer_tokens,
            box_scale=result.box_scale or self.box_scale,
        )

    def _journal_page(self, result: PageResult) -> JournalPage:
        return JournalPage(
            path=result.page.path,
            content=None,  # is known where it was looked at
            number=result.page.number or 0,
            status=result.status,
            finish_reason=result.finish_reason,
            prompt_tokens=result.prompt_tokens,
            answer_tokens=result.answer_tokens,
            generated_tokens=result.generated_tokens,
            attempts=result.attempts,
            seconds=result.seconds,
            size=result.size,
            box_scale=result.box_scale or self.box_scale,
            copy_of=result.copy_of,
        )
