"""The arithmetic of the roofline against sums worked out by hand and against the models' own weights."""

import pytest
from mlx.utils import tree_flatten

from benchmarks.made_model import CHANDRA_1, TOY, made_config
from benchmarks.roofline import TIMES, Ceilings, Costs, PageWork, ideal_run, measure_ceilings
from mlx_chandra.models.backend import current_backend
from mlx_chandra.models.qwen3_vl import Qwen3VL

SLOW = Ceilings(flops=1e12, bandwidth=1e9, dtype="float32")


@pytest.fixture(scope="module")
def costs() -> Costs:
    return Costs(made_config(TOY), dtype_size=4)


def matrix_weights(part: str) -> int:
    """How many numbers the matrices of a part of the model hold, embeddings left out."""
    parameters = dict(tree_flatten(Qwen3VL(made_config(TOY), current_backend()).parameters()))
    return sum(
        array.size
        for name, array in parameters.items()
        if name.startswith(part)
        and array.ndim == 2
        and "embed_tokens" not in name
        and "pos_embed" not in name
    )


def test_a_token_costs_two_operations_for_every_weight_it_meets(costs: Costs) -> None:
    weights = matrix_weights("language_model.") + matrix_weights("lm_head.")
    assert costs.decode(rows=1, live_tokens=0) == 2 * weights
    assert costs.decode(rows=5, live_tokens=0) == 10 * weights


def test_a_decode_step_reads_all_weights_once_and_every_live_key_and_value(costs: Costs) -> None:
    weights = matrix_weights("language_model.") + matrix_weights("lm_head.")
    assert costs.decode_bytes(0) == 4 * weights
    assert (
        costs.decode_bytes(10) - costs.decode_bytes(0)
        == 10 * 2 * TOY.layers * TOY.kv_heads * TOY.head_dim * 4
    )


def test_chandra_1_holds_147456_bytes_of_keys_and_values_a_token_in_bf16() -> None:
    chandra = Costs(made_config(CHANDRA_1), dtype_size=2)
    assert chandra.decode_bytes(1) - chandra.decode_bytes(0) == 147_456


def test_four_patches_cost_their_weights_in_every_block_and_the_mergers_once(costs: Costs) -> None:
    mergers = matrix_weights("visual.merger.") + matrix_weights("visual.deepstack")
    patch_weights = matrix_weights("visual.") - mergers
    attention = 4 * TOY.vision_depth * TOY.vision_hidden * 4**2
    assert costs.vision(4) == 2 * (4 * patch_weights + mergers) + attention


def test_a_prompt_attends_to_half_of_all_pairs(costs: Costs) -> None:
    grown = costs.prefill(200) - 2 * costs.prefill(100)
    queries = TOY.heads * TOY.head_dim
    head = 2 * TOY.hidden * TOY.vocab
    assert grown == 4 * TOY.layers * queries * 100 * 100 - head


def test_a_run_has_as_many_steps_as_its_slots_need_when_each_is_refilled_at_once(costs: Costs) -> None:
    pages = [PageWork(4, 10, tokens) for tokens in (5, 3, 3)]
    assert ideal_run(pages, 1, costs, SLOW).steps == 4 + 2 + 2
    assert ideal_run(pages, 2, costs, SLOW).steps == 4  # the short ones one after another beside the long one
    assert ideal_run(pages, 3, costs, SLOW).steps == 4


def test_a_step_takes_the_longer_of_its_bytes_and_its_operations(costs: Costs) -> None:
    pages = [PageWork(4, 10, 2)]
    bound_by_bytes = ideal_run(pages, 1, costs, SLOW)
    assert bound_by_bytes.decode == pytest.approx(costs.decode_bytes(11) / 1e9)
    slow_to_compute = Ceilings(flops=1e3, bandwidth=1e15, dtype="float32")
    assert ideal_run(pages, 1, costs, slow_to_compute).decode == pytest.approx(costs.decode(1, 11) / 1e3)


def test_a_page_of_one_token_needs_no_decode_step(costs: Costs) -> None:
    ideal = ideal_run([PageWork(4, 10, 1)], 4, costs, SLOW)
    assert (ideal.decode, ideal.steps) == (0.0, 0)
    assert ideal.prefill > 0


def test_ceilings_are_the_work_over_the_quickest_of_several_runs() -> None:
    side, count = 8, 32
    runs = iter([5.0, 2.0, *[4.0] * (TIMES - 2), *[3.0] * (TIMES - 1), 0.5])  # seconds of each run
    times = iter([seconds for run in runs for seconds in (100.0, 100.0 + run)])
    ceilings = measure_ceilings("float32", (side, count), lambda: next(times))
    assert ceilings == Ceilings(2 * side**3 / 2.0, 2 * count * 4 / 0.5, "float32")
