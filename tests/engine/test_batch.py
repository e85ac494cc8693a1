"""load, group_images_by_shape and batch_generate: the calls people already have."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mlx_chandra
from mlx_chandra.engine.batch import batch_generate, group_images_by_shape, load
from mlx_chandra.engine.generator import BatchGenerator
from mlx_chandra.engine.responses import FinishReason
from mlx_chandra.engine.sampler import Sampling
from mlx_chandra.errors import ModelNotFoundError, PageError
from mlx_chandra.models.qwen3_vl import Qwen3VL
from mlx_chandra.processing.processor import Processor

PROMPT = "read"


def picture(seed: int, height: int = 64, width: int = 96) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def images(tmp_path: Path) -> list[Image.Image | str]:
    """Paths and PIL images of three shapes, mixed."""
    made: list[Image.Image | str] = []
    for seed, size in enumerate([(64, 96), (32, 160), (64, 96), (96, 64), (32, 160)]):
        image = picture(seed, *size)
        if seed % 2:
            image.save(tmp_path / f"{seed}.png")
            made.append(str(tmp_path / f"{seed}.png"))
        else:
            made.append(image)
    return made


def test_images_are_grouped_by_height_and_width_with_their_places(images: list[Image.Image | str]) -> None:
    grouped, places = group_images_by_shape(images)
    assert places == {(64, 96): [0, 2], (32, 160): [1, 4], (96, 64): [3]}
    assert grouped == {shape: [images[i] for i in indices] for shape, indices in places.items()}


def test_a_turned_photo_is_grouped_by_how_it_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(0, 40, 80).save(tmp_path / "turned.jpg", exif=exif)
    assert list(group_images_by_shape([tmp_path / "turned.jpg"])[1]) == [(80, 40)]


def test_what_is_no_picture_is_grouped_as_unreadable_and_a_named_pipe_keeps_nobody_waiting(
    tmp_path: Path,
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "short.bmp").write_bytes(b"BM" + bytes(20))
    os.mkfifo(tmp_path / "pipe.png")
    assert group_images_by_shape(sorted(tmp_path.iterdir()))[1] == {(0, 0): [0, 1, 2]}


@pytest.mark.parametrize("group_by_shape", [True, False])
def test_texts_come_back_in_the_order_given_and_are_those_of_each_page_alone(
    model: Qwen3VL, processor: Processor, images: list[Image.Image | str], group_by_shape: bool
) -> None:
    limits = [5, 20, 9, 1, 13]
    together = batch_generate(
        model, processor, images, PROMPT, limits, group_by_shape=group_by_shape, completion_batch_size=2
    )
    alone = [
        batch_generate(model, processor, image, PROMPT, limit)
        for image, limit in zip(images, limits, strict=True)
    ]
    assert together.texts == [response.texts[0] for response in alone]
    assert [page.generation_tokens for page in together.pages] == limits
    assert all(page.finish_reason is FinishReason.LENGTH for page in together.pages)
    assert together.image_sizes == [(64, 96), (32, 160), (64, 96), (96, 64), (32, 160)]
    assert together.stats.generation_tokens == sum(limits)
    assert together.stats.prompt_tokens == sum(page.prompt_tokens for page in together.pages)


def test_image_sizes_are_left_out_where_they_are_not_wanted(model: Qwen3VL, processor: Processor) -> None:
    response = batch_generate(model, processor, picture(0), PROMPT, 1, track_image_sizes=False)
    assert response.image_sizes is None


def test_a_page_that_can_not_be_read_has_its_own_error_and_the_rest_is_done(
    model: Qwen3VL, processor: Processor, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_text("no picture")
    paths = [tmp_path / "broken.png", tmp_path / "none.png"]
    response = batch_generate(model, processor, [paths[0], picture(1), paths[1]], PROMPT, 4)
    broken, read, missing = response.pages
    assert isinstance(broken.error, PageError)
    assert isinstance(missing.error, PageError)
    assert broken.finish_reason is missing.finish_reason is FinishReason.ERROR
    assert broken.error.kind == "unreadable"
    assert missing.error.kind == "missing"
    assert read.error is None
    assert read.generation_tokens == 4
    assert response.texts[0] == response.texts[2] == ""
    assert response.image_sizes == [(0, 0), (64, 96), (0, 0)]


def test_the_engine_begins_with_the_first_page_while_others_are_still_prepared(
    model: Qwen3VL, processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()
    prepare, go_on = Processor.prepare, BatchGenerator.next
    waited: list[bool] = []

    def prepared(here: Processor, image: Image.Image, *arguments: object) -> object:
        if image.height == 64:  # not the first one
            waited.append(begun.wait(5.0))
        return prepare(here, image, *arguments)  # type: ignore[arg-type]

    def gone_on(generator: BatchGenerator) -> object:
        begun.set()
        return go_on(generator)

    monkeypatch.setattr(Processor, "prepare", prepared)
    monkeypatch.setattr(BatchGenerator, "next", gone_on)
    pages = [picture(0, 32, 160), *(picture(seed) for seed in range(1, 4))]
    response = batch_generate(model, processor, pages, PROMPT, 3, completion_batch_size=4)
    assert waited == [True] * 3
    assert [page.generation_tokens for page in response.pages] == [3] * 4


def test_max_size_makes_large_pages_cheaper(model: Qwen3VL, processor: Processor) -> None:
    large = picture(0, 320, 320)
    full, small = (
        batch_generate(model, processor, large, PROMPT, 1, max_size=size).pages[0].prompt_tokens
        for size in (None, 96)
    )
    assert full - small == 100 - 9  # merged patches of 32 px


def test_sampling_can_be_given_for_each_page(model: Qwen3VL, processor: Processor) -> None:
    pages = [picture(0), picture(0)]
    samplings = [Sampling(), Sampling(temperature=3.0, seed=1)]
    greedy, drawn = batch_generate(model, processor, pages, PROMPT, 12, sampling=samplings).texts
    assert greedy != drawn
    assert greedy == batch_generate(model, processor, picture(0), PROMPT, 12).texts[0]


def test_without_a_prompt_the_models_own_layout_prompt_is_used(model: Qwen3VL, processor: Processor) -> None:
    own = batch_generate(model, processor, picture(0), None, 3)
    short = batch_generate(model, processor, picture(0), PROMPT, 3)
    assert own.pages[0].prompt_tokens > 10 * short.pages[0].prompt_tokens


def test_verbose_prints_tokens_and_speed(
    model: Qwen3VL, processor: Processor, capsys: pytest.CaptureFixture[str]
) -> None:
    batch_generate(model, processor, picture(0), PROMPT, 3, verbose=True)
    assert "1 pages" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("images", "prompts"), [(None, PROMPT), ([], PROMPT), ([picture(0)] * 2, ["a", "b", "c"])]
)
def test_arguments_that_do_not_fit_are_refused(
    model: Qwen3VL, processor: Processor, images: list[Image.Image] | None, prompts: str | list[str]
) -> None:
    with pytest.raises(ValueError, match="image"):
        batch_generate(model, processor, images, prompts)


def test_load_gives_a_model_and_processor_that_read_together(checkpoint: Path) -> None:
    model, processor = load(checkpoint)
    assert batch_generate(model, processor, picture(0), PROMPT, 2).pages[0].generation_tokens == 2


def test_loading_a_model_that_is_nowhere_says_so() -> None:
    with pytest.raises(ModelNotFoundError, match="--model demo"):
        load("./no/such/folder")


def test_the_package_offers_these_names_itself() -> None:
    assert mlx_chandra.load is load
    assert mlx_chandra.batch_generate is batch_generate
    assert mlx_chandra.group_images_by_shape is group_images_by_shape
