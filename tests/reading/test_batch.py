"""load, group_images_by_shape and batch_generate: the calls people already have."""

import os
import re
import threading
import typing
import warnings
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

import mlx_chandra
from mlx_chandra.documents.image_files import page_of
from mlx_chandra.engine import retries as retries_module
from mlx_chandra.engine.generator import BatchGenerator
from mlx_chandra.engine.responses import FinishReason
from mlx_chandra.engine.sampler import Sampling
from mlx_chandra.errors import ModelNotFoundError, PageError
from mlx_chandra.models.qwen3_vl import Qwen3VL
from mlx_chandra.processing.processor import Processor
from mlx_chandra.reading.batch import BatchResponse, BatchStats, batch_generate, group_images_by_shape, load
from mlx_chandra.reading.images import open_image, shape_of

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
        model, processor, images, None, PROMPT, limits, group_by_shape=group_by_shape, completion_batch_size=2
    )
    alone = [
        batch_generate(model, processor, image, None, PROMPT, limit)
        for image, limit in zip(images, limits, strict=True)
    ]
    assert together.texts == [response.texts[0] for response in alone]
    assert [page.generation_tokens for page in together.pages] == limits
    assert all(page.finish_reason is FinishReason.LENGTH for page in together.pages)
    assert together.image_sizes == [(64, 96), (32, 160), (64, 96), (96, 64), (32, 160)]
    assert together.stats.generation_tokens == sum(limits)
    assert together.stats.prompt_tokens == sum(page.prompt_tokens for page in together.pages)


def test_image_sizes_are_left_out_where_they_are_not_wanted(model: Qwen3VL, processor: Processor) -> None:
    response = batch_generate(model, processor, picture(0), None, PROMPT, 1, track_image_sizes=False)
    assert response.image_sizes is None


