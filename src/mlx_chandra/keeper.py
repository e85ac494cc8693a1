"""Finished pages, written: a page's text file first, then its row, both synced.

On a thread of its own and in groups, so that syncing the disk never holds up the device. What is kept of a
page is one `PageResult`; its text file, its row, and what its document's files say of it all come from that.
"""

import queue
import threading
from collections import Counter
from dataclasses import dataclass

from mlx_chandra.assembly import Follower
from mlx_chandra.attempts import PageResult
from mlx_chandra.documents.document import Page
from mlx_chandra.errors import OutputError
from mlx_chandra.outputs.ledger import PageFacts
from mlx_chandra.outputs.results_csv import ResultsFile, Row
from mlx_chandra.outputs.states import PageState
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


class Keeper:
    """Writes finished pages, and counts them.

    Args:
        results: The table.
        box_scale: What the boxes in answers are normalised to.
        texts: Whether each page's text gets a file of its own.
        text_dir: Top of the tree of text files; None puts them beside the images.
        documents: Are told of each page.
    """

    def __init__(
        self, results: ResultsFile, box_scale: int, texts: bool, text_dir: str | None, documents: Follower
    ) -> None:
        self.ok = self.failed = self.unwritten_texts = 0
        self.endings = Endings()
        self.first_unwritten: OutputError | None = None
        self._results, self._box_scale, self._documents = results, box_scale, documents
        self._texts, self._text_dir = texts, text_dir
        self._files = TextFiles(results.path)
        self._finished: queue.SimpleQueue[PageResult | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="keep", daemon=True)
        self._thread.start()

    def keep(self, result: PageResult) -> None:
        """Writes the page soon; returns at once."""
        self._finished.put(result)

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
            group: list[PageResult | None] = []
            while None not in group:
                group = [self._finished.get()]
                while len(group) < _LARGEST_GROUP and not self._finished.empty():
                    group.append(self._finished.get())
                self._write([result for result in group if result is not None])
        except BaseException as error:
            self._error = error

    def _write(self, group: list[PageResult]) -> None:
        texts = {self._text_path(result.page): result.text for result in group if result.text.strip()}
        failed = self._files.write(texts if self._texts else {})
        self._documents.record([self._facts(result) for result in group])
        self._results.append([Row(result.page.path, result.status, result.text) for result in group])
        self._documents.finished([result.page for result in group])
        self.unwritten_texts += len(failed)
        self.first_unwritten = self.first_unwritten or next(iter(failed.values()), None)
        self._count(group)

    def _count(self, group: list[PageResult]) -> None:
        states = Counter(result.state for result in group)
        retried = [result for result in group if result.attempts > 1]
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
            box_scale=self._box_scale,
        )
