"""A small random model and pages of many shapes for the engine's tests."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_chandra.engine.generator import BatchGenerator
from mlx_chandra.engine.sampler import GREEDY, Sampling
from mlx_chandra.models import load_model
from mlx_chandra.models.backend import Backend, BackendName, backend_of, current_backend
from mlx_chandra.models.qwen3_vl import Qwen3VL
from mlx_chandra.processing.processor import PageInputs, Processor
from tests.checkpoints import CheckpointShape, write_huggingface_checkpoint
from tests.fakes import StopsAt


@dataclass(frozen=True)
class Machine:
    """A backend's choices, by name."""

    name: str
    backend: Backend


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_huggingface_checkpoint(tmp_path_factory.mktemp("engine"), CheckpointShape(), seed=3)


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> Qwen3VL:
    return load_model(checkpoint)


@pytest.fixture(scope="session")
def processor(checkpoint: Path) -> Processor:
    return Processor.from_folder(checkpoint)


@pytest.fixture(scope="session")
def pages(processor: Processor) -> list[PageInputs]:
    """32 pages of 24 different shapes, with prompts of different lengths."""
    random = np.random.default_rng(5)
    images = [
        Image.fromarray(random.integers(0, 256, (32 * (1 + i % 4), 32 * (1 + i % 6), 3), dtype=np.uint8))
        for i in range(32)
    ]
    return [processor.prepare(image, "read " + "on " * (i % 5)) for i, image in enumerate(images)]


def ahead(backend: Backend) -> Backend:
    """The same backend, launching a step before the last one's tokens are read, as GPUs do."""
    return replace(backend, decode_ahead=True)


@pytest.fixture(scope="session")
def model_ahead(checkpoint: Path) -> Qwen3VL:
    return load_model(checkpoint, backend=ahead(current_backend()))


@pytest.fixture(scope="session")
def model_as_on_cuda(checkpoint: Path) -> Qwen3VL:
    return load_model(checkpoint, backend=replace(backend_of(BackendName.CUDA), name=BackendName.CPU))


def run(generator: BatchGenerator, after_step: Callable[[], object] = lambda: None) -> dict[int, list[int]]:
    """Go on until there is no work; every page's tokens by uid, books checked after every step."""
    tokens: dict[int, list[int]] = {}
    while generator.has_work:
        _, responses = generator.next()
        generator.check()
        for response in responses:
            tokens.setdefault(response.uid, []).append(response.token)
            assert response.generated_tokens == len(tokens[response.uid])
        after_step()
    return tokens


def alone(model: Qwen3VL, page: PageInputs, max_tokens: int, sampling: Sampling = GREEDY) -> list[int]:
    """A page's tokens with the model to itself."""
    generator = BatchGenerator(model, StopsAt(), completion_batch_size=1, stop_on_repetition=False)
    (uid,) = generator.insert([page], max_tokens, sampling)
    return run(generator)[uid]