def test_a_page_that_can_not_be_read_has_its_own_error_and_the_rest_is_done(
    model: Qwen3VL, processor: Processor, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_text("no picture")
    paths = [tmp_path / "broken.png", tmp_path / "none.png"]
    images = [paths[0], picture(1), paths[1]]
    response = batch_generate(model, processor, images, None, PROMPT, 4)
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
    response = batch_generate(model, processor, pages, None, PROMPT, 3, completion_batch_size=4)
    assert waited == [True] * 3
    assert [page.generation_tokens for page in response.pages] == [3] * 4


def test_max_size_makes_large_pages_cheaper(model: Qwen3VL, processor: Processor) -> None:
    large = picture(0, 320, 320)
    full, small = (
        batch_generate(model, processor, large, None, PROMPT, 1, max_size=size).pages[0].prompt_tokens
        for size in (None, 96)
    )
    assert full - small == 100 - 9  # merged patches of 32 px


def test_sampling_can_be_given_for_each_page(model: Qwen3VL, processor: Processor) -> None:
    pages = [picture(0), picture(0)]
    samplings = [Sampling(), Sampling(temperature=3.0, seed=1)]
    greedy, drawn = batch_generate(model, processor, pages, None, PROMPT, 12, sampling=samplings).texts
    assert greedy != drawn
    assert greedy == batch_generate(model, processor, picture(0), None, PROMPT, 12).texts[0]


def test_without_a_prompt_the_models_own_layout_prompt_is_used(model: Qwen3VL, processor: Processor) -> None:
    own = batch_generate(model, processor, picture(0), max_tokens=3)
    short = batch_generate(model, processor, picture(0), None, PROMPT, 3)
    assert own.pages[0].prompt_tokens > 10 * short.pages[0].prompt_tokens


def test_verbose_prints_tokens_and_speed(
    model: Qwen3VL, processor: Processor, capsys: pytest.CaptureFixture[str]
) -> None:
    batch_generate(model, processor, picture(0), None, PROMPT, 3, verbose=True)
    assert "1 pages" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("images", "prompts"), [(None, PROMPT), ([], PROMPT), ([picture(0)] * 2, ["a", "b", "c"])]
)
def test_images_that_are_missing_or_do_not_match_the_prompts_are_refused(
    model: Qwen3VL, processor: Processor, images: list[Image.Image] | None, prompts: str | list[str]
) -> None:
    with pytest.raises(ValueError, match="image"):
        batch_generate(model, processor, images, prompts=prompts)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"audios": ["a.wav"]}, "audios.*pictures"),
        ({"videos": ["a.mp4"]}, "videos.*pictures"),
        ({"kv_bits": 4}, "kv_bits.*completion_batch_size"),
        ({"logits_processors": [len]}, "logits_processors.*sampler="),
        ({"temperature": 0.2}, r"temperature.*Sampling\("),
        ({"nonsense": 1}, "nonsense"),
        ({"max_size": -5}, "max_size"),
        ({"images": {"a.png"}}, "no order"),
        ({"max_tokens": 0}, "at least 1"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"prompts": [7]}, "prompts"),
    ],
)
def test_what_cannot_be_taken_is_refused_by_its_name(
    model: Qwen3VL, processor: Processor, given: dict[str, object], said: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        batch_generate(model, processor, **{"images": picture(0), "prompts": PROMPT, **given})


def test_prompts_in_the_place_of_audios_are_pointed_out(model: Qwen3VL, processor: Processor) -> None:
    with pytest.raises(TypeError, match="prompts by name"):
        batch_generate(model, processor, [picture(0)], [PROMPT])


def test_mlx_vlms_positions_are_ours(model: Qwen3VL, processor: Processor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        response = batch_generate(
            model, processor, [picture(0)], None, [PROMPT], [2], False, True, True, None
        )
    assert response.pages[0].generation_tokens == 2
    assert response.image_sizes == [(64, 96)]


def test_what_has_no_effect_is_taken_and_said(model: Qwen3VL, processor: Processor) -> None:
    options = {"resize_shape": (32, 32), "prefill_step_size": 512}
    with pytest.warns(UserWarning, match="resize_shape, prefill_step_size has no effect") as said:
        batch_generate(model, processor, picture(0), prompts=PROMPT, max_tokens=1, **options)
    assert len(said) == 1


def test_a_sampler_and_stop_tokens_come_to_the_engine(model: Qwen3VL, processor: Processor) -> None:
    def always_seven(logits: mx.array) -> mx.array:
        return mx.full((len(logits),), 7, mx.int32)

    (page,) = batch_generate(model, processor, picture(0), prompts=PROMPT, sampler=always_seven).pages
    assert (page.generation_tokens, page.attempts) == (128, 1)
    options = {"sampler": always_seven, "stop_tokens": {7}}
    (page,) = batch_generate(model, processor, picture(0), prompts=PROMPT, **options).pages
    assert (page.finish_reason, page.generation_tokens) == (FinishReason.STOP, 1)


def test_a_page_that_repeats_itself_is_read_again(
    model: Qwen3VL, processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries_module, "ends_in_repetition", lambda text: True)
    for options, attempts in ({}, 4), ({"retries": 1}, 2), ({"stop_on_repetition": False}, 1):
        response = batch_generate(model, processor, picture(0), prompts=PROMPT, max_tokens=3, **options)
        (page,) = response.pages
        assert (page.attempts, page.status, page.error) == (attempts, "error:repetition", None)
        assert response.stats.generation_tokens == 3 * attempts


def saved(folder: Path) -> list[Path]:
    """Pictures that are something else before they are made pages of."""
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(0, 40, 80).save(folder / "turned.jpg", exif=turned)
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (8, 8, 40, 40))
    clear.save(folder / "transparent.png")
    grey = np.asarray(picture(1).convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "sixteen-bits.png")
    Image.fromarray(grey.astype(np.float32) / 255).save(folder / "floats.tif")
    picture(2).convert("P").save(folder / "palette.png")
    return sorted(folder.iterdir())


def test_a_pil_image_is_read_as_its_file_is(tmp_path: Path) -> None:
    for path in saved(tmp_path):
        with Image.open(path) as image:
            assert shape_of(image) == shape_of(path)
            same = np.array_equal(np.asarray(open_image(image)), np.asarray(open_image(path)))
            assert same, path.name


def test_a_pil_image_that_is_too_large_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(PageError, match="more than 10 pixels"):
        page_of(picture(0), max_pixels=10)


def test_arrays_are_read_as_the_pictures_they_are() -> None:
    colour = np.asarray(picture(0))
    grey, clear = colour[:, :, 0], np.dstack([colour, np.zeros_like(colour[:, :, :1])])
    assert np.array_equal(np.asarray(open_image(colour)), colour)
    assert np.array_equal(np.asarray(open_image(grey)), np.dstack([grey] * 3))
    assert (np.asarray(open_image(clear)) == 255).all()
    assert shape_of(colour) == (64, 96)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (None, "NoneType is no image"),
        (7, "int is no image"),
        ("https://arxiv.org/a.png", "URL"),
        ("page.pdf", "it is a PDF: read_pages"),
        (np.zeros((8, 8), np.float32), "uint8.*float32"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"\[2, 8, 8, 3\]"),
    ],
)
def test_what_is_no_picture_is_that_pages_error(
    model: Qwen3VL, processor: Processor, tmp_path: Path, image: object, said: str
) -> None:
    (tmp_path / "page.pdf").write_bytes(b"%PDF-1.7\n")
    image = str(tmp_path / "page.pdf") if isinstance(image, str) and image == "page.pdf" else image
    response = batch_generate(model, processor, [image, picture(0)], prompts=PROMPT, max_tokens=2)
    wrong, right = response.pages
    assert wrong.error is not None
    assert re.search(said, wrong.error.message)
    assert response.image_sizes == [(0, 0), (64, 96)]
    assert right.generation_tokens == 2


