"""What is sent to the device and read back from it: prompts and decode steps over one cache.

On GPUs a pass is launched before the tokens of the last one are read. Who runs next, when a page ends and
what becomes of it is the generator's business.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_chandra.engine.lane import HalvedStep, lane_for, read_tokens
from mlx_chandra.engine.sampler import GREEDY, Sampler, sample
from mlx_chandra.engine.work import Launch, PageInWork
from mlx_chandra.models.cache import KeyValueCache
from mlx_chandra.models.cache_passes import StepPass
from mlx_chandra.models.qwen3_vl import Decoded, Qwen3VL

Rows = Sequence[PageInWork | None]  # None in a hole, and in a row added for a shape that steps share
Known = list[tuple[PageInWork, int]]  # pages and their tokens, oldest first


@dataclass(frozen=True)
class _Ahead:
    """How far the positions of a step's rows are ahead of their lengths, int32 [n]: the same as long as the
    same pages stand in them."""

    pages: Rows
    array: mx.array


class Passes:
    """Passes of one model over the pages in its cache.

    Args:
        model: From `load`.
        sampler: logits [n, vocab] -> tokens [n], for all rows of a pass, some perhaps of no page, in place of
            the pages' own `Sampling`.
        slots: Pages in work at once, at most.
        max_context: Tokens that one page may come to hold.
    """

    def __init__(self, model: Qwen3VL, sampler: Sampler | None, slots: int, max_context: int) -> None:
        self._model, self._sampler, self._max_context = model, sampler, max_context
        self._lane = lane_for(model.backend.launch_thread)
        layers = range(model.config.text.num_hidden_layers)
        self._all_layers, self._halves = layers, (layers[: model.middle], layers[model.middle :])
        self.steps = 0
        self.reset(slots)

    def reset(self, slots: int) -> None:
        """Begin anew with an empty cache; what was on its way is forgotten."""
        model = self._model
        self._lane.forget()
        self.cache: KeyValueCache[PageInWork] = KeyValueCache(
            model.config.text, slots, self._max_context, model.dtype, model.backend
        )
        self._launches: list[Launch] = []  # not read yet, oldest first
        self._half: mx.array | None = None  # of the last step; None where nothing is on its way
        self._ahead: _Ahead | None = None

    def turn(self) -> AbstractContextManager[object]:
        """All else is called within it, but for reading."""
        return self._lane.turn()

    @property
    def on_the_way(self) -> list[PageInWork]:
        """The page of each token that was launched and not read."""
        return [page for launch in self._launches for page in launch.pages if page is not None]

    def prefill(self, pages: Sequence[PageInWork]) -> None:
        """Give rows to pages and run their prompts. Call it when all launches are read."""
        inputs = [page.to_prefill() for page in pages]
        attention = self.cache.insert(pages, [page.length for page in pages])
        logits = self._model.prefill(inputs, attention)
        for page, prompt in zip(pages, inputs, strict=True):
            page.position = int(self._model.positions(prompt).max()) + 1
        tokens = self._choose(pages, logits)
        mx.async_eval(tokens, *self.cache.arrays(self._all_layers))  # type: ignore[no-untyped-call]
        self._launched(pages, tokens)

    def step(self) -> Known:
        """Send off one decode step for all rows; returns the tokens of the launches before it.

        Keys and values that a launched step still has to read can't be updated in place: MLX would copy the
        cache. So a step is sent off in halves, each when the same half of the last step is done. The device
        always has half a step to do, and no tokens are waited for while it has none.
        """
        if self.cache.growth:
            self._lane.wait()  # arrays that grow are computed at once
        attention, pages = self.cache.step(), self.cache.pages
        pages += (None,) * (attention.rows - len(pages))
        decoded = self._decode(pages, attention)
        tokens = self._choose(pages, decoded.logits)
        first, second = (self.cache.arrays(layers) for layers in self._halves)
        half, self._half = self._half, decoded.half
        launches, self._launches = self._launches, []
        read = [launch.tokens for launch in launches]
        known = self._lane.send(HalvedStep(half, (decoded.half, *first), read, (tokens, *second)))
        self._launched(pages, tokens)
        self.steps += 1
        return _by_page(launches, known)

    def read(self) -> Known:
        """Wait for all launches; returns their tokens."""
        self._lane.wait()
        self._half = None
        launches, self._launches = self._launches, []
        return _by_page(launches, read_tokens([launch.tokens for launch in launches]))

    def settle(self) -> Known:
        """Fill the holes in the cache where that is worth waiting for the device, or needs no waiting."""
        if not self.cache.holes or (self._launches and not self.cache.unsettled):
            return []
        known = self.read()
        self.cache.settle()
        return known

    def _decode(self, pages: Rows, attention: StepPass) -> Decoded:
        """One decode step for all rows, not yet computed."""
        if self._ahead is None or self._ahead.pages != pages:
            lengths = self.cache.lengths
            ahead = [page.position - lengths[row] if page else 0 for row, page in enumerate(pages)]
            self._ahead = _Ahead(pages, mx.array(np.array(ahead, np.int32)))
        tokens = self._newest_tokens(pages)
        for page in pages:
            if page:
                page.position += 1
        return self._model.decode(tokens, attention.lengths + self._ahead.array, attention)

    def _newest_tokens(self, pages: Rows) -> mx.array:
        """The latest token of every row [n], on the device: it need not have been read. Rows without a page
        get any.

        As a rule these are the tokens of the last step as they are. Where pages have come or moved, the host
        says where to find them, and an array from the host is dear (see StepTable).
        """
        starts: dict[int, int] = {}  # where each pass's tokens begin among all of them
        sources: list[mx.array] = []
        places: list[int | None] = []
        total = 0
        for page in pages:
            if page is None:
                places.append(None)
                continue
            launch = page.newest
            assert launch is not None, "a page in a row has been prefilled"
            if id(launch) not in starts:
                starts[id(launch)] = total
                sources.append(launch.tokens)
                total += launch.tokens.size
            places.append(starts[id(launch)] + page.place)
        tokens = sources[0] if len(sources) == 1 else mx.concatenate(sources)
        if len(pages) <= total and all(place in (row, None) for row, place in enumerate(places)):
            return tokens[: len(pages)]  # the same array where these are all
        return tokens[mx.array([0 if place is None else place for place in places])]

    def _choose(self, pages: Rows, logits: mx.array) -> mx.array:
        """The next token of each row, not yet computed: [n] from logits [n, vocab]."""
        if self._sampler is not None:
            return self._sampler(logits).astype(mx.int32)
        samplings = [page.sampling if page else GREEDY for page in pages]
        return sample(logits, samplings, [page.launched if page else 0 for page in pages])

    def _launched(self, pages: Rows, tokens: mx.array) -> None:
        """Note that a pass is on its way; pages that need no further one give up their rows."""
        launch = Launch(tuple(pages), tokens)
        self._launches.append(launch)
        for place, page in enumerate(pages):
            if page is None:
                continue
            page.newest, page.place = launch, place
            page.launched += 1
            if page.launched == page.max_tokens:
                self.cache.remove(page)


def _by_page(launches: Sequence[Launch], tokens: Sequence[Sequence[int]]) -> Known:
    """What launches gave, `tokens` of each, without the rows that were holes."""
    return [
        (page, token)
        for launch, its_tokens in zip(launches, tokens, strict=True)
        for page, token in zip(launch.pages, its_tokens, strict=True)
        if page is not None
    ]
