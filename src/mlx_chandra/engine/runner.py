"""Launches prefill passes and decode steps over the slots, and reads their tokens.

On GPUs a pass is launched before the tokens of the last one are read. Which pages run next, when they end and
what becomes of them is decided in `engine/generator.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import mlx.core as mx
import numpy as np

from mlx_chandra.engine.request import Request
from mlx_chandra.engine.sampler import GREEDY, Sampler, sample
from mlx_chandra.models.qwen3_vl import Qwen3VL
from mlx_chandra.models.slots import Slots, bucket_sizes

Rows = Sequence[Request | None]  # None for an empty slot and for a padded row
NewTokens = list[tuple[Request, int]]  # oldest first


@dataclass(eq=False)
class Launch:
    """A launched pass: the request of each of its rows, and their tokens [n]."""

    rows: tuple[Request | None, ...]
    tokens: mx.array


class Runner:
    """Passes of one model over the requests in its slots.

    Args:
        model: From `load`.
        sampler: logits [n, vocab] -> tokens [n], for all rows of a pass, also those of no page, in place of
            the requests' own `Sampling`.
        slots: Pages in work at once, at most.
        max_context: Tokens that one page may come to hold.
    """

    def __init__(self, model: Qwen3VL, sampler: Sampler | None, slots: int, max_context: int) -> None:
        self._model, self._sampler, self._max_context = model, sampler, max_context
        layers = range(model.config.text.num_hidden_layers)
        self._all_layers, self._halves = layers, (layers[: model.middle], layers[model.middle :])
        self.steps = 0
        self.reset(slots)

    def reset(self, slots: int) -> None:
        """Begin anew with empty slots; what was launched is forgotten."""
        backend = self._model.backend
        cache = self._model.new_cache(bucket_sizes(slots, backend.bucket_slots))
        self.slots: Slots[Request] = Slots(cache, self._max_context, backend.shared_shapes)
        self._launches: list[Launch] = []  # not read yet, oldest first
        self._half: mx.array | None = None  # of the last step; None where nothing is launched
        # of the last step: its rows, and how far their positions are ahead of their lengths, int32 [n]
        self._rows: Rows = ()
        self._ahead = mx.array(0)

    @property
    def unread(self) -> list[Request]:
        return [request for launch in self._launches for request in launch.rows if request is not None]

    def prefill(self, requests: Sequence[Request]) -> None:
        """Give slots to requests and run their prompts. Call it when all launches are read."""
        inputs = [request.to_prefill() for request in requests]
        attention = self.slots.insert(requests, [request.length for request in requests])
        logits = self._model.prefill(inputs, attention)
        for request, prompt in zip(requests, inputs, strict=True):
            request.position = int(self._model.positions(prompt).max()) + 1
        tokens = self._choose(requests, logits)
        mx.async_eval(tokens, *self.slots.cache.arrays(self._all_layers))  # type: ignore[no-untyped-call]
        self._launched(requests, tokens)

    def step(self) -> NewTokens:
        """Launch one decode step of all rows; return the tokens of the launches before it.

        Keys and values that a launched step still has to read can't be updated in place: MLX would copy the
        cache. So a step is launched in halves, each when the same half of the last step is computed. The
        device always has half a step to do, and no tokens are waited for while it has none.
        """
        attention, rows = self.slots.step(), self.slots.pages
        rows += (None,) * (attention.rows - len(rows))
        if self._rows != rows:
            self._rows, self._ahead = rows, self._new_ahead(rows)
        positions = attention.lengths + self._ahead
        decoded = self._model.decode(self._newest_tokens(rows), positions, attention)
        tokens = self._choose(rows, decoded.logits)
        first, second = (self.slots.cache.arrays(layers) for layers in self._halves)
        if self._half is not None:
            mx.eval(self._half)
        mx.async_eval(decoded.half, *first)  # type: ignore[no-untyped-call]
        new = self.read()
        mx.async_eval(tokens, *second)  # type: ignore[no-untyped-call]
        self._half = decoded.half
        self._launched(rows, tokens)
        for request in rows:
            if request:
                request.position += 1
        self.steps += 1
        return new

    def read(self) -> NewTokens:
        """Wait for all launches; return their tokens."""
        self._half = None
        launches, self._launches = self._launches, []
        mx.eval([launch.tokens for launch in launches])
        return [
            (request, token)
            for launch in launches
            for request, token in zip(launch.rows, np.array(launch.tokens).tolist(), strict=True)
            if request is not None
        ]

    def compact(self) -> NewTokens:
        """Fill empty slots where that is worth waiting for the device, or needs no waiting.

        Returns:
            The tokens that were waited for.
        """
        if not self.slots.holes or (self._launches and not self.slots.fragmented):
            return []
        new = self.read()
        self.slots.compact()
        return new

    def _new_ahead(self, rows: Rows) -> mx.array:
        lengths = self.slots.lengths
        ahead = [request.position - lengths[row] if request else 0 for row, request in enumerate(rows)]
        return mx.array(np.array(ahead, np.int32))

    def _newest_tokens(self, rows: Rows) -> mx.array:
        """Return the latest token of every row [n] on the device, read or not; any for a row of no page.

        As a rule these are the tokens of the last step as they are. Where pages have come or moved, the host
        says where to find them, and an array from the host is dear (see StepTable).
        """
        launches = list(dict.fromkeys(request.newest for request in rows if request and request.newest))
        ends = accumulate(len(launch.tokens) for launch in launches)
        starts = {launch: end - len(launch.tokens) for launch, end in zip(launches, ends, strict=True)}
        tokens = launches[0].tokens
        if len(launches) > 1:
            tokens = mx.concatenate([launch.tokens for launch in launches])
        places = [starts[r.newest] + r.row if r and r.newest else None for r in rows]
        if len(rows) <= len(tokens) and all(place in (row, None) for row, place in enumerate(places)):
            return tokens[: len(rows)]  # the same array where these are all
        return tokens[mx.array([0 if place is None else place for place in places])]

    def _choose(self, rows: Rows, logits: mx.array) -> mx.array:
        if self._sampler is not None:
            return self._sampler(logits).astype(mx.int32)
        samplings = [request.sampling if request else GREEDY for request in rows]
        return sample(logits, samplings, [request.launched if request else 0 for request in rows])

    def _launched(self, rows: Rows, tokens: mx.array) -> None:
        """Note a launched pass; requests that need no further one give up their slots."""
        launch = Launch(tuple(rows), tokens)
        self._launches.append(launch)
        for row, request in enumerate(rows):
            if request is None:
                continue
            request.newest, request.row = launch, row
            request.launched += 1
            if request.launched == request.max_tokens:
                self.slots.remove(request)
