"""Every engine at toy size, live: each page gets its length, and each phase is seen."""

import pytest

from benchmarks.engines.base import EngineName, Setup, open_engine
from benchmarks.made_model import TOY, made_config
from benchmarks.phases import PhaseClock
from benchmarks.workloads import Workload, make_pages, plan

pytest.importorskip("torch")
pytest.importorskip("mlx_vlm")

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("name", list(EngineName))
def test_every_page_gets_its_length_and_every_phase_is_seen(name: EngineName) -> None:
    engine = open_engine(name, Setup(TOY, "float32", batch=3))
    pages = make_pages(plan(Workload.W1, 4, toy=True), made_config(TOY))
    clock = PhaseClock(engine.wait)
    with engine.phases(clock):
        outcome = engine.read_made(pages)
    assert [answer.tokens for answer in outcome.answers] == [page.output_tokens for page in pages]
    times = clock.times(wall=1000.0)
    assert min(times.vision, times.prefill, times.decode) > 0
    assert times.decode_steps >= max(page.output_tokens for page in pages) - 1
