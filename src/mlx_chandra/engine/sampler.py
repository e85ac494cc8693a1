"""Chooses the next token of each page from its logits: greedily, or drawn with a temperature and top-p.

A drawn page's noise comes from its own seed and the number of the token alone, so its sample doesn't
depend on who its neighbours are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_chandra.models.attention import constant

Sampler = Callable[[mx.array], mx.array]  # logits [n, vocab] -> tokens [n]


@dataclass(frozen=True)
class Sampling:
    """How one page's tokens are chosen; top_p is nucleus sampling (arXiv 1904.09751)."""

    temperature: float = 0.0  # 0 takes the likeliest token; higher draws more freely
    top_p: float = 1.0  # draw only among the likeliest tokens that together have this share
    seed: int = 0  # of the page's own noise

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError("temperature must be at least 0, and top_p above 0 and at most 1")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


GREEDY = Sampling()
NOT_A_TOKEN = -1  # stands for the token of logits that are no numbers


def sample(logits: mx.array, samplings: Sequence[Sampling], steps: Sequence[int]) -> mx.array:
    """Choose each row's token.

    Args:
        logits: [n, vocab]
        samplings: One per row.
        steps: Which token of its page each row chooses, counted from 0.

    Returns:
        [n] int32; NOT_A_TOKEN where a row's logits hold something that is no number.
    """
    tokens = mx.argmax(logits, axis=-1).astype(mx.int32)
    for row, (sampling, step) in enumerate(zip(samplings, steps, strict=True)):
        if not sampling.greedy:
            tokens[row] = _draw(logits[row], sampling, step)
    total = logits.astype(mx.float32).sum(axis=-1)
    zero = total - total  # or, where it is no finite number, none at all
    return mx.where(zero == zero, tokens, constant(NOT_A_TOKEN, mx.int32))


def _draw(logits: mx.array, sampling: Sampling, step: int) -> mx.array:
    """Draw one token of logits [vocab], by the Gumbel-max trick."""
    scaled = logits.astype(mx.float32) / sampling.temperature
    if sampling.top_p < 1:
        scaled = _within_top_p(scaled, sampling.top_p)
    key = mx.random.key(((sampling.seed & 0xFFFFFFFF) << 32) | (step & 0xFFFFFFFF))
    noise = mx.random.gumbel(scaled.shape, key=key)
    return mx.argmax(scaled + noise).astype(mx.int32)


def _within_top_p(scaled: mx.array, top_p: float) -> mx.array:
    """Put -inf at every token outside the smallest likeliest set whose share is at least top_p."""
    order = mx.argsort(-scaled)
    shares = mx.softmax(scaled[order])
    before = mx.cumsum(shares) - shares  # the share of all likelier tokens; 0 for the first
    kept = mx.where(before < top_p, scaled[order], -mx.inf)
    return mx.put_along_axis(scaled, order, kept, axis=0)
