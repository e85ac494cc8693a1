"""The one interface that all engines are measured through, and which engines there are."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from benchmarks.made_model import Dimensions
from benchmarks.phases import PhaseClock
from benchmarks.workloads import MadePage


class EngineName(StrEnum):
    """An engine, and the mode that it runs in."""

    OURS = "mlx-chandra"
    MLX_VLM = "mlx-vlm batch_generate"
    MLX_VLM_UNGROUPED = "mlx-vlm group_by_shape=False"
    MLX_VLM_CONTINUOUS = "mlx-vlm BatchGenerator"
    TRANSFORMERS = "transformers"

    @property
    def uses_mlx(self) -> bool:
        return self is not EngineName.TRANSFORMERS


@dataclass(frozen=True)
class Setup:
    """What an engine is opened with.

    Attributes:
        source: A checkpoint folder, or the dimensions of a model with made weights.
        dtype: float32 or bfloat16.
        batch: Pages decoded at once, at most.
    """

    source: Path | Dimensions
    dtype: str
    batch: int


@dataclass(frozen=True)
class Answer:
    """What a page was answered; a made model's text means nothing and is None."""

    text: str | None
    tokens: int


@dataclass(frozen=True)
class Outcome:
    """All answers in the order of the pages, and what the engine says of its slots, where it counts that."""

    answers: list[Answer]
    occupancy: float | None = None
    steps: int | None = None


class Engine(Protocol):
    """One engine, opened: the weights are in memory."""

    def read_files(self, paths: Sequence[Path], max_tokens: int) -> Outcome:
        """From files to texts, with the checkpoint's own layout prompt, greedy."""
        ...

    def read_made(self, pages: Sequence[MadePage]) -> Outcome:
        """From prepared inputs to tokens; each page gets exactly its number of tokens."""
        ...

    def phases(self, clock: PhaseClock) -> AbstractContextManager[None]:
        """While the context lasts, `clock` sees the engine's phases."""
        ...

    def wait(self, result: object) -> None:
        """Return when the device has computed `result` and all that was launched before."""
        ...

    def peak_device_bytes(self) -> int | None:
        """The most device memory so far; None where the engine doesn't know."""
        ...


def open_engine(name: EngineName, setup: Setup) -> Engine:
    """Load an engine; only then is its library imported."""
    if name is EngineName.OURS:
        from benchmarks.engines.ours import Ours

        return Ours(setup)
    if name is EngineName.TRANSFORMERS:
        from benchmarks.engines.transformers import Transformers

        return Transformers(setup)
    from benchmarks.engines.mlx_vlm import MlxVlm

    return MlxVlm(name, setup)
