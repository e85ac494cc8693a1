"""Greedy tokens out of our own engine, for comparing with others."""

from mlx_chandra.engine.generator import BatchGenerator
from mlx_chandra.models.qwen3_vl import Qwen3VL
from mlx_chandra.processing.processor import PageInputs
from tests.fakes import StopsAt


def greedy_tokens(model: Qwen3VL, pages: list[PageInputs], steps: int) -> list[list[int]]:
    """The first `steps` greedy tokens of each page, all pages decoded together, and nothing stops them."""
    generator = BatchGenerator(
        model, StopsAt(), max_tokens=steps, completion_batch_size=len(pages), stop_on_repetition=False
    )
    uids = generator.insert(pages)
    answers: dict[int, list[int]] = {uid: [] for uid in uids}
    while generator.has_work:
        _, responses = generator.next()
        for response in responses:
            answers[response.uid].append(response.token)
    generator.close()
    return [answers[uid] for uid in uids]
