"""The workloads are what the documentation says they are, and the inputs fit them."""

from pathlib import Path

import pytest

from benchmarks.made_model import TOY, made_config
from benchmarks.run import orders as orders_of
from benchmarks.run import pages_of, parse
from benchmarks.workloads import Workload, example_pages, make_pages, plan
from mlx_chandra.models.config import ModelConfig


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return made_config(TOY)


def test_w1_has_the_shapes_and_lengths_that_published_figures_were_measured_with() -> None:
    pages = plan(Workload.W1, 64)
    assert [(page.height, page.width) for page in pages[:4]] == [
        (1024, 1024),
        (768, 1024),
        (768, 1024),
        (1024, 724),
    ]
    assert [page.output_tokens for page in pages[:4]] == [576, 975, 763, 848]
    assert sum(page.output_tokens for page in pages) == 65_376
    assert {page.after_image for page in pages} == {450}


def test_w2_pages_have_3366_image_tokens_and_the_lengths_of_w1() -> None:
    pages = plan(Workload.W2, 16)
    assert {page.height // 32 * (page.width // 32) for page in pages} == {3366}
    assert [page.output_tokens for page in pages] == [page.output_tokens for page in plan(Workload.W1, 16)]


def test_wd_has_no_plan_because_its_pages_are_files() -> None:
    with pytest.raises(ValueError, match="example_pages"):
        plan(Workload.WD, 4)


def test_a_made_prompt_holds_the_picture_between_its_marks_and_as_many_tokens_after_it(
    config: ModelConfig,
) -> None:
    (planned,) = plan(Workload.W1, 1, toy=True)
    (page,) = make_pages([planned], config)
    ids = page.inputs.token_ids.tolist()
    count = page.inputs.image.grid.patches // 4
    assert ids[0] == config.vision_start_token_id
    assert ids[1 : 1 + count] == [config.image_token_id] * count
    assert ids[1 + count] == config.vision_end_token_id
    assert len(ids) == 1 + count + planned.after_image
    assert max(ids[2 + count :]) < config.vision_start_token_id


def test_made_pages_of_one_shape_share_their_patches_and_differ_in_their_prompts(config: ModelConfig) -> None:
    pages = make_pages(plan(Workload.W2, 2, toy=True), config)
    assert pages[0].inputs.image is pages[1].inputs.image
    assert pages[0].inputs.token_ids.tolist() != pages[1].inputs.token_ids.tolist()


def test_prompts_are_counted_as_the_engines_get_them(config: ModelConfig) -> None:
    chosen = parse(["--workload", "W1", "--toy", "--pages", "5"])
    order = orders_of(chosen, on_cpu=True)[0]
    made = make_pages(plan(Workload.W1, 5, toy=True), config)
    assert [(page.patches, page.prompt_tokens) for page in pages_of(order)] == [
        (page.inputs.image.grid.patches, len(page.inputs.token_ids)) for page in made
    ]


def test_a_few_example_pages_are_spread_over_all_of_them() -> None:
    pages = example_pages()
    assert len(pages) >= 20
    assert example_pages(4) == [pages[place * len(pages) // 4] for place in range(4)]
    assert example_pages(10_000) == pages
    assert all(isinstance(path, Path) and path.is_file() for path in pages)
