"""The one place that knows which machine MLX runs on, and what follows from it.

Everything else asks `current_backend()` and acts on the answer's fields, never on a platform's name.
"""

from dataclasses import dataclass
from enum import StrEnum

import mlx.core as mx

from mlx_chandra.models.powers import MLX_ACTIVATIONS, WRITTEN_OUT, Activations


class BackendName(StrEnum):
    METAL = "metal"
    CUDA = "cuda"
    CPU = "cpu"


class DecodeAttention(StrEnum):
    """How one query per page attends to its slot of the cache; see `models/attention.py`."""

    MASKED = "masked"
    GROUPED = "grouped"
    WRITTEN_OUT = "written out"


@dataclass(frozen=True)
class PrefillForm:
    """How whole prompts and pictures attend; see `segment_attention`.

    Attributes:
        fused_head_dims: Head sizes for which MLX has a kernel that keeps no score matrix; other sizes are
            padded up to the next one. Empty: nothing is padded.
        scores: Write the attention out, for about so many scores at a time, and compute them before the next
            ones are thought of, so that the caches hold them; 0 leaves it to MLX's own call. On the CPU that
            call takes three times as long, and it computes what a causal mask throws away.
    """

    fused_head_dims: tuple[int, ...] = ()
    scores: int = 0


@dataclass(frozen=True)
class Backend:
    """What the engine and the models do differently from machine to machine.

    Attributes:
        name: Which of MLX's backends computes.
        float32_only: Run in float32 whatever the checkpoint's dtype: the CPU backend emulates bf16, more than
            ten times slower.
        decode_ahead: Launch a step before the last one's tokens are read. The CPU has nothing to overlap
            with, and a cache that a launched step still reads would be copied instead of updated in place.
        decode_attention: The quickest form of decode attention there.
        prefill: The quickest form of attention within prompts and pictures.
        prefill_tokens: Prompt tokens that go through in one pass: enough to keep the device busy, few enough
            that pages in work don't stand still for long and that the pass fits beside the cache.
        activations: The quickest form of the functions between linear layers there.
        mlp_rows: How many tokens or patches go through the wide layers of an MLP at a time: on the CPU,
            few enough for what lies between the two linear layers to stay in its caches. 0: all at once.
        turned_weights: Keep linear layers' weights in memory input by output: for a product of few rows, as
            in a decode step, OpenBLAS takes up to a third less time.
        layer_by_layer: Let a text layer compute while the next one is put together, which takes the host an
            eighth of a small decode step on a CPU. GPUs have the last step to compute meanwhile.
    """

    name: BackendName
    float32_only: bool
    decode_ahead: bool
    decode_attention: DecodeAttention
    prefill: PrefillForm
    prefill_tokens: int
    activations: Activations = MLX_ACTIVATIONS
    mlp_rows: int = 0
    turned_weights: bool = False
    layer_by_layer: bool = False


_BACKENDS = {
    BackendName.METAL: Backend(
        BackendName.METAL,
        float32_only=False,
        decode_ahead=True,
        decode_attention=DecodeAttention.MASKED,
        prefill=PrefillForm(fused_head_dims=(64, 80, 128)),
        prefill_tokens=4096,
    ),
    BackendName.CUDA: Backend(
        BackendName.CUDA,
        float32_only=False,
        decode_ahead=True,
        decode_attention=DecodeAttention.GROUPED,
        prefill=PrefillForm(),
        prefill_tokens=8192,
    ),
    BackendName.CPU: Backend(
        BackendName.CPU,
        float32_only=True,
        decode_ahead=False,
        decode_attention=DecodeAttention.WRITTEN_OUT,
        prefill=PrefillForm(scores=400_000),
        prefill_tokens=2048,
        activations=WRITTEN_OUT,
        mlp_rows=512,
        turned_weights=True,
        layer_by_layer=True,
    ),
}


def current_backend() -> Backend:
    """The backend of MLX's default device."""
    if mx.default_device().type == mx.DeviceType.cpu:
        return _BACKENDS[BackendName.CPU]
    if mx.metal.is_available():
        return _BACKENDS[BackendName.METAL]
    return _BACKENDS[BackendName.CUDA]
