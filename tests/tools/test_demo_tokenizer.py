"""The demo checkpoint's tokenizer and the small files beside it, as they are in the package."""

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest
from tokenizers import Tokenizer

from tools.demo_model.text import ALPHABET
from tools.demo_model.tokenizer import (
    ENTITIES,
    LAYOUT_PARTS,
    SPECIAL_TOKENS,
    TAGS,
    VOCABULARY_SIZE,
    train_tokenizer,
    write_checkpoint_files,
)

CHECKPOINT = Path(__file__).parents[2] / "src/mlx_chandra/demo/checkpoint"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))


def read_json(name: str) -> Any:
    return json.loads((CHECKPOINT / name).read_text("utf-8"))


def test_the_vocabulary_has_exactly_1024_entries(tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() == VOCABULARY_SIZE == 1024
    assert sorted(tokenizer.get_vocab().values()) == list(range(1024))


@pytest.mark.parametrize("part", [*TAGS, *LAYOUT_PARTS, *ENTITIES, *SPECIAL_TOKENS])
def test_every_fixed_part_of_an_answer_is_one_token(tokenizer: Tokenizer, part: str) -> None:
    assert tokenizer.encode(part).tokens == [part]


def test_digits_are_tokens_one_by_one(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("1204.55").tokens == ["1", "2", "0", "4", ".", "5", "5"]


def test_every_character_of_the_pages_survives_the_way_there_and_back(tokenizer: Tokenizer) -> None:
    text = f"{ALPHABET} {ALPHABET[::-1]} a  b"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_decoding_keeps_tags_and_drops_special_tokens(tokenizer: Tokenizer) -> None:
    html = '<div data-bbox="1 2 30 1000" data-label="Table"><table><tr><td>x &lt; y</td></tr></table></div>'
    ids = tokenizer.encode(f"<|im_start|>{html}<|im_end|><|endoftext|>").ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == html


def test_common_prose_takes_fewer_than_half_as_many_tokens_as_characters(tokenizer: Tokenizer) -> None:
    prose = "It was the best of times, it was the worst of times, it was the age of wisdom."
    assert len(tokenizer.encode(prose).ids) < len(prose) / 2


def test_the_chat_template_puts_the_image_before_the_prompt() -> None:
    template = jinja2.Template((CHECKPOINT / "chat_template.jinja").read_text("utf-8"))
    content = [{"type": "image"}, {"type": "text", "text": "Read <b>this</b>."}]
    messages = [{"role": "user", "content": content}]
    assert template.render(messages=messages, add_generation_prompt=True) == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Read <b>this</b>.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_chat_template_renders_plain_turns_and_no_prompt_unless_asked() -> None:
    template = jinja2.Template((CHECKPOINT / "chat_template.jinja").read_text("utf-8"))
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "<p>Hi</p>"}]
    assert template.render(messages=messages, add_generation_prompt=False) == (
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n<p>Hi</p><|im_end|>\n"
    )


def test_generation_stops_at_the_end_of_the_turn_or_of_the_text(tokenizer: Tokenizer) -> None:
    stops = read_json("generation_config.json")["eos_token_id"]
    assert [tokenizer.id_to_token(stop) for stop in stops] == ["<|im_end|>", "<|endoftext|>"]
    assert read_json("tokenizer_config.json")["eos_token"] == "<|im_end|>"


def test_the_image_settings_allow_every_page_size_of_the_demo() -> None:
    settings = read_json("preprocessor_config.json")
    assert (settings["patch_size"], settings["merge_size"], settings["temporal_patch_size"]) == (16, 2, 2)
    assert settings["min_pixels"] <= 64 * 192
    assert settings["max_pixels"] >= 1024 * 1024
    assert settings["size"] == {
        "shortest_edge": settings["min_pixels"],
        "longest_edge": settings["max_pixels"],
    }


def test_the_committed_configs_are_what_the_script_writes(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_checkpoint_files(tokenizer, tmp_path)
    written = sorted(path.name for path in tmp_path.iterdir())
    assert len(written) == 6
    for name in written:
        assert (tmp_path / name).read_text("utf-8") == (CHECKPOINT / name).read_text("utf-8"), name


def test_training_on_too_little_text_is_refused() -> None:
    with pytest.raises(ValueError, match="the text is too small"):
        train_tokenizer(iter(["only a few words", "and a few more"]))
