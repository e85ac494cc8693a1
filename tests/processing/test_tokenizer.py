"""Ids and text there and back, the chat template from wherever it is kept, and damaged folders."""

import json
from pathlib import Path

import pytest

from mlx_chandra.errors import CheckpointError
from mlx_chandra.processing.tokenizer import Tokenizer
from tests.processing_files import (
    CHAT_TEMPLATE,
    SPECIAL_TOKENS,
    special_token_id,
    write_processing_files,
)

MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Read <b>it</b>."}]}]
RENDERED = (
    "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Read <b>it</b>.<|im_end|>\n"
    "<|im_start|>assistant\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_processing_files(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "text", ["", "the thing in there", "naïve  “dashes” – 1234\r\n\n\tx", "漢字 🙂 \u200d"]
)
def test_every_text_comes_back_from_its_ids(folder: Path, text: str) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_in_a_text_become_their_own_ids_and_none_are_added(folder: Path) -> None:
    ids = Tokenizer.from_folder(folder).encode("".join(SPECIAL_TOKENS))
    assert ids == [special_token_id(token) for token in SPECIAL_TOKENS]


def test_special_tokens_are_left_out_of_the_text_unless_asked_for(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    ids = tokenizer.encode("<|im_start|>page<|im_end|>")
    assert tokenizer.decode(ids) == "page"
    assert tokenizer.decode(ids, skip_special=False) == "<|im_start|>page<|im_end|>"


def test_ids_beyond_the_vocabulary_give_no_text(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.decode([*tokenizer.encode("page"), 5_000]) == "page"


def test_a_token_is_found_by_its_name_or_missed_with_the_files_name(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.token_id("<|im_end|>") == special_token_id("<|im_end|>")
    assert tokenizer.find_token("<nothing>") is None
    with pytest.raises(CheckpointError, match=r"tokenizer\.json.*<nothing>"):
        tokenizer.token_id("<nothing>")


def test_a_conversation_ends_where_the_model_is_to_answer(folder: Path) -> None:
    assert Tokenizer.from_folder(folder).apply_chat_template(MESSAGES) == RENDERED


@pytest.mark.parametrize("form", ["chat_template.json", "tokenizer_config.json", "named"])
def test_the_chat_template_is_found_in_every_place_it_is_kept(folder: Path, form: str) -> None:
    (folder / "chat_template.jinja").unlink()
    if form == "chat_template.json":
        (folder / form).write_text(json.dumps({"chat_template": CHAT_TEMPLATE}), encoding="utf-8")
    else:
        named = [{"name": "tools", "template": "no"}, {"name": "default", "template": CHAT_TEMPLATE}]
        _change(folder / "tokenizer_config.json", chat_template=named if form == "named" else CHAT_TEMPLATE)
    assert Tokenizer.from_folder(folder).apply_chat_template(MESSAGES) == RENDERED


def test_the_newest_place_of_the_chat_template_wins(folder: Path) -> None:
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "older"}), encoding="utf-8")
    _change(folder / "tokenizer_config.json", chat_template="oldest")
    assert Tokenizer.from_folder(folder).apply_chat_template(MESSAGES) == RENDERED
    (folder / "chat_template.jinja").unlink()
    assert Tokenizer.from_folder(folder).apply_chat_template(MESSAGES) == "older"


def test_templates_get_the_names_of_special_tokens_and_the_usual_extras(folder: Path) -> None:
    first = "{% for m in messages %}{{ eos_token }}{{ m | tojson }}{% break %}{% endfor %}"
    template = first + "{{ add_generation_prompt }}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    _change(folder / "tokenizer_config.json", eos_token={"content": "<end>", "lstrip": False})
    rendered = Tokenizer.from_folder(folder).apply_chat_template([{"role": "<é>"}, {"role": "b"}])
    assert rendered == '<end>{"role": "<é>"}True'


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no pictures here') }}",
        "{{ messages[0].content + 1 }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_template_that_fails_or_leaves_its_sandbox_is_an_error_of_the_checkpoint(
    folder: Path, template: str
) -> None:
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    tokenizer = Tokenizer.from_folder(folder)
    with pytest.raises(CheckpointError, match="chat template"):
        tokenizer.apply_chat_template(MESSAGES)


def test_a_template_that_is_not_jinja_is_an_error_of_the_checkpoint(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for %}", encoding="utf-8")
    with pytest.raises(CheckpointError, match="chat template"):
        Tokenizer.from_folder(folder)


def test_a_folder_without_chat_template_says_where_one_could_be(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match="no chat template") as caught:
        Tokenizer.from_folder(folder)
    assert "chat_template.json" in caught.value.remedy


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_missing_file_is_named_with_what_to_do(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name) as caught:
        Tokenizer.from_folder(folder)
    assert caught.value.remedy


@pytest.mark.parametrize("content", ["", "{}", '{"model": {"type": "Unheard"}}'])
def test_a_damaged_tokenizer_is_named(folder: Path, content: str) -> None:
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Tokenizer.from_folder(folder)


def _change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")
