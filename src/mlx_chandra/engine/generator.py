"""BatchGenerator: many pages at once through one model, by continuous batching.

Each call of `next()` launches one pass over the model and reads the tokens of the pass before it (where the
backend overlaps the two): prompts while pages wait and slots are free, else a decode step of all pages in
work. A page's greedy text does not depend on who its neighbours are or when they come and go.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import mlx.core as mx
import numpy as np

from mlx_chandra.engine.memory import Demand, automatic_slots
from mlx_chandra.engine.repeats import CHECK_EVERY, is_repeating
from mlx_chandra.engine.responses import (
    FinishReason,
    GenerationResponse,
    GeneratorStats,
    PromptResponse,
)
from mlx_chandra.engine.sampler import GREEDY, NOT_A_TOKEN, Sampler, Sampling, sample
from mlx_chandra.engine.scheduler import Scheduler, Waiting
from mlx_chandra.errors import PageError
from mlx_chandra.models.cache import KeyValueCache
from mlx_chandra.models.inputs import Page
from mlx_chandra.models.qwen3_vl import Decoded, Qwen3VL

DEFAULT_MAX_TOKENS = 8192
_LONGEST_PROMPT = 4096  # tokens that the automatic batch size leaves room for beside the answer


class StopTokens(Protocol):
    """The part of a processor that the generator needs."""

    @property
    def stop_token_ids(self) -> frozenset[int]: ...


@dataclass(eq=False)
class _Page:
    """A page from insert() to its last token."""

    uid: int
    inputs: Page | None  # dropped once prefilled
    prompt_tokens: int
    max_tokens: int
    sampling: Sampling
    position: int = 0  # of the next token to be launched
    launched: int = 0  # tokens that launched passes will give, read or not
    tokens: list[int] = field(default_factory=list)
    newest: "_Launch | None" = None  # the pass that gives the latest token,
    place: int = 0  # and its place among that pass's tokens
    done: bool = False


@dataclass(eq=False)
class _Launch:
    """One pass on its way: the pages in the order of its rows, None in a hole, and their tokens [n]."""

    pages: tuple[_Page | None, ...]
    tokens: mx.array


class BatchGenerator:
    """Generate for a changing set of pages.

    Args:
        model: From `load`.
        processor: Says which tokens stop a page.
        max_tokens: A page's limit where insert() gives none.
        stop_tokens: Further tokens that stop a page.
        sampler: logits [n, vocab] -> tokens [n], for all pages, in place of their own `Sampling`.
        completion_batch_size: Pages decoded at once, or "auto": what fits the machine.
        prefill_batch_size: Prompts in one prefill pass, at most.
        max_context: Tokens of prompt and answer together that a slot can hold; the model's limit by default.
        stop_on_repetition: Whether a page that goes in circles is stopped (see `engine/repeats.py`).
    """

    def __init__(
        self,
        model: Qwen3VL,
        processor: StopTokens,
        *,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        stop_tokens: Iterable[int] | None = None,
        sampler: Sampler | None = None,
        completion_batch_size: int | str = "auto",
        prefill_batch_size: int = 8,
        max_context: int | None = None,
        stop_on_repetition: bool = True,
    ) -> None:
        self.model, self.max_tokens = model, max_tokens
        self._stop_tokens = processor.stop_token_ids | frozenset(stop_tokens or ())
        self._sampler, self._stop_on_repetition = sampler, stop_on_repetition
        text = model.config.text
        self.slots = self._number_of_slots(completion_batch_size)
        self.cache: KeyValueCache[_Page] = KeyValueCache(
            text, self.slots, max_context or text.max_position_embeddings, model.dtype, model.backend
        )
        self._all_layers = range(text.num_hidden_layers)
        self._halves = self._all_layers[: model.middle], self._all_layers[model.middle :]
        self._scheduler = Scheduler(prefill_batch_size, model.backend.prefill_tokens)
        self._pages: dict[int, _Page] = {}  # all that are not done, by uid
        self._launches: list[_Launch] = []  # not read yet, oldest first
        self._half: mx.array | None = None  # of the last step; None where nothing is on its way
        self._refused: list[PromptResponse] = []
        self._uids = 0
        self._prompt_tokens = self._generation_tokens = self._steps = 0
        self._waiting_steps = self._waiting_rows = 0  # steps while pages waited, and the rows in them
        self._prompt_time = self._generation_time = 0.0

    def _number_of_slots(self, asked: int | str) -> int:
        if isinstance(asked, int):
            if asked < 1:
                raise ValueError("completion_batch_size must be at least 1")
            return asked
        if asked != "auto":
            raise ValueError(f'completion_batch_size must be a number or "auto", not {asked!r}')
        per_token = KeyValueCache.bytes_per_token(self.model.config.text, self.model.dtype)
        return automatic_slots(Demand(self.model.nbytes, per_token, self.max_tokens + _LONGEST_PROMPT))

    @property
    def has_work(self) -> bool:
        return bool(self._pages or self._refused)

    @property
    def waiting(self) -> int:
        """Pages that have no slot yet."""
        return len(self._scheduler)

    def insert(
        self,
        prompts: Sequence[Page],
        max_tokens: int | Sequence[int] | None = None,
        sampling: Sampling | Sequence[Sampling] = GREEDY,
    ) -> list[int]:
        """Queue pages.

        Args:
            prompts: From `Processor.prepare`.
            max_tokens: One limit for all, or one for each; at least 1.
            sampling: One for all, or one for each.

        Returns:
            Each page's uid, by which next() speaks of it.

        Raises:
            ValueError: A limit below 1, or lists of other lengths than `prompts`.
        """
        count = len(prompts)
        limit = self.max_tokens if max_tokens is None else max_tokens
        limits = [limit] * count if isinstance(limit, int) else list(limit)
        samplings = [sampling] * count if isinstance(sampling, Sampling) else list(sampling)
        if not len(limits) == len(samplings) == count:
            raise ValueError(f"{count} prompts, but {len(limits)} limits and {len(samplings)} samplings")
        if any(limit < 1 for limit in limits):
            raise ValueError("max_tokens must be at least 1")
        return [self._insert(*page) for page in zip(prompts, limits, samplings, strict=True)]

    def _insert(self, inputs: Page, max_tokens: int, sampling: Sampling) -> int:
        uid, length, most = self._uids, len(inputs.token_ids), self.cache.max_length
        self._uids += 1
        if length > most:
            error = PageError(
                "too-long",
                f"the page's prompt has {length} tokens, but a slot holds {most}.",
                "Make the picture smaller (--max-size).",
            )
            self._refused.append(PromptResponse(uid, length, error))
            return uid
        # a token's keys and values are stored when the next one is computed, so the last needs no room
        page = _Page(uid, inputs, length, min(max_tokens, most - length + 1), sampling)
        self._pages[uid] = page
        self._scheduler.add([Waiting(uid, length)])
        return uid

    def remove(self, uid: int) -> bool:
        """Forget a page, waiting or in work; False if there is none of that uid (any more)."""
        page = self._pages.get(uid)
        if page is None:
            return False
        self._scheduler.remove(uid)
        self._finish(page)
        return True

    def next(self) -> tuple[list[PromptResponse], list[GenerationResponse]]:
        """Go on by one pass: prompts as long as pages wait for free slots, else a decode step.

        Returns:
            The pages that were prefilled or refused, and the tokens that became known.
        """
        prompts, self._refused = self._refused, []
        started = time.perf_counter()
        if self.waiting and self.cache.free:
            # The device stands still for a moment, so that the cache is updated in place (see _launch_step).
            tokens = self._read()
            admitted = [self._pages[uid] for uid in self._scheduler.admit(self.cache.free)]
            prompts.extend(self._prefill(admitted))
            self._prompt_time += time.perf_counter() - started
        else:
            tokens = self._launch_step() if self.cache.active else self._read()
            self._generation_time += time.perf_counter() - started
        if not self.model.backend.decode_ahead:
            tokens.extend(self._read())
        return prompts, tokens

    def stats(self) -> GeneratorStats:
        return GeneratorStats(
            prompt_tokens=self._prompt_tokens,
            prompt_time=self._prompt_time,
            generation_tokens=self._generation_tokens,
            generation_time=self._generation_time,
            steps=self._steps,
            slots=self.slots,
            active_slots=self.cache.active,
            waiting=self.waiting,
            peak_memory=mx.get_peak_memory(),
            occupancy=self._waiting_rows / (self._waiting_steps * self.slots) if self._waiting_steps else 1.0,
        )

    def close(self) -> None:
        """Forget all pages; what was launched is waited for, so that nothing computes on afterwards."""
        for uid in list(self._pages):
            self.remove(uid)
        self._read()
        self._refused.clear()

    def check(self) -> None:
        """Raise AssertionError if the books disagree: rows, slots, pages and launches. For tests, and when
        idle."""
        self.cache.check()
        in_rows = [page for page in self.cache.pages if page is not None]
        assert len({page.uid for page in in_rows}) == len(in_rows), "a page has two rows"
        for page, length in zip(self.cache.pages, self.cache.lengths, strict=True):
            if page is not None:
                assert self._pages.get(page.uid) is page, f"page {page.uid} is done but has a row"
                assert length == page.prompt_tokens + page.launched - 1, f"page {page.uid} has lost a token"
        unread = sum(page.launched - len(page.tokens) for page in self._pages.values())
        on_the_way = sum(not page.done for launch in self._launches for page in launch.pages if page)
        assert unread == on_the_way, f"{unread} tokens launched but {on_the_way} on the way"

    def _prefill(self, pages: list[_Page]) -> list[PromptResponse]:
        """Run the prompts of pages that get slots now."""
        inputs = [page.inputs for page in pages if page.inputs is not None]
        attention = self.cache.insert(pages, [page.prompt_tokens for page in pages])
        logits = self.model.prefill(inputs, attention)
        for page in pages:
            if page.inputs is not None:
                page.position = int(self.model.positions(page.inputs).max()) + 1
            page.inputs = None
        self._prompt_tokens += sum(page.prompt_tokens for page in pages)
        tokens = self._choose(pages, logits)
        mx.async_eval(tokens, *self.cache.arrays(self._all_layers))  # type: ignore[no-untyped-call]
        self._launched(pages, tokens)
        return [PromptResponse(page.uid, page.prompt_tokens) for page in pages]

    def _launch_step(self) -> list[GenerationResponse]:
        """Send off one decode step for all rows, and take the tokens of the launches before it.

        Keys and values that a launched step still has to read can't be updated in place: MLX would copy the
        cache. So a step is sent off in halves, each when the same half of the last step is done. The device
        always has half a step to do, and no tokens are waited for while it has none.
        """
        before = self._settle()
        if not self.cache.active:
            return before
        pages = self.cache.pages
        decoded = self._decode(pages)
        tokens = self._choose(pages, decoded.logits[: len(pages)])
        first, second = (self.cache.arrays(layers) for layers in self._halves)
        if self._half is not None:
            mx.eval(self._half)
        mx.async_eval(decoded.half, *first)  # type: ignore[no-untyped-call]
        known = self._fetch()
        mx.async_eval(tokens, *second)  # type: ignore[no-untyped-call]
        self._half = decoded.half
        self._launched(pages, tokens)
        return before + self._take_all(known)

    def _settle(self) -> list[GenerationResponse]:
        """Fill the holes in the cache where that is worth waiting for the device, or needs no waiting."""
        if not self.cache.holes or (self._launches and not self.cache.unsettled):
            return []
        tokens = self._read()
        self.cache.settle()
        return tokens

    def _decode(self, pages: Sequence[_Page | None]) -> Decoded:
        """One decode step for all rows, not yet computed."""
        attention = self.cache.step()
        added = attention.rows - len(pages)
        positions = [page.position if page else 0 for page in pages] + [0] * added
        tokens = self._newest_tokens(pages, added)
        for page in pages:
            if page:
                page.position += 1
        self._steps += 1
        if self.waiting:
            self._waiting_steps += 1
            self._waiting_rows += self.cache.active
        return self.model.decode(tokens, positions, attention)

    def _newest_tokens(self, pages: Sequence[_Page | None], added: int) -> mx.array:
        """The latest token of every row and of `added` rows more [n], on the device: it need not have been
        read. Rows without a page get some page's.
        """
        starts: dict[int, int] = {}  # where each pass's tokens begin among all of them
        sources: list[mx.array] = []
        places, total = [], 0
        for page in pages:
            if page is None:
                places.append(0)
                continue
            launch = page.newest
            assert launch is not None, "a page in a row has been prefilled"
            if id(launch) not in starts:
                starts[id(launch)] = total
                sources.append(launch.tokens)
                total += launch.tokens.size
            places.append(starts[id(launch)] + page.place)
        places += [0] * added
        tokens = sources[0] if len(sources) == 1 else mx.concatenate(sources)
        tokens = tokens if places == list(range(total)) else tokens[mx.array(places)]
        return mx.maximum(tokens, 0)  # NOT_A_TOKEN has no embedding

    def _choose(self, pages: Sequence[_Page | None], logits: mx.array) -> mx.array:
        """The next token of each row, not yet computed: [n] from logits [n, vocab]."""
        if self._sampler is not None:
            return self._sampler(logits).astype(mx.int32)
        samplings = [page.sampling if page else GREEDY for page in pages]
        return sample(logits, samplings, [page.launched if page else 0 for page in pages])

    def _launched(self, pages: Sequence[_Page | None], tokens: mx.array) -> None:
        """Note that a pass is on its way; pages that need no further one give up their rows."""
        launch = _Launch(tuple(pages), tokens)
        self._launches.append(launch)
        for place, page in enumerate(pages):
            if page is None:
                continue
            page.newest, page.place = launch, place
            page.launched += 1
            if page.launched == page.max_tokens:
                self.cache.remove(page)

    def _read(self) -> list[GenerationResponse]:
        """Wait for all launches, and take their tokens."""
        self._half = None
        return self._take_all(self._fetch())

    def _fetch(self) -> list[tuple[_Page, int]]:
        """Wait for all launches: the tokens of their pages, oldest first."""
        launches, self._launches = self._launches, []
        return [
            (page, token)
            for launch in launches
            for page, token in zip(launch.pages, np.array(launch.tokens).tolist(), strict=True)
            if page is not None
        ]

    def _take_all(self, known: list[tuple[_Page, int]]) -> list[GenerationResponse]:
        """Take fetched tokens, but of pages that ended before them or were removed: these rows are waste."""
        return [self._take(page, token) for page, token in known if not page.done]

    def _take(self, page: _Page, token: int) -> GenerationResponse:
        if token == NOT_A_TOKEN:
            self._finish(page)
            return GenerationResponse(page.uid, token, FinishReason.ERROR, len(page.tokens))
        page.tokens.append(token)
        self._generation_tokens += 1
        reason = self._finish_reason(page)
        if reason is not None:
            self._finish(page)
        return GenerationResponse(page.uid, token, reason, len(page.tokens))

    def _finish_reason(self, page: _Page) -> FinishReason | None:
        count = len(page.tokens)
        if page.tokens[-1] in self._stop_tokens:
            return FinishReason.STOP
        if count == page.max_tokens:
            return FinishReason.LENGTH
        if self._stop_on_repetition and count % CHECK_EVERY == 0 and is_repeating(page.tokens):
            return FinishReason.REPETITION
        return None

    def _finish(self, page: _Page) -> None:
        self.cache.remove(page)
        page.done = True
        del self._pages[page.uid]
