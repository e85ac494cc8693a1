"""The one place that knows which machine MLX runs on, and what follows from it.

Everything else asks `current_backend()` and acts on the answer's fields, never on a platform's name.
"""

import os
from dataclasses import dataclass
from enum import StrEnum

import mlx.core as mx

from mlx_chandra.models.powers import COMPILED, MLX_ACTIVATIONS, WRITTEN_OUT, Activations


class BackendName(StrEnum):
    METAL = "metal"
    CUDA = "cuda"
    CPU = "cpu"


class DecodeAttention(StrEnum):
    """How one query per page attends to its slot of the cache; see `models/attention.py`."""

    MASKED = "masked"
    WRITTEN_OUT = "written out"
    PRODUCTS = "products"


@dataclass(frozen=True)
class PrefillForm:
    """How whole prompts and pictures attend; see `segment_attention`.

    Attributes:
        fused_head_dims: Head sizes for which MLX has a kernel that keeps no score matrix; other sizes are
            padded up to the next one. Empty: nothing is padded.
        multiple: Round up to a multiple of this the lengths with which segments attend (`models/rounded.py`)
            and the tokens of a whole pass; 0 leaves them as they are. CUDA's attention keeps a plan for every
            length it meets, takes 50 ms to make one, and gives up after 513 different ones; compiled
            functions are kept for each number of tokens.
        scores: Write the attention out, for about so many scores at a time, and compute them before the next
            ones are thought of, so that the caches hold them; 0 leaves it to MLX's own call. On the CPU that
            call takes 2.5 times the processor time, and it computes what a causal mask throws away.
    """

    fused_head_dims: tuple[int, ...] = ()
    multiple: int = 0
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
        launch_thread: Send steps off from a thread of their own (`engine/lane.py`): where that takes the host
            longer than to put them together, and the device no longer than both. Not with `layer_by_layer`,
            which computes while a step is put together.
        decode_attention: The quickest form of decode attention there.
        float16_cache: Keep keys and values of bfloat16 models in float16, so that scores, which have the same
            dtype, are three bits finer: rounded to bfloat16, one of 16 would be off by up to 0.06.
        prefill: The quickest form of attention within prompts and pictures.
        shelf_rows: Rows of the cache that share a length (`models/shelves.py`), shelf by shelf; the last
            number goes for all further ones. Fewer fit the pages' lengths more closely, more need fewer
            launches. The longest pages stand first, where a single very long one must not cost much.
        shared_shapes: Compute steps with a few rows more than there are pages, so that few different shapes
            occur: plans and compiled functions are kept for each.
        fused_layers: Run decoder layers in few launches (`models/fused_layer.py`): where the host's work on
            each costs more than what it launches.
        prefill_tokens: Prompt tokens that go through in one pass: enough to keep the device busy, few enough
            that pages in work don't stand still for long and that the pass fits beside the cache.
        activations: The quickest form of the functions between linear layers there.
        rows_together: How many tokens or patches go through what lies between two attention calls at a time,
            at most: on the CPU, few enough for what the layers hand on to stay in its caches, and two pieces
            at once. 0: all in one.
        turned_weights: Keep linear layers' weights in memory input by output: for a product of few rows, as
            in a decode step, OpenBLAS takes up to a third less time.
        layer_by_layer: Let a text layer compute while the next one is put together, which takes the host an
            eighth of a small decode step on a CPU. GPUs have the last step to compute meanwhile.
        kept_share: How much of the device's memory MLX may keep for new arrays when old ones are done with;
            None leaves it at MLX's own limit. On CUDA that is nearly all of it, and when the driver has given
            as much, MLX lets go of all it keeps with every array of a size that isn't among it: each new
            length of a step then costs 150 allocations, and the steps in between get slower, too.
        panels: Cut the decoder layers' matrices into panels (`models/panel_layer.py`): a decode step's
            products take OpenBLAS half the time.
    """

    name: BackendName
    float32_only: bool
    decode_ahead: bool
    decode_attention: DecodeAttention
    prefill: PrefillForm
    prefill_tokens: int
    shelf_rows: tuple[int, ...]
    shared_shapes: bool
    fused_layers: bool
    activations: Activations = MLX_ACTIVATIONS
    rows_together: int = 0
    turned_weights: bool = False
    layer_by_layer: bool = False
    panels: bool = False
    launch_thread: bool = False
    float16_cache: bool = False
    kept_share: float | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for choices that would have two threads compute at once."""
        if self.launch_thread and self.layer_by_layer:
            raise ValueError("launch_thread and layer_by_layer exclude each other")

    def cache_dtype(self, dtype: mx.Dtype) -> mx.Dtype:
        """Of the keys and values that a model of `dtype` keeps."""
        return mx.float16 if self.float16_cache and dtype == mx.bfloat16 else dtype


_OUT_OF_MEMORY = ("malloc", "unable to allocate", "insufficient memory", "out of memory", "outofmemory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether MLX failed because memory ran out: it says so in words only, other ones on each backend."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)
    )


_BACKENDS = {
    BackendName.METAL: Backend(
        BackendName.METAL,
        float32_only=False,
        decode_ahead=True,
        decode_attention=DecodeAttention.MASKED,
        prefill=PrefillForm(fused_head_dims=(64, 80, 128)),
        prefill_tokens=4096,
        shelf_rows=(2, 6, 8, 16),
        shared_shapes=True,
        fused_layers=False,
    ),
    BackendName.CUDA: Backend(
        BackendName.CUDA,
        float32_only=False,
        decode_ahead=True,
        decode_attention=DecodeAttention.PRODUCTS,
        launch_thread=True,
        float16_cache=True,
        prefill=PrefillForm(multiple=256),
        prefill_tokens=8192,
        shelf_rows=(64,),
        shared_shapes=True,
        fused_layers=True,
        activations=COMPILED,
        kept_share=1 / 16,
    ),
    BackendName.CPU: Backend(
        BackendName.CPU,
        float32_only=True,
        decode_ahead=False,
        decode_attention=DecodeAttention.WRITTEN_OUT,
        prefill=PrefillForm(scores=400_000),
        prefill_tokens=2048,
        shelf_rows=(4, 8),
        shared_shapes=False,
        fused_layers=False,
        activations=WRITTEN_OUT,
        rows_together=512,
        turned_weights=True,
        layer_by_layer=True,
        panels=True,
    ),
}


def backend_of(name: BackendName) -> Backend:
    """What is chosen for a backend, whether this machine has it or not."""
    return _BACKENDS[name]


def current_backend() -> Backend:
    """The backend of MLX's default device."""
    if mx.default_device().type == mx.DeviceType.cpu:
        return backend_of(BackendName.CPU)
    if mx.metal.is_available():
        return backend_of(BackendName.METAL)
    # Read when MLX first computes something. It keeps every different graph of launches, and steps take the
    # same time without them; and it gives up when it has made twice as many graphs, or plans of attention, as
    # it keeps, where a long run had better wait for the next one.
    os.environ.setdefault("MLX_USE_CUDA_GRAPHS", "0")
    os.environ.setdefault("MLX_ENABLE_CACHE_THRASHING_CHECK", "0")
    return backend_of(BackendName.CUDA)