def test_images_may_come_one_by_one_and_one_of_them_twice(
    model: Qwen3VL, processor: Processor, tmp_path: Path
) -> None:
    picture(0).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as lazy:
        images = (image for image in [lazy] * 6)
        response = batch_generate(model, processor, images, prompts=PROMPT, max_tokens=np.int64(3))
    assert len(set(response.texts)) == 1
    assert [page.error for page in response.pages] == [None] * 6


def test_a_prompt_of_none_among_others_is_the_models_own(model: Qwen3VL, processor: Processor) -> None:
    response = batch_generate(model, processor, [picture(0)] * 2, prompts=[PROMPT, None], max_tokens=1)
    short, own = response.pages
    assert own.prompt_tokens > 10 * short.prompt_tokens


def test_a_max_size_of_0_is_no_limit(model: Qwen3VL, processor: Processor) -> None:
    none, zero = (
        batch_generate(model, processor, picture(0, 320, 320), prompts=PROMPT, max_tokens=1, max_size=size)
        for size in (None, 0)
    )
    assert none.pages[0].prompt_tokens == zero.pages[0].prompt_tokens


def test_groups_can_be_switched_off() -> None:
    images = [picture(0), picture(1), np.zeros((5, 6), np.uint8)]
    grouped, places = group_images_by_shape(images, disable_grouping=True)
    assert places == {(64, 96, 0): [0], (64, 96, 1): [1], (5, 6, 2): [2]}
    assert grouped[64, 96, 1] == [images[1]]


def test_the_result_classes_have_mlx_vlms_defaults() -> None:
    assert BatchStats() == BatchStats(0, 0, 0, 0, 0, 0, 0)
    assert BatchResponse(["a"], BatchStats()).image_sizes is None


def test_every_public_name_has_type_hints_that_can_be_looked_up() -> None:
    for name in set(mlx_chandra.__all__) - {"__version__"}:
        value = getattr(mlx_chandra, name)
        typing.get_type_hints(value)
        for method in vars(value).values() if isinstance(value, type) else ():
            if callable(method) and not isinstance(method, type):
                typing.get_type_hints(method)


@pytest.mark.parametrize(
    "given", [{"trust_remote_code": True}, {"revision": "abc"}, {"adapter_path": "a"}, {"nonsense": 1}]
)
def test_load_refuses_what_it_cannot_take_by_its_name(checkpoint: Path, given: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=next(iter(given))):
        load(checkpoint, **given)


def test_load_takes_mlx_vlms_other_arguments(checkpoint: Path) -> None:
    with pytest.warns(UserWarning, match="lazy has no effect"):
        load(path_or_hf_repo=str(checkpoint), lazy=True, revision="main", trust_remote_code=False)
    with pytest.raises(TypeError, match="checkpoint"):
        load()


def test_load_gives_a_model_and_processor_that_read_together(checkpoint: Path) -> None:
    model, processor = load(checkpoint)
    assert (
        batch_generate(model, processor, picture(0), prompts=PROMPT, max_tokens=2).pages[0].generation_tokens
        == 2
    )


def test_loading_a_model_that_is_nowhere_says_so() -> None:
    with pytest.raises(ModelNotFoundError, match="--model demo"):
        load("./no/such/folder")


def test_the_package_offers_these_names_itself() -> None:
    assert mlx_chandra.load is load
    assert mlx_chandra.batch_generate is batch_generate
    assert mlx_chandra.group_images_by_shape is group_images_by_shape
