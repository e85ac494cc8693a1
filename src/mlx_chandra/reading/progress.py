"""What a run says of itself while it goes on, and at its end."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from mlx_chandra.documents.page import PageResult
from mlx_chandra.errors import PageState

if TYPE_CHECKING:
    from mlx_chandra.engine.responses import GeneratorStats


@dataclass(frozen=True)
class Counts:
    """Pages that this run stored, and what they took.

    Attributes:
        ok, empty, truncated, repetition, error: Pages by state.
        copied: Of all these, pages that got the result of another one with the same bytes.
        read: Pages that came to the model.
        retried: Of `read`, those that it read more than once.
        recovered: Of `retried`, those that are ok.
        prompt_tokens, generated_tokens: Of the pages read, all attempts together.
    """

    ok: int = 0
    empty: int = 0
    truncated: int = 0
    repetition: int = 0
    error: int = 0
    copied: int = 0
    read: int = 0
    retried: int = 0
    recovered: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0

    @property
    def failed(self) -> int:
        return self.empty + self.truncated + self.repetition + self.error

    @property
    def pages(self) -> int:
        return self.ok + self.failed

    def plus(self, results: Sequence[PageResult]) -> "Counts":
        """The counts with further pages."""
        states = Counter(result.state for result in results)
        read = [result for result in results if result.attempts and result.copy_of is None]
        retried = [result for result in read if result.attempts > 1]
        return Counts(
            ok=self.ok + states[PageState.OK],
            empty=self.empty + states[PageState.EMPTY],
            truncated=self.truncated + states[PageState.TRUNCATED],
            repetition=self.repetition + states[PageState.REPETITION],
            error=self.error + states[PageState.ERROR],
            copied=self.copied + sum(result.copy_of is not None for result in results),
            read=self.read + len(read),
            retried=self.retried + len(retried),
            recovered=self.recovered + sum(result.state is PageState.OK for result in retried),
            prompt_tokens=self.prompt_tokens + sum(result.prompt_tokens for result in read),
            generated_tokens=self.generated_tokens + sum(result.generated_tokens for result in read),
        )


@dataclass(frozen=True)
class Snapshot:
    """Where a run is. `total` pages need a result, None while they are counted; `stats` are the engine's."""

    counts: Counts
    total: int | None
    seconds: float
    stats: "GeneratorStats"


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
        counts: The pages that it stored.
        skipped: Pages that had a current result before.
        seconds: From the loaded model to the last page.
        stopped: The user ended it early.
        documents: Documents whose files were written.
        unwritten_documents: Documents whose files could not be written.
        unwritten_texts: Text files that could not be written.
    """

    counts: Counts = field(default_factory=Counts)
    skipped: int = 0
    seconds: float = 0.0
    stopped: bool = False
    documents: int = 0
    unwritten_documents: int = 0
    unwritten_texts: int = 0


class Observer(Protocol):
    """Watches a run. Called from the thread that runs it."""

    def update(self, now: Snapshot) -> None: ...
    def warn(self, message: str) -> None: ...
    def stored(self, results: Sequence[PageResult]) -> None: ...  # these are on the disk
