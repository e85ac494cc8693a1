"""Finished pages, decoded and written: a page's text file first, then its row, both synced.

On a thread of its own and in groups, so that syncing the disk never holds up the device. What is kept of a
page is one `PageResult`; its text file, its row, and what its document's files say of it all come from that.
"""

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mlx_chandra.assembly import Follower
from mlx_chandra.documents.document import Page
from mlx_chandra.errors import OutputError, PageError
from mlx_chandra.feed import Refused
from mlx_chandra.outputs.layout import Size
from mlx_chandra.outputs.ledger import PageFacts
from mlx_chandra.outputs.results_csv import ResultsFile, Row
from mlx_chandra.outputs.states import PageState, error_status
from mlx_chandra.outputs.writers import TextFiles, text_path

_LARGEST_GROUP = 256  # pages that are synced to the disk together
_ENDS = {"length": PageState.TRUNCATED, "repetition": PageState.REPETITION}


@dataclass(frozen=True)
class Answered:
    """What the engine said of a page.

    Attributes:
        page: Which one.
        size: Of its picture, width and height.
        prompt_tokens: Those of the picture and the question.
        tokens: Those of the answer.
        reason: The engine's finish reason, stop, length, repetition or error; empty while there is none.
        seconds: That it was in the engine, from its prefill to its last token.
        error: What went wrong, where `reason` is error.
    """

    page: Page
    size: tuple[int, int]
    prompt_tokens: int
    tokens: list[int]
    reason: str
    seconds: float = 0.0
    error: PageError | None = None


@dataclass(frozen=True)
class PageResult:
    """All that is kept of a finished page.

    Attributes:
        page: Which one.
        state: How it ended.
        status: The same as the table says it, with an error's kind and what was wrong.
        text: What the model said; empty for nothing.
        size: Of its picture, width and height; None where none could be opened.
        prompt_tokens: Those of the picture and the question; 0 where it never came to the model.
        generated_tokens: Those of all attempts together.
        answer_tokens: Those of the attempt that is kept.
        finish_reason: The engine's word for that one's end: stop, length, repetition or error; None where it
            never came to the model.
        attempts: How often the model read it; 0 where it never came there.
        seconds: That it was in the engine, all attempts together.
    """

    page: Page
    state: PageState
    status: str
    text: str = ""
    size: Size | None = None
    prompt_tokens: int = 0
    generated_tokens: int = 0
    answer_tokens: int = 0
    finish_reason: str | None = None
    attempts: int = 0
    seconds: float = 0.0


class Decoder(Protocol):
    """The part of a reader that the keeper needs."""

    @property
    def box_scale(self) -> int: ...
    def decode(self, ids: Sequence[int]) -> str: ...


class Keeper:
    """Writes finished pages. `text_dir` is the top of the tree of text files, None for beside the images;
    without `texts` there are none."""

    def __init__(
        self, results: ResultsFile, decoder: Decoder, texts: bool, text_dir: str | None, documents: Follower
    ) -> None:
        self.ok = self.failed = self.unwritten_texts = 0
        self.first_unwritten: OutputError | None = None
        self._results, self._decoder, self._documents = results, decoder, documents
        self._texts, self._text_dir = texts, text_dir
        self._files = TextFiles(results.path)
        self._finished: queue.SimpleQueue[Answered | Refused | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="keep", daemon=True)
        self._thread.start()

    def keep(self, page: Answered | Refused) -> None:
        """Writes the page soon; returns at once."""
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
            group: list[Answered | Refused | None] = []
            while None not in group:
                group = [self._finished.get()]
                while len(group) < _LARGEST_GROUP and not self._finished.empty():
                    group.append(self._finished.get())
                self._write([self._result(item) for item in group if item is not None])
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
        good = sum(result.state is PageState.OK for result in group)
        self.ok += good
        self.failed += len(group) - good

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
            box_scale=self._decoder.box_scale,
        )

    def _result(self, item: Answered | Refused) -> PageResult:
        if isinstance(item, Refused):
            return PageResult(item.page, PageState.ERROR, error_status(item.error))
        state, status, text = self._said(item)
        return PageResult(
            page=item.page,
            state=state,
            status=status,
            text=text,
            size=Size(*item.size),
            prompt_tokens=item.prompt_tokens,
            generated_tokens=len(item.tokens),
            answer_tokens=len(item.tokens),
            finish_reason=item.reason,
            attempts=1,
            seconds=item.seconds,
        )

    def _said(self, item: Answered) -> tuple[PageState, str, str]:
        """A page's state, status and text."""
        try:
            text = self._decoder.decode(item.tokens)
        except Exception as error:
            trouble = PageError("internal", f"{type(error).__name__}: {error}")
            return PageState.ERROR, error_status(trouble), ""
        if item.error is not None:
            return PageState.ERROR, error_status(item.error), text
        state = _ENDS.get(item.reason, PageState.OK if text.strip() else PageState.EMPTY)
        return state, state.status, "" if state is PageState.EMPTY else text
