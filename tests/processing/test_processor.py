"""A page and a prompt to inputs, for one checkpoint folder; what the folder's files may say."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_chandra.errors import CheckpointError, PageError, UsageError
from mlx_chandra.processing.image import Grid, patch_image
from mlx_chandra.processing.processor import Processor
from mlx_chandra.processing.prompt import ModelFamily, PromptType, prompt_text
from tests.checkpoints import CheckpointShape, config_json
from tests.parity.cases import page_image
from tests.processing_files import special_token_id, write_processing_files

IMAGE_TOKEN = special_token_id("<|image_pad|>")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_processing_files(tmp_path)
    _write(tmp_path / "config.json", config_json(CheckpointShape()))
    return tmp_path


@pytest.fixture
def processor(folder: Path) -> Processor:
    return Processor.from_folder(folder)


def test_a_page_is_one_user_turn_with_the_image_before_the_text(processor: Processor) -> None:
    page = processor.prepare(page_image(96, 160), "Read the page.")
    assert page.image.grid == Grid(1, 6, 10)
    text = processor.tokenizer.decode(page.token_ids.tolist(), skip_special=False)
    image = "<|image_pad|>" * 15
    assert text == (
        f"<|im_start|>user\n<|vision_start|>{image}<|vision_end|>Read the page.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_token_ids_are_int32_and_the_image_is_what_patch_image_makes(processor: Processor) -> None:
    picture = page_image(75, 200)
    page = processor.prepare(picture, "Read.")
    assert page.token_ids.dtype == np.int32
    assert page.image_size == (75, 200)
    np.testing.assert_array_equal(page.image.patches, patch_image(picture, processor.image_settings).patches)


@pytest.mark.parametrize(("height", "width"), [(32, 640), (704, 32), (1, 1), (333, 222)])
def test_there_is_one_image_token_for_every_merged_patch(
    processor: Processor, height: int, width: int
) -> None:
    page = processor.prepare(page_image(height, width), "Read.")
    assert np.count_nonzero(page.token_ids == IMAGE_TOKEN) == page.image.grid.patches // 4


def test_max_size_makes_fewer_tokens_and_keeps_the_size_of_the_page_as_given(processor: Processor) -> None:
    page = processor.prepare(page_image(300, 200), "Read.", max_size=96)
    assert page.image.grid == Grid(1, 6, 4)
    assert page.image_size == (300, 200)


@pytest.mark.parametrize("max_size", [None, 64, 100, 1000])
@pytest.mark.parametrize("shape", [(96, 160), (75, 200), (1, 1), (33, 31), (640, 900), (20, 3000)])
def test_a_prompts_tokens_are_known_from_the_shape_alone(
    processor: Processor, shape: tuple[int, int], max_size: int | None
) -> None:
    height, width = shape
    page = processor.prepare(Image.new("RGB", (width, height)), PromptType.OCR, max_size)
    assert processor.prompt_tokens(shape, PromptType.OCR, max_size) == len(page.token_ids)


def test_a_shape_that_cannot_be_taken_is_refused_before_there_is_a_picture(processor: Processor) -> None:
    with pytest.raises(PageError, match="5000x1 pixels"):
        processor.prompt_tokens((1, 5000), "Read.", 100)


@pytest.mark.parametrize("prompt_type", PromptType)
def test_a_prompt_type_stands_for_the_text_of_the_checkpoints_family(
    processor: Processor, prompt_type: PromptType
) -> None:
    picture = page_image(64, 64)
    text = prompt_text(prompt_type, ModelFamily.CHANDRA_1)
    by_type, by_text = processor.prepare(picture, prompt_type), processor.prepare(picture, text)
    np.testing.assert_array_equal(by_type.token_ids, by_text.token_ids)


def test_a_plain_text_that_reads_like_a_prompts_name_is_taken_as_text(processor: Processor) -> None:
    picture = page_image(64, 64)
    named = processor.prepare(picture, PromptType.OCR)
    plain = processor.prepare(picture, "ocr")
    assert len(plain.token_ids) < len(named.token_ids)
    assert processor.decode(plain.token_ids.tolist()) == "user\nocr\nassistant\n"


def test_the_family_is_the_architecture_unless_the_config_names_other_prompts(folder: Path) -> None:
    assert Processor.from_folder(folder).family is ModelFamily.CHANDRA_1
    _change(folder / "config.json", chandra_prompts="qwen3_5")
    processor = Processor.from_folder(folder)
    assert processor.family is ModelFamily.CHANDRA_2
    ids = processor.prepare(page_image(64, 64), PromptType.OCR).token_ids.tolist()
    assert prompt_text(PromptType.OCR, ModelFamily.CHANDRA_2) in processor.decode(ids)


@pytest.mark.parametrize("key", ["model_type", "chandra_prompts"])
def test_an_unknown_family_is_refused_with_the_ones_that_are_known(folder: Path, key: str) -> None:
    _change(folder / "config.json", **{key: "llama"})
    with pytest.raises(CheckpointError, match=rf"config\.json.*{key}.*qwen3_vl.*llama"):
        Processor.from_folder(folder)


def test_answers_end_at_every_id_that_any_file_or_the_tokenizer_names(folder: Path) -> None:
    _write(folder / "generation_config.json", {"eos_token_id": [3, 4]})
    config = config_json(CheckpointShape())
    text_config = config["text_config"]
    assert isinstance(text_config, dict)
    _write(
        folder / "config.json",
        {**config, "eos_token_id": 5, "text_config": {**text_config, "eos_token_id": 6}},
    )
    _change(folder / "tokenizer_config.json", eos_token="z")
    processor = Processor.from_folder(folder)
    ends = {special_token_id("<|im_end|>"), special_token_id("<|endoftext|>")}
    assert processor.stop_token_ids == {3, 4, 5, 6, processor.tokenizer.token_id("z"), *ends}


def test_a_folder_without_generation_config_still_knows_the_usual_ends(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    ends = {special_token_id("<|im_end|>"), special_token_id("<|endoftext|>")}
    assert Processor.from_folder(folder).stop_token_ids == ends


def test_a_folder_that_names_no_end_of_an_answer_is_refused(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    config = config_json(CheckpointShape())
    _write(folder / "config.json", {key: value for key, value in config.items() if key != "text_config"})
    _write(folder / "tokenizer_config.json", {})
    tokens = (folder / "tokenizer.json").read_text(encoding="utf-8")
    renamed = tokens.replace("<|im_end|>", "<|a|>").replace("<|endoftext|>", "<|b|>")
    (folder / "tokenizer.json").write_text(renamed, encoding="utf-8")
    with pytest.raises(CheckpointError, match="ends an answer"):
        Processor.from_folder(folder)


@pytest.mark.parametrize("value", ["2", [1, "2"], True, 1.5])
def test_a_wrong_eos_token_id_is_named_with_its_file(folder: Path, value: object) -> None:
    _write(folder / "generation_config.json", {"eos_token_id": value})
    with pytest.raises(CheckpointError, match=r"generation_config\.json.*eos_token_id"):
        Processor.from_folder(folder)


@pytest.mark.parametrize("key", ["image_token_id", "model_type"])
def test_a_missing_key_of_the_config_is_named(folder: Path, key: str) -> None:
    config = config_json(CheckpointShape())
    _write(folder / "config.json", {name: value for name, value in config.items() if name != key})
    with pytest.raises(CheckpointError, match=rf"config\.json.*{key}"):
        Processor.from_folder(folder)


def test_a_prompt_that_holds_the_image_token_is_refused(processor: Processor) -> None:
    with pytest.raises(UsageError, match="prompt"):
        processor.prepare(page_image(64, 64), "Read <|image_pad|> twice.")


@pytest.mark.parametrize("template", ["{{ messages[0].role }}", "<|image_pad|><|image_pad|>"])
def test_a_chat_template_without_one_place_for_the_image_is_refused(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    processor = Processor.from_folder(folder)
    with pytest.raises(CheckpointError, match="image tokens"):
        processor.prepare(page_image(64, 64), "Read.")


def test_a_page_of_an_impossible_shape_is_that_pages_error(processor: Processor) -> None:
    with pytest.raises(PageError, match="1x5000") as caught:
        processor.prepare(Image.new("RGB", (1, 5000)), "Read.")
    assert caught.value.kind == "shape"


def test_answers_are_decoded_without_special_tokens(processor: Processor) -> None:
    assert (
        processor.decode([*processor.tokenizer.encode("<p>é</p>"), special_token_id("<|im_end|>")])
        == "<p>é</p>"
    )


def test_several_threads_prepare_the_same_pages(processor: Processor) -> None:
    pages = [page_image(40 + 7 * number, 90) for number in range(12)]

    def prepare(number: int) -> bytes:
        page = processor.prepare(pages[number], PromptType.OCR if number % 2 else "Read.")
        return page.token_ids.tobytes() + page.image.patches.tobytes()

    alone = [prepare(number) for number in range(len(pages))]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(prepare, range(len(pages)))) == alone


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _change(path: Path, **values: object) -> None:
    _write(path, {**json.loads(path.read_text(encoding="utf-8")), **values})
