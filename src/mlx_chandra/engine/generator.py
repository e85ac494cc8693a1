"""BatchGenerator: many pages at once through one model, by continuous batching.

Each call of `next()` launches one pass over the model and reads the tokens of the pass before it (where the
backend overlaps the two): prompts while pages wait and there is room, else a decode step of all pages in
work. A page's greedy text does not depend on who its neighbours are or when they come and go.

A page may be preempted: where the pages in work grow beyond the memory that was planned, the youngest one
loses its slot and goes to the front of the queue; where an allocation fails, all do, and from then on there
are half as many slots. Its prompt and the tokens so far are prefilled again later, and it goes on.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from typing import Protocol

import mlx.core as mx

from mlx_chandra.engine.memory import Demand, device_memory, limit_kept_buffers, plan, wired_working_set
from mlx_chandra.engine.repetition import CHECK_EVERY, is_repeating
from mlx_chandra.engine.request import Request
from mlx_chandra.engine.responses import (
    OUT_OF_MEMORY,
    OVERFLOW,
    FinishReason,
    GenerationResponse,
    GeneratorStats,
    PromptResponse,
)
from mlx_chandra.engine.runner import NewTokens, Runner
from mlx_chandra.engine.sampler import GREEDY, NOT_A_TOKEN, Sampler, Sampling
from mlx_chandra.engine.scheduler import admit
from mlx_chandra.errors import PageError
from mlx_chandra.models.backend import current_backend, is_out_of_memory
from mlx_chandra.models.inputs import Page
from mlx_chandra.models.qwen3_vl import Qwen3VL
from mlx_chandra.models.slots import Slots

DEFAULT_MAX_TOKENS = 8192
_ANSWER_GUESS = 4 * 1024, 4  # tokens, and of how many answers: counts along with those that ended


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
        stop_on_repetition: Whether a page that repeats itself is stopped (see `engine/repetition.py`).
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
        if prefill_batch_size < 1:
            raise ValueError("prefill_batch_size must be at least 1")
        self.model, self.max_tokens = model, max_tokens
        self._stop_tokens = processor.stop_token_ids | frozenset(stop_tokens or ())
        self._stop_on_repetition = stop_on_repetition
        self.slots, planned_tokens = self._plan(completion_batch_size)
        self.cache_tokens = cache_tokens or planned_tokens
        limit_kept_buffers(model.backend)
        self._wired = ExitStack()
        self._wired.enter_context(wired_working_set(model.backend))
        self._max_context = max_context or model.config.text.max_position_embeddings
        self._runner = Runner(model, sampler, self.slots, self._max_context)
        self._prefill_batch_size = prefill_batch_size
        self._queue: deque[Request] = deque()  # those without a slot
        self._requests: dict[int, Request] = {}  # all that are not finished, by uid
        self._prompts: list[PromptResponse] = []  # to be given out by next()
        self._tokens: list[GenerationResponse] = []
        self._uids = 0
        self._prompt_tokens = self._generation_tokens = 0
        self._waiting_steps = self._waiting_rows = 0  # steps while pages waited, and the pages in them
        self._prompt_time = self._generation_time = 0.0
        self._answer_tokens, self._answer_count = _ANSWER_GUESS

    def _plan(self, asked: int | str) -> tuple[int, int]:
        if asked != "auto" and (not isinstance(asked, int) or asked < 1):
            raise ValueError(f'completion_batch_size must be at least 1 or "auto", not {asked!r}')
        backend = current_backend()
        demand = Demand(self.model.nbytes, self.model.cache_bytes_per_token)
        planned = plan(device_memory(backend.name), demand, backend.most_slots)
        return asked if isinstance(asked, int) else planned.slots, planned.cache_tokens

    @property
    def cache(self) -> Slots[Request]:
        return self._runner.slots

    @property
    def _in_work(self) -> list[Request]:
        """Those with a slot."""
        return [request for request in self.cache.pages if request is not None]

    @property
    def has_work(self) -> bool:
        return bool(self._requests or self._prompts or self._tokens)

    @property
    def waiting(self) -> int:
        return len(self._queue)

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
        request = Request(uid, inputs, length, min(max_tokens, most - length + 1), sampling)
        self._requests[uid] = request
        self._queue.append(request)
        return uid

    def remove(self, uid: int) -> bool:
        """Forget a page, waiting or in work; return False if there is none of that uid (any more)."""
        request = self._requests.get(uid)
        if request is None:
            return False
        if request in self._queue:
            self._queue.remove(request)
        self._finish(request)
        return True

    def next(self) -> tuple[list[PromptResponse], list[GenerationResponse]]:
        """Go on by one pass: prompts as long as pages wait and there is room, else a decode step.

        Returns:
            The pages that were prefilled or refused, and the tokens that were read.

        Raises:
            RuntimeError: The device failed, not for want of memory. Call `reset` before going on.
        """
        try:
            self._go_on()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not self._requests:
                raise
            self._start_again_smaller()
        prompts, tokens = self._prompts, self._tokens
        self._prompts, self._tokens = [], []
        return prompts, tokens

    def _go_on(self) -> None:
        started = time.perf_counter()
        admitted = self._admit() if self.waiting and self.cache.free else []
        if admitted:
            # The device stands still for a moment, so that the cache is updated in place (see Runner.step).
            self._read()
            self._prefill(admitted)
        else:
            self._step()
        if not self.model.backend.decode_ahead:
            self._read()
        seconds = time.perf_counter() - started
        self._prompt_time += seconds if admitted else 0
        self._generation_time += 0 if admitted else seconds

    def stats(self) -> GeneratorStats:
        return GeneratorStats(
            prompt_tokens=self._prompt_tokens,
            prompt_time=self._prompt_time,
            generation_tokens=self._generation_tokens,
            generation_time=self._generation_time,
            steps=self._runner.steps,
            slots=self.slots,
            active_slots=self.cache.active,
            waiting=self.waiting,
            peak_memory=mx.get_peak_memory(),
            occupancy=self._waiting_rows / (self._waiting_steps * self.slots) if self._waiting_steps else 1.0,
        )

    def close(self) -> None:
        """Forget all pages; what was launched is waited for, so that nothing computes on afterwards."""
        self.reset()
        self._wired.close()

    def reset(self) -> None:
        """Forget all pages and their caches, also after a failure of the device; insert() works again."""
        self._drain()
        for request in self._requests.values():
            request.finished, request.newest = True, None
        self._requests.clear()
        self._queue.clear()
        self._runner.reset(self.slots)
        self._prompts.clear()
        self._tokens.clear()
        mx.clear_cache()

    def check(self) -> None:
        """Raise AssertionError if slots, requests and launches disagree. For tests, and when idle."""
        self.cache.check()
        assert len({request.uid for request in self._in_work}) == self.cache.active, "a page has two slots"
        for request, length in zip(self.cache.pages, self.cache.lengths, strict=True):
            if request is not None:
                uid = request.uid
                assert self._requests.get(uid) is request, f"page {uid} is finished but has a slot"
                assert length == request.prompt_tokens + request.launched - 1, f"page {uid} has lost a token"
        expected = sum(request.launched - len(request.tokens) for request in self._requests.values())
        unread = sum(not request.finished for request in self._runner.unread)
        assert expected == unread, f"{expected} tokens launched but {unread} to be read"

    def _drain(self) -> None:
        """Wait for the device, whatever becomes of its launches. On Metal, errors come late."""
        for wait in (self._runner.read, mx.synchronize):
            with suppress(RuntimeError):
                wait()

    def _admit(self) -> list[Request]:
        """Return the requests of the next prefill pass: those with a slot, and memory to grow in."""
        growing = [self._expected(request.length, request) for request in self._in_work]

        def fits(lengths: Sequence[int]) -> bool:
            coming = [self._expected(length) for length in lengths]
            alone = not growing and len(coming) == 1
            return alone or self.cache.tokens(growing + coming) <= self.cache_tokens

        most = min(self.cache.free, self._prefill_batch_size)
        return admit(self._queue, most, self.model.backend.prefill_tokens, fits)

    def _expected(self, length: int, request: Request | None = None) -> int:
        """Return the length that a page will come to, as answers go."""
        answered = len(request.tokens) if request else 0
        mean = self._answer_tokens // self._answer_count
        return min(length + max(mean - answered, 0), self._max_context)

    def _make_room(self) -> None:
        """Before a step: if it would grow the cache beyond its limit, preempt the youngest pages."""
        if not self._too_large():
            return
        self._read()
        self.cache.compact(tightly=True)
        while self._too_large() and self.cache.active > 1:
            self._preempt([max(self._in_work, key=lambda request: request.uid)])
            self.cache.compact(tightly=True)

    def _too_large(self) -> bool:
        growth = self.cache.growth
        return growth > 0 and self.cache.allocated + growth > self.cache_tokens

    def _preempt(self, requests: Sequence[Request]) -> None:
        """Take requests' slots away; they are the first to get one again."""
        for request in requests:
            self.cache.remove(request)
            request.lose_slot()
        self._queue.extendleft(reversed(requests))

    def _start_again_smaller(self) -> None:
        """After a failed allocation, which loses what was launched: preempt all pages, halve the slots."""
        self._drain()
        lost = [request for request in self._requests.values() if request not in self._queue]
        alone = len(lost) == 1 and self.slots == 1
        self.slots = max(1, self.slots // 2)
        self.cache_tokens = max(1, self.cache_tokens // 2)
        self._runner.reset(self.slots)
        mx.clear_cache()
        if alone:
            self._fail(lost[0])
        else:
            self._preempt(lost)

    def _fail(self, request: Request) -> None:
        """End a page that does not fit even alone."""
        self._finish(request)
        uid, count = request.uid, len(request.tokens)
        if request.announced:
            failed = GenerationResponse(uid, NOT_A_TOKEN, FinishReason.ERROR, count, OUT_OF_MEMORY)
            self._tokens.append(failed)
        else:
            self._prompts.append(PromptResponse(uid, request.prompt_tokens, OUT_OF_MEMORY))

    def _prefill(self, requests: list[Request]) -> None:
        self._runner.prefill(requests)
        for request in requests:
            if not request.announced:
                request.announced = True
                self._prompt_tokens += request.prompt_tokens
                self._prompts.append(PromptResponse(request.uid, request.prompt_tokens))

    def _step(self) -> None:
        self._take_all(self._runner.compact())
        if self.cache.active:
            self._make_room()
        if not self.cache.active:
            self._read()
            return
        if self.waiting:
            self._waiting_steps += 1
            self._waiting_rows += self.cache.active
        self._take_all(self._runner.step())

    def _read(self) -> None:
        self._take_all(self._runner.read())

    def _take_all(self, new: NewTokens) -> None:
        """Take tokens, but not of pages that ended before them or were removed: these rows are waste."""
        self._tokens.extend(self._take(request, token) for request, token in new if not request.finished)

    def _take(self, request: Request, token: int) -> GenerationResponse:
        if token == NOT_A_TOKEN:
            self._finish(request)
            return GenerationResponse(request.uid, token, FinishReason.ERROR, len(request.tokens), OVERFLOW)
        request.tokens.append(token)
        self._generation_tokens += 1
        reason = self._finish_reason(request)
        if reason is not None:
            self._answer_tokens += len(request.tokens)
            self._answer_count += 1
            self._finish(request)
        return GenerationResponse(request.uid, token, reason, len(request.tokens))

    def _finish_reason(self, request: Request) -> FinishReason | None:
        count = len(request.tokens)
        if request.tokens[-1] in self._stop_tokens:
            return FinishReason.STOP
        if count == request.max_tokens:
            return FinishReason.LENGTH
        if self._stop_on_repetition and count % CHECK_EVERY == 0 and is_repeating(request.tokens):
            return FinishReason.REPETITION
        return None

    def _finish(self, request: Request) -> None:
        self.cache.remove(request)
        # newest is dropped, or launches would keep requests, and these older launches, for ever
        request.finished, request.newest = True, None
        del self._requests[request.uid]
