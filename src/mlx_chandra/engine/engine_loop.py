"""Runs on a service's thread: gives pages to the generator, and tells their handles what becomes of them."""

import contextlib
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mlx_chandra.engine.handles import Cancelled, Finished, Handle, Prefilled, RequestOptions, Retried, Tokens
from mlx_chandra.engine.repetition import (
    CHECK_EVERY,
    CHECK_TEXT_EVERY,
    MINIMUM_SPAN,
    is_repeated_text,
    is_repeating,
)
from mlx_chandra.engine.responses import FinishReason, GenerationResponse, PromptResponse
from mlx_chandra.engine.retries import Answer, Attempt, retry_sampling, seed_of
from mlx_chandra.errors import EngineError, MlxChandraError, PageError, error_status

if TYPE_CHECKING:
    from mlx_chandra.engine.generator import BatchGenerator
    from mlx_chandra.processing.processor import PageInputs, Processor

_MOST_FAILURES = 3  # of the engine, one after the other


@dataclass(eq=False)
class Job:
    """A page in the service: its earlier attempts, and the tokens of this one so far."""

    handle: Handle
    inputs: "PageInputs"
    options: RequestOptions
    uid: int | None = None  # while it is in the generator
    attempts: list[Attempt] = field(default_factory=list)
    prompt_tokens: int = 0
    tokens: list[int] = field(default_factory=list)
    begun: float | None = None  # when this attempt was prefilled
    given: int = 0  # characters of this attempt's text that were sent,
    read: int = 0  # and the tokens that gave them


Order = Job | Handle | None  # read it; drop it; end


