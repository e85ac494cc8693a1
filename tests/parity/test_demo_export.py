"""The exported demo checkpoint against transformers: same logits as the training model. Needs torch and transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tools.demo_model.export import export  # noqa: E402
from tools.demo_model.model import (  # noqa: E402
    DemoConfig,
    DemoModel,
    merge_order,
    text_positions,
    text_rotary,
    vision_geometry,
)

SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
SIZES = ((64, 192), (160, 256), (256, 64), (1024, 768))


def write_tokenizer(folder: Path, vocabulary: int) -> dict[str, int]:
    """The only part of a tokenizer that the export reads: the added tokens."""
    ids = {token: vocabulary - len(SPECIALS) + place for place, token in enumerate(SPECIALS)}
    added = [{"id": number, "content": token} for token, number in ids.items()]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}), encoding="utf-8")
    return ids


def random_model(config: DemoConfig) -> DemoModel:
    """Weights, biases and norms all random, so that none can be left out unnoticed."""
    torch.manual_seed(7)
    model = DemoModel(config)
    model.initialise(torch.Generator().manual_seed(7))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn_like(weight) * 0.2)
    return model.eval()


def grey_patches(page: np.ndarray, config: DemoConfig) -> torch.Tensor:
    """[P, 3 * 2 * 256] what Qwen's image processor makes of a grey page in -1 to 1 (checked in the processor's own tests)."""
    gh, gw = page.shape[0] // config.patch, page.shape[1] // config.patch
    tiles = torch.from_numpy(page).view(gh, config.patch, gw, config.patch).transpose(1, 2)
    return merge_order(tiles, config.merge).flatten(1).repeat(1, 6)


@pytest.mark.parametrize("size", SIZES)
def test_transformers_gives_the_training_models_logits_for_an_exported_checkpoint(
    size: tuple[int, int], tmp_path: Path
) -> None:
    from transformers import Qwen3VLForConditionalGeneration

    config = DemoConfig()
    ids = write_tokenizer(tmp_path, config.vocabulary)
    model = random_model(config)
    export(model.state_dict(), config, tmp_path, torch.float32)
    theirs = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32).eval()

    rng = np.random.default_rng(3)
    page = rng.uniform(-1, 1, size).astype(np.float32)
    lead = torch.tensor([ids["<|im_start|>"], 5, 6, ids["<|vision_start|>"]])
    rest = torch.cat((torch.tensor([ids["<|vision_end|>"]]), torch.from_numpy(rng.integers(0, 1000, 40))))
    geometry = vision_geometry(config, *size, torch.device("cpu"))
    pictures = geometry.grid[0] * geometry.grid[1] // 4
    sequence = torch.cat((lead, torch.full((pictures,), ids["<|image_pad|>"]), rest))[None]
    with torch.no_grad():
        want = theirs(
            input_ids=sequence,
            pixel_values=grey_patches(page, config),
            image_grid_thw=torch.tensor([[1, *geometry.grid]]),
            mm_token_type_ids=(sequence == ids["<|image_pad|>"]).int(),
        ).logits[0]
        vision = model.vision(torch.from_numpy(page)[None], geometry)
        stream = torch.cat((model.embed(lead)[None], vision.tokens, model.embed(rest)[None]), dim=1)
        positions = text_positions(len(lead), geometry.grid, len(rest), config.merge)
        states = model.text(stream, text_rotary(config, positions, torch.device("cpu")), vision, len(lead))
        got = model.logits(states[-1])[0]
    assert want.std() > 0.1
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
