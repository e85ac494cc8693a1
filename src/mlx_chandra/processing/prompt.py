"""Gives the prompts that each Chandra model was trained with, word for word.

Another wording reads worse. Chandra 2's texts come from its authors' package, chandra-ocr, when they are
needed. Chandra 1's differ from those in a few places, which are listed here. Tests check the sha256 of each.
"""

import hashlib
from enum import StrEnum

from mlx_chandra.errors import MlxChandraError


class PromptType(StrEnum):
    """The questions that Chandra answers."""

    OCR_LAYOUT = "ocr_layout"  # HTML in layout blocks with boxes and labels
    OCR = "ocr"  # plain HTML


class ModelFamily(StrEnum):
    """The models by their config.json's model_type."""

    CHANDRA_1 = "qwen3_vl"
    CHANDRA_2 = "qwen3_5"


BOX_SCALES = {ModelFamily.CHANDRA_1: 1024, ModelFamily.CHANDRA_2: 1000}
"""What the boxes in a model's answers are normalised to, as its prompt asks for."""

RELEASE = "chandra-ocr==0.2.0"
"""The release that pyproject.toml asks for. Its prompts have the hashes below."""

_SHA256 = {
    PromptType.OCR_LAYOUT: "025935f3e1de1acdfadd4c7d581ab17eb82e8caaffef7b64962621c80b7ca9a8",
    PromptType.OCR: "5bddc652e7f39d5c5501e5455ea2487ebb5cdbf71832b5dfb749ec2413b5a69b",
}

_CHANDRA_1_DROPS_LINES = ("* Chemistry:", "* Lists:")
_CHANDRA_1_DROPS_LABELS = ("- Chemical-Block", "- Diagram", "- Bibliography", "- Blank-Page")
_CHANDRA_1_REPLACES = (
    ("in x0 y0 x1 y1 format", "in [x0, y0, x1, y1] format"),
    ("normalized 0-1000", "normalized 0-1024"),
    (", 'chem'", ""),
    (", 'data-bbox', 'data-label'", ""),
    (
        " Describe in detail inside the div tag. Also convert charts to high fidelity data, "
        "and convert diagrams to mermaid.",
        "",
    ),
)


def prompt_text(prompt_type: PromptType, family: ModelFamily) -> str:
    """Return the full text of a prompt for a model.

    Raises MlxChandraError where chandra-ocr is not installed, lacks this prompt, or (for Chandra 1) has a
    text that Chandra 1's can't be made from.
    """
    text = _package_prompt(prompt_type)
    if family is ModelFamily.CHANDRA_2:
        return text
    if hashlib.sha256(text.encode()).hexdigest() != _SHA256[prompt_type]:
        raise _wrong_release(
            f"The installed chandra-ocr has another {prompt_type.value} prompt than the one that Chandra 1's "
            "is made from."
        )
    return _chandra_1(text)


def _package_prompt(prompt_type: PromptType) -> str:
    try:
        from chandra.prompts import PROMPT_MAPPING  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise _wrong_release(
            f"The model's prompts come from the package chandra-ocr, which can't be imported ({error})."
        ) from error
    text = PROMPT_MAPPING.get(prompt_type.value)
    if not isinstance(text, str):
        raise _wrong_release(f"The installed chandra-ocr has no prompt {prompt_type.value!r}.")
    return text


def _wrong_release(message: str) -> MlxChandraError:
    return MlxChandraError(message, f'Install the release that has it: pip install "{RELEASE}".')


def _chandra_1(text: str) -> str:
    lines = (line for line in text.split("\n") if line not in _CHANDRA_1_DROPS_LABELS)
    text = "\n".join(line for line in lines if not line.startswith(_CHANDRA_1_DROPS_LINES))
    for old, new in _CHANDRA_1_REPLACES:
        text = text.replace(old, new)
    return text
