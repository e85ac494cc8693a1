"""The prompts are the ones that the models were taught, letter by letter."""

import hashlib
import sys
from pathlib import Path

import chandra.prompts
import pytest

from mlx_chandra.errors import MlxChandraError
from mlx_chandra.processing.prompt import BOX_SCALES, RELEASE, ModelFamily, PromptType, prompt_text

CHANDRA_1 = {
    PromptType.OCR_LAYOUT: "3cdbeed4e2b12e40455738f8106b1fc7b4bb91d326f88d32178d5c5bbb178567",
    PromptType.OCR: "f12a69225d90832fe4af0cc24c09c42fedd55620f9618b7ba4932b17d5d2fbf1",
}
CHANDRA_2 = {
    PromptType.OCR_LAYOUT: "025935f3e1de1acdfadd4c7d581ab17eb82e8caaffef7b64962621c80b7ca9a8",
    PromptType.OCR: "5bddc652e7f39d5c5501e5455ea2487ebb5cdbf71832b5dfb749ec2413b5a69b",
}
SHA256 = {ModelFamily.CHANDRA_1: CHANDRA_1, ModelFamily.CHANDRA_2: CHANDRA_2}


@pytest.mark.parametrize("family", ModelFamily)
@pytest.mark.parametrize("prompt_type", PromptType)
def test_every_prompt_is_the_one_that_the_model_was_taught(
    family: ModelFamily, prompt_type: PromptType
) -> None:
    text = prompt_text(prompt_type, family)
    assert hashlib.sha256(text.encode()).hexdigest() == SHA256[family][prompt_type]


@pytest.mark.parametrize("family", ModelFamily)
def test_boxes_are_normalised_to_what_the_prompt_asks_for(family: ModelFamily) -> None:
    assert f"normalized 0-{BOX_SCALES[family]}." in prompt_text(PromptType.OCR_LAYOUT, family)


def test_a_fresh_install_gets_the_release_with_these_prompts() -> None:
    pyproject = Path(__file__).parent.parent.parent / "pyproject.toml"
    assert f'"{RELEASE}"' in pyproject.read_text(encoding="utf-8")


def test_every_prompt_of_the_authors_package_has_a_name_here() -> None:
    assert set(chandra.prompts.PROMPT_MAPPING) == set(PromptType)


@pytest.mark.parametrize("prompt_type", PromptType)
def test_chandra_1s_prompt_is_not_made_from_an_unknown_text(
    monkeypatch: pytest.MonkeyPatch, prompt_type: PromptType
) -> None:
    changed = {name: text + " Be quick." for name, text in chandra.prompts.PROMPT_MAPPING.items()}
    monkeypatch.setattr(chandra.prompts, "PROMPT_MAPPING", changed)
    with pytest.raises(MlxChandraError, match=f"another {prompt_type} prompt") as caught:
        prompt_text(prompt_type, ModelFamily.CHANDRA_1)
    assert "chandra-ocr==" in caught.value.remedy
    assert prompt_text(prompt_type, ModelFamily.CHANDRA_2).endswith("Be quick.")


def test_a_package_without_the_prompt_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chandra.prompts, "PROMPT_MAPPING", {})
    with pytest.raises(MlxChandraError, match="no prompt 'ocr'"):
        prompt_text(PromptType.OCR, ModelFamily.CHANDRA_2)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "chandra.prompts", None)
    with pytest.raises(MlxChandraError, match="chandra-ocr") as caught:
        prompt_text(PromptType.OCR, ModelFamily.CHANDRA_1)
    assert "pip install" in caught.value.remedy
