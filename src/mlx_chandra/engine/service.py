"""Runs an engine on a thread of its own, for any number of clients: pages are submitted, events come back.

Everything that touches the generator happens on that thread. Retries, the detection of repetition and the
choice of the best attempt happen there too, once for everybody: the command line, `batch_generate`, servers.
"""

import queue
import threading
import weakref
from pathlib import Path

import mlx.core as mx
from PIL import Image

from mlx_chandra.engine.engine_loop import Engine, Job, Order
from mlx_chandra.engine.generator import DEFAULT_MAX_TOKENS, BatchGenerator
from mlx_chandra.engine.handles import Events, Handle, RequestOptions
from mlx_chandra.engine.memory import require_room_here
from mlx_chandra.engine.responses import GeneratorStats
from mlx_chandra.engine.threads import NAME, run_on_thread
from mlx_chandra.errors import EngineError
from mlx_chandra.models import load_model, resolve_checkpoint
from mlx_chandra.models.qwen3_vl import Qwen3VL
from mlx_chandra.processing.processor import PageInputs, Processor
from mlx_chandra.processing.prompt import BOX_SCALES, PromptType

Dtype = mx.Dtype | str
"""A number format, or its name."""
_MOST_SPARE = 16  # pages that wait beyond the slots; each takes a few MB
_PATIENCE = 10.0  # seconds that a program's end waits for the step that runs


class Service:
    """Reads pages on one daemon thread that owns the generator.

    Args:
        generator: Nobody else may touch it from now on. It should leave the detection of repetition to the
            service (`stop_on_repetition=False`), where each page has its own choice.
        processor: Of the same checkpoint.
        queue_size: Pages submitted and not ended, at most; by default its slots and a few more.

    A service that nobody refers to any more is closed. So is one that is open when the program ends.
    """

    def __init__(
        self,
        generator: BatchGenerator,
        processor: Processor,
        *,
        queue_size: int | None = None,
    ) -> None:
        self._processor, slots = processor, generator.slots
        self._engine = Engine(generator, processor, queue_size or slots + max(2, min(slots, _MOST_SPARE)))
        self._ended = run_on_thread(self._engine.run)
        self._end = weakref.finalize(self, _end, self._engine.orders, self._ended)

    @property
    def slots(self) -> int:
        """Pages decoded at once; fewer after an allocation failed."""
        return self._engine.stats.slots

    @property
    def box_scale(self) -> int:
        """What the boxes in the model's answers are normalised to."""
        return BOX_SCALES[self._processor.family]

    @property
    def broken(self) -> EngineError | None:
        """Why the engine reads nothing any more; None while it can go on."""
        return self._engine.broken

    def prepare(
        self,
        image: Image.Image,
        prompt: str | PromptType = PromptType.OCR_LAYOUT,
        max_size: int | None = None,
    ) -> PageInputs:
        """Make a page's inputs, on the caller's thread. Raises as `Processor.prepare`."""
        return self._processor.prepare(image, prompt, max_size)

    def submit(
        self,
        inputs: PageInputs,
        options: RequestOptions | None = None,
        events: Events | None = None,
        timeout: float | None = None,
    ) -> Handle:
        """Queue a page; waits while the queue is full.

        Args:
            inputs: From `prepare`.
            events: A queue for the events of several pages; by default the handle has its own.
            timeout: Seconds to wait at most; 0 doesn't wait.

        Raises:
            EngineError: The service is broken or closed.
            TimeoutError: The queue is still full.
        """
        handle = Handle(self._drop, events)
        self._engine.submit(Job(handle, inputs, options or RequestOptions()), timeout)
        return handle

    def _drop(self, handle: Handle) -> None:
        self._engine.orders.put(handle)

    def stats(self) -> GeneratorStats:
        return self._engine.stats

    def close(self) -> None:
        """Drop what is in work, and wait until nothing computes any more."""
        self._end()
        _wait(self._ended, None)

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_checkpoint(name_or_path: str | Path, dtype: Dtype | None = None) -> tuple[Qwen3VL, Processor]:
    """Load a checkpoint's model and processor.

    Args:
        name_or_path: "demo", a folder, or a name on the Hugging Face hub.
        dtype: float32, float16 or bfloat16, or its name; None: float32 on the CPU, the checkpoint's own on
            a GPU.

    Raises:
        ModelNotFoundError: There is no such checkpoint here, and it can't be downloaded.
        CheckpointError: It can't be used.
        ModelTooLargeError: It doesn't fit into this machine's memory.
    """
    folder = resolve_checkpoint(name_or_path)
    require_room_here(folder, dtype)
    model = load_model(folder, dtype)
    # A thread can use another one's arrays once they are computed; parameters() leaves out private ones.
    layers = model.modules()  # type: ignore[no-untyped-call]
    mx.eval([array for layer in layers for array in layer.values() if isinstance(array, mx.array)])
    return model, Processor.from_folder(folder)


def open_service(
    model_name: str | Path,
    dtype: Dtype | None = None,
    batch_size: int | str = "auto",
    max_tokens: int = DEFAULT_MAX_TOKENS,
) -> Service:
    """Load a checkpoint and start a service with it. Takes and raises what `load_checkpoint` does.

    Args:
        batch_size: Pages decoded at once, or "auto": what fits the machine.
        max_tokens: Output tokens of a page, at most.
    """
    model, processor = load_checkpoint(model_name, dtype)
    generator = BatchGenerator(
        model,
        processor,
        max_tokens=max_tokens,
        completion_batch_size=batch_size,
        stop_on_repetition=False,
    )
    return Service(generator, processor)


def _end(orders: "queue.SimpleQueue[Order]", ended: threading.Event) -> None:
    """Ask the engine to end. Waits a moment, so that no step runs while Python shuts down."""
    orders.put(None)
    _wait(ended, _PATIENCE)


def _wait(ended: threading.Event, timeout: float | None) -> None:
    if threading.current_thread().name != NAME:  # the last reference may have gone on the engine's thread
        ended.wait(timeout)
