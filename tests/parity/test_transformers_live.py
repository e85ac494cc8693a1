"""Our tokenizer, models and greedy tokens against transformers, live, on the cases of cases.py.

Where tests/models/test_qwen3_vl_references.py looks at stored slices, every value is compared here, and the
checkpoints come sharded and in the other form of config.json.
"""

from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_chandra.models import load_model
from mlx_chandra.models.qwen3_vl import Qwen3VL
from mlx_chandra.processing.processor import PageInputs, Processor
from mlx_chandra.processing.prompt import ModelFamily, PromptType, prompt_text
from mlx_chandra.processing.tokenizer import Tokenizer
from tests.checkpoints import CheckpointShape, ConfigForm, write_huggingface_checkpoint
from tests.parity.cases import (
    GREEDY_STEPS,
    IMAGE_SIZES,
    MODEL_CASES,
    PROMPT,
    SMALLEST_LEAD,
    TOLERANCE,
    ModelCase,
    image_name,
    page_image,
)
from tests.parity.ours import greedy_tokens

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.parity.reference import Reference, ReferencePage  # noqa: E402

pytestmark = pytest.mark.parity

TEXTS = (
    "",
    PROMPT,
    "naïve  “dashes” – 1234\r\n\n\tx",
    "漢字 🙂 \u200d",
    "<|im_start|>the thing<|im_end|>",
    *(prompt_text(prompt_type, family) for prompt_type in PromptType for family in ModelFamily),
)


@dataclass(frozen=True)
class Opened:
    """One checkpoint, opened by both, and what transformers makes of every page."""

    model: Qwen3VL
    pages: list[PageInputs]
    references: list[ReferencePage]


@pytest.fixture(scope="module", params=MODEL_CASES, ids=lambda case: case.name)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    case: ModelCase = request.param
    (form,) = set(ConfigForm) - {case.form}
    folder = write_huggingface_checkpoint(
        tmp_path_factory.mktemp(case.name), case.shape, seed=case.seed, form=form, shards=3
    )
    reference, processor = Reference(folder), Processor.from_folder(folder)
    pictures = [page_image(*size) for size in IMAGE_SIZES]
    return Opened(
        load_model(folder, mx.float32),
        [processor.prepare(picture, PROMPT) for picture in pictures],
        [reference.read(picture, PROMPT, GREEDY_STEPS) for picture in pictures],
    )


def test_prompts_and_grids_are_the_same(opened: Opened) -> None:
    for page, reference in zip(opened.pages, opened.references, strict=True):
        np.testing.assert_array_equal(page.token_ids, reference.token_ids)
        assert (page.image.grid.t, page.image.grid.h, page.image.grid.w) == tuple(reference.grid)


def test_vision_output_and_deepstack_features_agree(opened: Opened) -> None:
    features = opened.model.embed_images([page.image for page in opened.pages])
    _assert_close(features.hidden, np.concatenate([reference.vision for reference in opened.references]))
    deepstack = np.concatenate([reference.deepstack for reference in opened.references], axis=1)
    _assert_close(mx.stack(list(features.deepstack)), deepstack)


def test_logits_agree_everywhere(opened: Opened) -> None:
    for logits, reference in zip(opened.model.logits(opened.pages), opened.references, strict=True):
        _assert_close(logits, reference.logits)


def test_greedy_tokens_are_the_same_for_64_steps(opened: Opened) -> None:
    answers = greedy_tokens(opened.model, opened.pages, GREEDY_STEPS)
    for size, tokens, reference in zip(IMAGE_SIZES, answers, opened.references, strict=True):
        assert reference.lead > SMALLEST_LEAD, (
            "two tokens are too near to tell: take another seed in cases.py"
        )
        assert tokens == reference.greedy.tolist(), image_name(size)


def test_the_tokenizer_and_chat_template_are_those_of_auto_tokenizer(tmp_path: Path) -> None:
    write_huggingface_checkpoint(tmp_path, CheckpointShape())
    ours, theirs = Tokenizer.from_folder(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
        rendered = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert ours.apply_chat_template(messages) == rendered
        ids = theirs(rendered)["input_ids"]
        assert ours.encode(rendered) == ids
        assert ours.encode(text) == theirs(text)["input_ids"]
        for skip in (True, False):
            assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)


def _assert_close(ours: mx.array, reference: np.ndarray) -> None:
    np.testing.assert_allclose(np.array(ours), reference, rtol=0, atol=TOLERANCE)
