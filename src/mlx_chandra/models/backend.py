"""The one place that knows which machine MLX runs on, and what follows from it.

Everything else asks `current_backend()` and acts on the fields of its answer, never on a platform's name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import mlx.core as mx

from mlx_chandra.models import cpu, cuda
from mlx_chandra.models.attention import PLAIN, AttentionForm

Elementwise = Callable[[mx.array], mx.array]


class BackendName(StrEnum):
    METAL = "metal"
    CUDA = "cuda"
    CPU = "cpu"


@dataclass(frozen=True)
class Backend:
    """What the engine and the models do differently from machine to machine.

    Attributes:
        attention: The form of attention that is fastest there.
        bucket_slots: Slots that share a length, bucket by bucket; the last number goes for all further ones.
            Small buckets fit pages' lengths, large ones need fewer launches. The longest pages come first.
        prefill_tokens: Prompt tokens of one pass: enough to keep the device busy, few enough to wait for.
        most_slots: Pages at once above which the backend gets no faster.
        float32_only: Whatever the checkpoint's dtype: CPUs emulate bfloat16, more than ten times slower.
        decode_ahead: Launch a step before the last one's tokens are read; a CPU has nothing to overlap with.
        shared_shapes: Pad steps to a few different numbers of rows, where plans and compiled functions are
            kept for each. Metal's kernels don't depend on that number (*unmeasured*).
        fused_layers: Run decoder layers as `models/cuda.py` has them.
        float16_cache: Keep keys and values of bfloat16 models in float16: their scores are three bits finer.
        kept_share: How much of the working set MLX may keep of freed memory; None: MLX's own limit. On CUDA
            that is the whole card, and once it is reached steps take 28.7 s instead of 26.5. *Unmeasured* on
            Metal, where growing buckets would fill it with arrays that nobody wants again.
        rope_kernel: Use MLX's RoPE; on a CPU that is 20 operations a layer, a seventh of a decode step.
        gelu_tanh: GELU in the form that is fastest there; None: `models/vision.py`'s own.
        shapeless: Compile elementwise functions for any shape at once. CUDA takes 3.5 times as long so.
    """

    name: BackendName
    attention: AttentionForm
    bucket_slots: tuple[int, ...]
    prefill_tokens: int
    most_slots: int
    float32_only: bool = False
    decode_ahead: bool = True
    shared_shapes: bool = False
    fused_layers: bool = False
    float16_cache: bool = False
    kept_share: float | None = None
    rope_kernel: bool = True
    gelu_tanh: Elementwise | None = None
    shapeless: bool = True

    def cache_dtype(self, dtype: mx.Dtype) -> mx.Dtype:
        """Return the dtype of the keys and values that a model of `dtype` keeps."""
        return mx.float16 if self.float16_cache and dtype == mx.bfloat16 else dtype

    def compiled(self, function: Elementwise) -> Elementwise:
        """Return a function in one launch; the same one each time."""
        return _compiled(function, self.shapeless)


@cache
def _compiled(function: Elementwise, shapeless: bool) -> Elementwise:
    return mx.compile(function, shapeless=shapeless)


_BACKENDS = {
    BackendName.METAL: Backend(
        BackendName.METAL,
        attention=PLAIN,
        bucket_slots=(2, 6, 8, 16),
        prefill_tokens=4096,
        most_slots=64,
        kept_share=1 / 8,
    ),
    BackendName.CUDA: Backend(
        BackendName.CUDA,
        attention=cuda.rounded_form(256),
        bucket_slots=(64,),
        prefill_tokens=8192,
        most_slots=256,
        shared_shapes=True,
        fused_layers=True,
        float16_cache=True,
        kept_share=1 / 16,
        shapeless=False,
    ),
    BackendName.CPU: Backend(
        BackendName.CPU,
        attention=cpu.ATTENTION,
        bucket_slots=(4, 8),
        prefill_tokens=2048,
        most_slots=32,
        float32_only=True,
        decode_ahead=False,
        rope_kernel=False,
        gelu_tanh=cpu.gelu_tanh,
    ),
}


def backend_of(name: BackendName) -> Backend:
    """Return what is chosen for a backend, whether this machine has it or not."""
    return _BACKENDS[name]


def current_backend() -> Backend:
    """Return the backend of MLX's default device."""
    if mx.default_device().type == mx.DeviceType.cpu:
        return backend_of(BackendName.CPU)
    if mx.metal.is_available():
        return backend_of(BackendName.METAL)
    cuda.configure()
    return backend_of(BackendName.CUDA)


_OUT_OF_MEMORY = ("malloc", "unable to allocate", "insufficient memory", "out of memory", "outofmemory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether MLX failed because memory ran out: it says so in words only, other ones on each backend."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)
    )
