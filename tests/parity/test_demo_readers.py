"""The demo checkpoint through three programs: transformers and mlx-vlm read the example pages as we do.

Each opens the checkpoint and the pictures with its own loaders; the engines are the benchmarks'.
"""

from pathlib import Path

import pytest

from benchmarks.engines.base import EngineName, Setup
from mlx_chandra.demo import checkpoint_folder
from mlx_chandra.engine.responses import FinishReason
from mlx_chandra.reading.batch import batch_generate, load

pytestmark = pytest.mark.parity

EXAMPLES = Path(__file__).parents[2] / "examples" / "pages"
PICTURES = sorted(path for path in EXAMPLES.rglob("*") if path.is_file() and path.suffix != ".txt")
LONGEST = 2048  # tokens
SETUP = Setup(checkpoint_folder(), "float32", batch=8)


@pytest.fixture(scope="module")
def ours() -> list[str]:
    model, processor = load("demo", "float32")
    response = batch_generate(model, processor, PICTURES, max_tokens=LONGEST)
    assert all(page.finish_reason is FinishReason.STOP for page in response.pages)
    return response.texts


def by_name(texts: list[str | None]) -> dict[str, str | None]:
    return {str(path.relative_to(EXAMPLES)): text for path, text in zip(PICTURES, texts, strict=True)}


def test_transformers_gives_the_same_text_on_every_example_page(ours: list[str]) -> None:
    from benchmarks.engines.transformers import Transformers

    answers = Transformers(SETUP).read_files(PICTURES, LONGEST).answers
    assert by_name([answer.text for answer in answers]) == by_name(list(ours))


def test_mlx_vlm_gives_the_same_text_on_every_example_page(ours: list[str]) -> None:
    """One page at a time: in mlx-vlm 0.7.10's batches a close call can fall otherwise (seen on one page)."""
    from benchmarks.engines.mlx_vlm import MlxVlm

    mlx_vlm = MlxVlm(EngineName.MLX_VLM, SETUP)
    answers = [mlx_vlm.read_files([picture], LONGEST).answers[0] for picture in PICTURES]
    assert by_name([answer.text for answer in answers]) == by_name(list(ours))
