"""The interface through which every engine is measured, and the list of engines."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from benchmarks.made_model import Dimensions
from benchmarks.workloads import MadePage


class EngineName(StrEnum):
    """An engine, and the mode it runs in."""

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
        batch: Most pages decoded at once.
    """

    source: Path | Dimensions
    dtype: str
    batch: int


@dataclass(frozen=True)
class Answer:
    """A page's text (None for a made model, whose text means nothing) and its number of output tokens."""

    text: str | None
    tokens: int


@dataclass(frozen=True)
class Outcome:
    """All answers in the order of the pages; slots in use (share) and steps, where the engine counts them."""

    answers: list[Answer]
    occupancy: float | None = None
    steps: int | None = None


class Engine(Protocol):
    """An engine whose weights are in memory."""

    def read_files(self, paths: Sequence[Path], max_tokens: int) -> Outcome:
        """Read files greedily, with the checkpoint's own layout prompt."""
        ...

    def read_made(self, pages: Sequence[MadePage]) -> Outcome:
        """Decode prepared inputs; each page gets exactly its number of tokens."""
        ...

    def peak_device_bytes(self) -> int | None:
        """Return the most device memory used so far; None where the engine doesn't count it."""
        ...


def open_engine(name: EngineName, setup: Setup) -> Engine:
    """Load an engine. Its library is imported only here."""
    if name is EngineName.OURS:
        from benchmarks.engines.ours import Ours

        return Ours(setup)
    if name is EngineName.TRANSFORMERS:
        from benchmarks.engines.transformers import Transformers

        return Transformers(setup)
    from benchmarks.engines.mlx_vlm import MlxVlm

    return MlxVlm(name, setup)
