"""Works out how fast this machine could be: the work that pages need, at the best speed MLX reaches here.

The ideal run does the floating-point work of vision and prefill at the speed of a large matrix product, and
every decode step at the slower of its bytes and its work, with all slots refilled at once. Nothing else
costs anything. The fraction of this that an engine reaches says how much is left to gain.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlx_chandra.models.config import ModelConfig


@dataclass(frozen=True)
class PageWork:
    """One page's work, in patches and tokens."""

    patches: int
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Ceilings:
    """Speeds measured on this machine: floating-point operations and bytes moved, both per second."""

    flops: float
    bandwidth: float
    dtype: str


@dataclass(frozen=True)
class Ideal:
    """Seconds at the ceilings, and the decode steps in them."""

    vision: float
    prefill: float
    decode: float
    steps: int

    @property
    def seconds(self) -> float:
        return self.vision + self.prefill + self.decode


class Costs:
    """The arithmetic of one model; a multiplication and an addition are two operations.

    Args:
        config: The model's sizes.
        dtype_size: Bytes of one weight, key or value.
    """

    def __init__(self, config: ModelConfig, dtype_size: int) -> None:
        text, vision = config.text, config.vision
        queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
        layer = text.hidden_size * (2 * queries + 2 * keys + 3 * text.intermediate_size)
        self._layers = text.num_hidden_layers * layer  # weights that every token meets
        self._head = text.hidden_size * text.vocab_size
        self._attention = 4 * text.num_hidden_layers * queries  # operations per query and key
        self._weight_bytes = dtype_size * (self._layers + self._head)
        self._key_bytes = dtype_size * 2 * text.num_hidden_layers * keys
        block = vision.hidden_size * (4 * vision.hidden_size + 2 * vision.intermediate_size)
        self._patch = vision.depth * block + vision.patch_values * vision.hidden_size
        self._vision_attention = 4 * vision.depth * vision.hidden_size
        joined = vision.hidden_size * vision.spatial_merge_size**2
        mergers = 1 + len(vision.deepstack_visual_indexes)
        self._merged = mergers * joined * (joined + vision.out_hidden_size)
        self._merge = vision.spatial_merge_size**2

    def vision(self, patches: int) -> int:
        """Operations for a picture: every patch sees all others."""
        merged = patches // self._merge * self._merged
        return 2 * (patches * self._patch + merged) + self._vision_attention * patches**2

    def prefill(self, tokens: int) -> int:
        """Operations for a prompt: causal attention, and the head for its last token alone."""
        return 2 * (tokens * self._layers + self._head) + self._attention * tokens * (tokens + 1) // 2

    def decode(self, rows: int, live_tokens: int) -> int:
        """Operations of one step of `rows` pages that hold `live_tokens` together."""
        return 2 * rows * (self._layers + self._head) + self._attention * live_tokens

    def decode_bytes(self, live_tokens: int) -> int:
        """Bytes that one step reads: all weights once, and the live keys and values."""
        return self._weight_bytes + self._key_bytes * live_tokens


def ideal_run(pages: Sequence[PageWork], slots: int, costs: Costs, ceilings: Ceilings) -> Ideal:
    """The ideal time of a run with so many slots, pages taken in order."""
    vision = sum(costs.vision(page.patches) for page in pages) / ceilings.flops
    prefill = sum(costs.prefill(page.prompt_tokens) for page in pages) / ceilings.flops
    waiting = deque(page for page in pages if page.output_tokens > 1)  # prefill gives the first token
    lengths: list[int] = []
    left: list[int] = []
    decode, steps = 0.0, 0
    while waiting or left:
        while waiting and len(left) < slots:
            page = waiting.popleft()
            lengths.append(page.prompt_tokens)
            left.append(page.output_tokens - 1)
        lengths = [length + 1 for length in lengths]
        live = sum(lengths)
        moved = costs.decode_bytes(live) / ceilings.bandwidth
        decode += max(moved, costs.decode(len(left), live) / ceilings.flops)
        steps += 1
        left = [count - 1 for count in left]
        lengths = [length for length, count in zip(lengths, left, strict=True) if count]
        left = [count for count in left if count]
    return Ideal(vision, prefill, decode, steps)


LARGE, SMALL = (16_384, 1 << 30), (1536, 1 << 25)  # side of a matrix, length of a vector
TIMES = 7


def measure_ceilings(
    dtype_name: str, sizes: tuple[int, int], now: Callable[[], float] = time.perf_counter
) -> Ceilings:
    """Time a matrix product and an elementwise copy through MLX, and return the best of several runs.

    Args:
        dtype_name: float32 or bfloat16.
        sizes: LARGE for a GPU, SMALL for a CPU: two cores do these in a second or so.
        now: A clock, in seconds.
    """
    import mlx.core as mx

    dtype = {"float32": mx.float32, "bfloat16": mx.bfloat16}[dtype_name]
    side, count = sizes
    a, b = (mx.random.normal((side, side)).astype(dtype) for _ in range(2))
    vector = mx.ones((count,), dtype)
    mx.eval(a, b, vector)
    flops = 2 * side**3 / _best(lambda: mx.eval(a @ b), now)
    moved = 2 * count * dtype.size / _best(lambda: mx.eval(vector + 1), now)  # read and written
    return Ceilings(flops, moved, dtype_name)


def _best(run: Callable[[], None], now: Callable[[], float]) -> float:
    seconds = []
    for _ in range(TIMES):
        started = now()
        run()
        seconds.append(now() - started)
    return min(seconds)
