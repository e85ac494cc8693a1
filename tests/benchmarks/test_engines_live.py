"""Every engine at toy size, live: each page gets its length."""

import pytest

from benchmarks.engines.base import EngineName, Setup, open_engine
from benchmarks.made_model import TOY, made_config
from benchmarks.workloads import Workload, make_pages, plan

pytest.importorskip("torch")
pytest.importorskip("mlx_vlm")

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("name", list(EngineName))
def test_every_page_gets_its_length(name: EngineName) -> None:
    engine = open_engine(name, Setup(TOY, "float32", batch=3))
    pages = make_pages(plan(Workload.W1, 4, toy=True), made_config(TOY))
    outcome = engine.read_made(pages)
    assert [answer.tokens for answer in outcome.answers] == [page.output_tokens for page in pages]
