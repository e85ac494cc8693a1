"""A small random model with its processor."""

from pathlib import Path

import pytest

from mlx_chandra.models.qwen3_vl import Qwen3VL
from mlx_chandra.processing.processor import Processor
from mlx_chandra.reading.batch import load
from tests.checkpoints import CheckpointShape, write_huggingface_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_huggingface_checkpoint(tmp_path_factory.mktemp("reading"), CheckpointShape(), seed=3)


@pytest.fixture(scope="session")
def loaded(checkpoint: Path) -> tuple[Qwen3VL, Processor]:
    return load(checkpoint)


@pytest.fixture
def model(loaded: tuple[Qwen3VL, Processor]) -> Qwen3VL:
    return loaded[0]


@pytest.fixture
def processor(loaded: tuple[Qwen3VL, Processor]) -> Processor:
    return loaded[1]