class Engine:
    """What runs on the service's thread. Only `submit` and the attributes are other threads' business.

    Attributes:
        orders: From other threads.
        stats: As of the last step.
        broken: Why it reads nothing any more.
    """

    def __init__(self, generator: "BatchGenerator", processor: "Processor", queue_size: int) -> None:
        self._generator, self._processor, self._queue_size = generator, processor, queue_size
        self.orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self.stats = generator.stats()
        self.broken: EngineError | None = None
        self._changed = threading.Condition()  # guards the next two
        self._count = 0  # pages submitted and not ended
        self._shut: EngineError | None = None  # why it takes no pages
        self._jobs: dict[Handle, Job] = {}
        self._waiting: deque[Job] = deque()
        self._inserted: dict[int, Job] = {}  # by uid
        self._failures = 0  # without a page that ended in between

    def submit(self, job: Job, timeout: float | None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._shut or self._count < self._queue_size, timeout)
            if self._shut is not None:
                raise EngineError(self._shut.message, self._shut.remedy)
            if self._count >= self._queue_size:
                raise TimeoutError("the service's queue is full")
            self._count += 1
            self.orders.put(job)

    def run(self) -> None:
        try:
            while self._take_orders():
                self._insert()
                self._step()
                self._look()
        except EngineError as error:
            self.broken = error
        except BaseException as error:
            self.broken = EngineError(f"The service failed: {_words(error)}.", "Start again.")
        self._shut_down()

    def _take_orders(self) -> bool:
        """Take what other threads want; waits only where there is nothing else to do. False: it is to end."""
        while not (self._jobs and self.orders.empty()):
            order = self.orders.get()
            if order is None:
                return False
            if isinstance(order, Handle):
                self._cancel(order)
            else:
                self._jobs[order.handle] = order
                self._waiting.append(order)
        return True

    def _cancel(self, handle: Handle) -> None:
        job = self._jobs.get(handle)
        if job is None:
            return
        if job.uid is None:
            self._waiting.remove(job)
        else:
            del self._inserted[job.uid]
            self._generator.remove(job.uid)
        self._leave(job, Cancelled(handle))

    def _insert(self) -> None:
        """Give the generator pages for its slots, and one more: it counts how well they are used while pages
        wait. The others stay here, where a failure of the engine doesn't reach them."""
        while self._waiting and len(self._inserted) <= self._generator.slots:
            job = self._waiting.popleft()
            options, sampling = job.options, job.options.sampling
            if retry := len(job.attempts):
                seed = seed_of(options.seed_name, retry)
                sampling = retry_sampling(self._processor.family, retry, seed)
            try:
                (job.uid,) = self._generator.insert([job.inputs], options.max_tokens, sampling)
                self._inserted[job.uid] = job
            except Exception as error:
                self._recover(error, [job, *self._inserted.values()])

    def _step(self) -> None:
        if not self._inserted:
            return
        try:
            prompts, tokens = self._generator.next()
            for prompt in prompts:
                self._begin(prompt)
            for response in tokens:
                self._take(response)
        except Exception as error:
            self._recover(error, list(self._inserted.values()))

    def _look(self) -> None:
        stats = self._generator.stats()
        self.stats = replace(stats, waiting=stats.waiting + len(self._waiting))

    def _begin(self, prompt: PromptResponse) -> None:
        job = self._inserted.get(prompt.uid)
        if job is None:
            return
        if prompt.error is not None:
            self._end(job, FinishReason.ERROR, prompt.error)
            return
        job.prompt_tokens, job.begun = prompt.prompt_tokens, time.monotonic()
        job.handle.emit(Prefilled(job.handle, prompt.prompt_tokens))

    def _take(self, response: GenerationResponse) -> None:
        job, reason = self._inserted.get(response.uid), response.finish_reason
        if job is None:
            return  # it was stopped a moment ago
        if reason is not FinishReason.ERROR:  # else there is no token
            job.tokens.append(response.token)
            self._failures = 0 if reason else self._failures
        if reason is not None:
            self._end(job, reason, response.error)
        elif job.options.stop_on_repetition and self._is_repeating(job.tokens):
            self._generator.remove(response.uid)
            self._failures = 0
            self._end(job, FinishReason.REPETITION)
        elif job.options.stream:
            self._send_more(job)

    def _is_repeating(self, tokens: list[int]) -> bool:
        """Whether an attempt repeats itself, by its tokens or, in longer steps, by its text."""
        if len(tokens) < MINIMUM_SPAN or len(tokens) % CHECK_EVERY:
            return False
        if is_repeating(tokens):
            return True
        if len(tokens) % CHECK_TEXT_EVERY:
            return False
        return is_repeated_text(self._decoded(tokens[-MINIMUM_SPAN:]))

    def _decoded(self, tokens: list[int]) -> str:
        """Return the text of some tokens; none where that fails, which shows at the page's end."""
        try:
            return self._processor.decode(tokens)
        except Exception:
            return ""

    def _send_more(self, job: Job) -> None:
        """Send the text of new tokens, but not half a character, nor white space that may be all there is."""
        text = self._decoded(job.tokens[job.read :])
        if not text or text.endswith("\ufffd") or not (text.strip() or job.given):
            return
        job.read = len(job.tokens)
        job.given += len(text)
        job.handle.emit(Tokens(job.handle, text))

    def _end(self, job: Job, reason: FinishReason, error: PageError | None = None) -> None:
        self._inserted.pop(-1 if job.uid is None else job.uid, None)
        job.uid = None
        if error is not None and job.begun is None and not job.attempts:
            self._leave(job, Finished(job.handle, Answer(error_status(error))))
            return
        seconds = 0.0 if job.begun is None else time.monotonic() - job.begun
        attempt = Attempt.of(self._processor.decode, job.tokens, reason, seconds, error)
        job.attempts.append(attempt)
        if job.options.stream and (rest := attempt.text[job.given :]):
            job.handle.emit(Tokens(job.handle, rest))
        if job.options.retries.wants_another(job.attempts):
            job.tokens, job.begun, job.given, job.read = [], None, 0, 0
            self._waiting.appendleft(job)
            job.handle.emit(Retried(job.handle, len(job.attempts) + 1, attempt.state))
        else:
            self._leave(job, Finished(job.handle, Answer.of(job.attempts, job.prompt_tokens)))

    def _leave(self, job: Job, event: Finished | Cancelled) -> None:
        """Make room for another page, and tell the client of this one's end."""
        del self._jobs[job.handle]
        with self._changed:
            self._count -= 1
            self._changed.notify()
        job.handle.emit(event)

    def _recover(self, error: Exception, lost: list[Job]) -> None:
        """Give up the pages in the generator after it failed, and go on with the others.

        Raises EngineError where that makes no sense any more.
        """
        self._failures += 1
        for job in lost:
            self._end(job, FinishReason.ERROR, PageError("engine", _words(error)))
        try:
            self._generator.reset()
        except Exception as again:
            raise EngineError(
                f"The engine failed ({_words(error)}) and can't be set up again ({_words(again)}).",
                "Start again.",
            ) from again
        if self._failures >= _MOST_FAILURES:
            raise EngineError(
                f"The engine failed {self._failures} times without finishing a page: {_words(error)}.",
                "Start again; if that doesn't help, with a smaller batch.",
            ) from error

    def _shut_down(self) -> None:
        with self._changed:
            self._shut = self.broken or EngineError("The service is closed.", "Open another one.")
            self._changed.notify_all()
        while not self.orders.empty():
            if isinstance(order := self.orders.get(), Job):
                self._jobs[order.handle] = order
        for job in list(self._jobs.values()):
            if self.broken is None:
                self._leave(job, Cancelled(job.handle))
            else:
                self._end(job, FinishReason.ERROR, PageError("engine", self.broken.message))
        with contextlib.suppress(Exception):
            self._look()
            self._generator.close()


def _words(error: BaseException) -> str:
    text = error.message if isinstance(error, MlxChandraError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split()).rstrip(".")
