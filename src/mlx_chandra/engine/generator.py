"""BatchGenerator: many pages at once through one model, by continuous batching.

Each call of `next()` launches one pass over the model and reads the tokens of the pass before it (where the
backend overlaps the two): prompts while pages wait and there is room, else a decode step of all pages in
work. A page's greedy text does not depend on who its neighbours are or when they come and go.

A page may lose its row: where the pages in work grow beyond the memory that was planned, the youngest one
goes back to the front of the queue; where an allocation fails, all do, and from then on there are half as
many slots. Its prompt and the tokens known so far are prefilled again later, and it goes on where it was.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Protocol

import mlx.core as mx

from mlx_chandra.engine.memory import Demand, Plan, limit_kept_buffers, plan_for_this_machine
from mlx_chandra.engine.passes import Known, Passes
from mlx_chandra.engine.repeats import CHECK_EVERY, is_repeating
from mlx_chandra.engine.responses import (
    OUT_OF_MEMORY,
    OVERFLOW,
    FinishReason,
    GenerationResponse,
    GeneratorStats,
    PromptResponse,
)
from mlx_chandra.engine.sampler import GREEDY, NOT_A_TOKEN, Sampler, Sampling
from mlx_chandra.engine.scheduler import Scheduler, Waiting
from mlx_chandra.engine.work import AnswerLengths, PageInWork
from mlx_chandra.errors import PageError
from mlx_chandra.models.backend import is_out_of_memory
from mlx_chandra.models.cache import KeyValueCache
from mlx_chandra.models.inputs import Page
from mlx_chandra.models.qwen3_vl import Qwen3VL

DEFAULT_MAX_TOKENS = 8192


class StopTokens(Protocol):
    """The part of a processor that the generator needs."""

    @property
    def stop_token_ids(self) -> frozenset[int]: ...


class BatchGenerator:
    """Generate for a changing set of pages.

    Args:
        model: From `load`.
        processor: Says which tokens stop a page.
        max_tokens: A page's limit where insert() gives none.
        stop_tokens: Further tokens that stop a page.
        sampler: logits [n, vocab] -> tokens [n], for all rows of a pass, some perhaps of no page, in place of
            the pages' own `Sampling`.
        completion_batch_size: Pages decoded at once, or "auto": what fits the machine.
        prefill_batch_size: Prompts in one prefill pass, at most.
        max_context: Tokens of prompt and answer together that a slot can hold; the model's limit by default.
        cache_tokens: Tokens that the cache may hold room for; what fits the machine by default.
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
        cache_tokens: int | None = None,
        stop_on_repetition: bool = True,
    ) -> None:
        self.model, self.max_tokens = model, max_tokens
        self._stop_tokens = processor.stop_token_ids | frozenset(stop_tokens or ())
        self._stop_on_repetition = stop_on_repetition
        plan = self._plan(completion_batch_size)
        limit_kept_buffers(model.backend)
        self.slots, self.cache_tokens = plan.slots, cache_tokens or plan.cache_tokens
        self._max_context = max_context or model.config.text.max_position_embeddings
        self._passes = Passes(model, sampler, self.slots, self._max_context)
        self._scheduler = Scheduler(prefill_batch_size, model.backend.prefill_tokens)
        self._pages: dict[int, PageInWork] = {}  # all that are not done, by uid
        self._prompts: list[PromptResponse] = []  # to be given out by next()
        self._tokens: list[GenerationResponse] = []
        self._uids = 0
        self._prompt_tokens = self._generation_tokens = 0
        self._waiting_steps = self._waiting_rows = 0  # steps while pages waited, and the rows in them
        self._prompt_time = self._generation_time = 0.0
        self._answers = AnswerLengths()

    def _plan(self, asked: int | str) -> Plan:
        if isinstance(asked, int) and asked < 1:
            raise ValueError("completion_batch_size must be at least 1")
        if not isinstance(asked, int) and asked != "auto":
            raise ValueError(f'completion_batch_size must be a number or "auto", not {asked!r}')
        per_token = KeyValueCache.bytes_per_token(self.model.config.text, self.model.dtype)
        plan = plan_for_this_machine(Demand(self.model.nbytes, per_token))
        return Plan(asked, plan.cache_tokens) if isinstance(asked, int) else plan

    @property
    def cache(self) -> KeyValueCache[PageInWork]:
        """Keys and values of the pages in work."""
        return self._passes.cache

    @property
    def has_work(self) -> bool:
        return bool(self._pages or self._prompts or self._tokens)

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
        uid, length, most = self._uids, len(inputs.token_ids), self._max_context
        self._uids += 1
        if length > most:
            error = PageError(
                "too-long",
                f"the page's prompt has {length} tokens, but a slot holds {most}.",
                "Make the picture smaller (--max-size).",
            )
            self._prompts.append(PromptResponse(uid, length, error))
            return uid
        # a token's keys and values are stored when the next one is computed, so the last needs no room
        page = PageInWork(uid, inputs, length, min(max_tokens, most - length + 1), sampling)
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
        """Go on by one pass: prompts as long as pages wait and there is room, else a decode step.

        Returns:
            The pages that were prefilled or refused, and the tokens that became known.
        """
        with self._passes.turn():
            try:
                self._go_on()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or not self._pages:
                    raise
                self._start_again_smaller()
        prompts, tokens = self._prompts, self._tokens
        self._prompts, self._tokens = [], []
        return prompts, tokens

    def _go_on(self) -> None:
        started = time.perf_counter()
        admitted = self._admit() if self.waiting and self.cache.free else []
        if admitted:
            # The device stands still for a moment, so that the cache is updated in place (see Passes.step).
            self._read()
            self._prefill(admitted)
        else:
            self._step()
        if not self.model.backend.decode_ahead:
            self._read()
        seconds = time.perf_counter() - started
        if admitted:
            self._prompt_time += seconds
        else:
            self._generation_time += seconds

    def stats(self) -> GeneratorStats:
        return GeneratorStats(
            prompt_tokens=self._prompt_tokens,
            prompt_time=self._prompt_time,
            generation_tokens=self._generation_tokens,
            generation_time=self._generation_time,
            steps=self._passes.steps,
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
        self._prompts.clear()
        self._tokens.clear()

    def check(self) -> None:
        """Raise AssertionError if the books disagree: rows, slots, pages and launches. For tests, and when
        idle."""
        self.cache.check()
        in_rows = self._in_rows()
        assert len({page.uid for page in in_rows}) == len(in_rows), "a page has two rows"
        for page, length in zip(self.cache.pages, self.cache.lengths, strict=True):
            if page is not None:
                assert self._pages.get(page.uid) is page, f"page {page.uid} is done but has a row"
                assert length == page.prompt_tokens + page.launched - 1, f"page {page.uid} has lost a token"
        unread = sum(page.launched - len(page.tokens) for page in self._pages.values())
        on_the_way = sum(not page.done for page in self._passes.on_the_way)
        assert unread == on_the_way, f"{unread} tokens launched but {on_the_way} on the way"

    def _admit(self) -> list[PageInWork]:
        """The pages of the next prefill pass, where slots are free and memory is left for them to grow in."""
        growing = [self._expected(page.length, page) for page in self._in_rows()]

        def fits(lengths: Sequence[int]) -> bool:
            coming = [self._expected(length) for length in lengths]
            return (not growing and len(coming) == 1) or self._fits(growing + coming)

        return [self._pages[uid] for uid in self._scheduler.admit(self.cache.free, fits)]

    def _expected(self, length: int, page: PageInWork | None = None) -> int:
        """The length that a page will come to, as answers go."""
        answered = len(page.tokens) if page else 0
        return min(length + max(self._answers.mean - answered, 0), self._max_context)

    def _fits(self, lengths: Sequence[int]) -> bool:
        return self.cache.tokens(lengths) <= self.cache_tokens

    def _make_room(self) -> None:
        """Before a step: if it would grow the cache beyond its limit, send the youngest pages back."""
        if not self._too_large():
            return
        self._read()
        self.cache.settle(tightly=True)
        while self._too_large() and self.cache.active > 1:
            self._send_back([max(self._in_rows(), key=lambda page: page.uid)])
            self.cache.settle(tightly=True)

    def _too_large(self) -> bool:
        growth = self.cache.growth
        return growth > 0 and self.cache.allocated + growth > self.cache_tokens

    def _in_rows(self) -> list[PageInWork]:
        return [page for page in self.cache.pages if page is not None]

    def _send_back(self, pages: Sequence[PageInWork]) -> None:
        """Take pages' rows away; they are the first to get one again."""
        for page in pages:
            self.cache.remove(page)
            page.lose_row()
        self._scheduler.add_first([Waiting(page.uid, page.length) for page in pages])

    def _start_again_smaller(self) -> None:
        """After a failed allocation, which loses what was on its way: prefill all pages in work again, and
        have half as many at once."""
        waiting = self._scheduler.uids
        lost = [page for page in self._pages.values() if page.uid not in waiting]
        alone = len(lost) == 1 and self.slots == 1
        self.slots = max(1, self.slots // 2)
        self.cache_tokens = max(1, self.cache_tokens // 2)
        self._passes.reset(self.slots)
        mx.clear_cache()
        if alone:
            self._fail(lost[0])
        else:
            self._send_back(lost)

    def _fail(self, page: PageInWork) -> None:
        """Not even alone does it fit."""
        self._finish(page)
        if page.announced:
            self._tokens.append(
                GenerationResponse(page.uid, NOT_A_TOKEN, FinishReason.ERROR, len(page.tokens), OUT_OF_MEMORY)
            )
        else:
            self._prompts.append(PromptResponse(page.uid, page.prompt_tokens, OUT_OF_MEMORY))

    def _prefill(self, pages: list[PageInWork]) -> None:
        """Run the prompts of pages that get slots now."""
        self._passes.prefill(pages)
        for page in pages:
            if not page.announced:
                page.announced = True
                self._prompt_tokens += page.prompt_tokens
                self._prompts.append(PromptResponse(page.uid, page.prompt_tokens))

    def _step(self) -> None:
        """One decode step of all pages in work."""
        self._take_all(self._passes.settle())
        if self.cache.active:
            self._make_room()
        if not self.cache.active:
            self._read()
            return
        if self.waiting:
            self._waiting_steps += 1
            self._waiting_rows += self.cache.active
        self._take_all(self._passes.step())

    def _read(self) -> None:
        """Wait for all launches, and take their tokens."""
        self._take_all(self._passes.read())

    def _take_all(self, known: Known) -> None:
        """Take fetched tokens, but of pages that ended before them or were removed: these rows are waste."""
        self._tokens.extend(self._take(page, token) for page, token in known if not page.done)

    def _take(self, page: PageInWork, token: int) -> GenerationResponse:
        if token == NOT_A_TOKEN:
            self._finish(page)
            return GenerationResponse(page.uid, token, FinishReason.ERROR, len(page.tokens), OVERFLOW)
        page.tokens.append(token)
        self._generation_tokens += 1
        reason = self._finish_reason(page)
        if reason is not None:
            self._answers.add(len(page.tokens))
            self._finish(page)
        return GenerationResponse(page.uid, token, reason, len(page.tokens))

    def _finish_reason(self, page: PageInWork) -> FinishReason | None:
        count = len(page.tokens)
        if page.tokens[-1] in self._stop_tokens:
            return FinishReason.STOP
        if count == page.max_tokens:
            return FinishReason.LENGTH
        if self._stop_on_repetition and count % CHECK_EVERY == 0 and is_repeating(page.tokens):
            return FinishReason.REPETITION
        return None

    def _finish(self, page: PageInWork) -> None:
        self.cache.remove(page)
        page.done, page.newest = True, None  # else passes would keep pages, and these older passes, for ever
        del self._pages[page.uid]
