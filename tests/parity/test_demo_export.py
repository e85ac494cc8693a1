"""The demo checkpoint's torch side: training and decoding compute what transformers does with the export.

Needs torch and transformers.
"""

from __future__ import annotations

import json
import threading
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tools.demo_model.composing import TYPE_SIZES  # noqa: E402
from tools.demo_model.curriculum import Curriculum  # noqa: E402
from tools.demo_model.export import blended, export, read_weights  # noqa: E402
from tools.demo_model.losses import (  # noqa: E402
    LINE_START_WEIGHT,
    MOST_SPOILED,
    Y_STEP,
    StepInputs,
    in_boxes,
    line_weights,
    reading_states,
    spoiled,
)
from tools.demo_model.model import (  # noqa: E402
    DemoConfig,
    DemoModel,
    merge_order,
)
from tools.demo_model.prompts import PromptTokens  # noqa: E402
from tools.demo_model.steps import DeviceBatch, Trainer  # noqa: E402
from tools.demo_model.train import BatchQueue, Clock, save, start  # noqa: E402

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
CPU = torch.device("cpu")
SMALL = DemoConfig(
    hidden=64, layers=3, heads=2, key_value_heads=2, head_dim=32, intermediate=128, sections=(6, 5, 5),
    vision_depth=2, vision_hidden=64, vision_heads=2, vision_intermediate=128, deepstack=(0,),
)  # fmt: skip


def write_tokenizer(folder: Path, vocabulary: int) -> dict[str, int]:
    """The only part of a tokenizer that the export reads: the added tokens."""
    ids = {token: vocabulary - len(SPECIALS) + place for place, token in enumerate(SPECIALS)}
    added = [{"id": number, "content": token} for token, number in ids.items()]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}), encoding="utf-8")
    return ids


def prompts(ids: dict[str, int]) -> PromptTokens:
    """A prompt of a few tokens around the page, as long before the image as the real one."""
    lead = (ids["<|im_start|>"], 5, 6, 7, ids["<|vision_start|>"])
    after = (ids["<|vision_end|>"], 40, 41, 42)
    size = DemoConfig().vocabulary
    return PromptTokens(lead, (after,) * 3, ids["<|im_end|>"], marks=(0,) * size, texts=(True,) * size)


def shake(model: DemoModel) -> None:
    """Weights, biases and norms all random and lively, so that none can be left out unnoticed."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.2)
            elif name.startswith("blocks."):
                weight.mul_(3)


def random_trainer(ids: dict[str, int], config: DemoConfig = DemoConfig()) -> Trainer:  # noqa: B008
    """A trainer on the CPU with a lively model."""
    trainer = Trainer(config, 106, prompts(ids), levels=5, device=CPU, fast=False)
    shake(trainer.model)
    return trainer


def random_batch(size: tuple[int, int], pages: int, length: int) -> DeviceBatch:
    """Pages of noise with answers of random tokens."""
    rng = np.random.default_rng(3)
    patches = size[0] * size[1] // 256
    return DeviceBatch(
        level=0,
        prompt=1,
        ink=torch.from_numpy(rng.integers(0, 256, (pages, *size), dtype=np.uint8)),
        answers=torch.from_numpy(rng.integers(0, 1000, (pages, length), dtype=np.int32)),
        lengths=torch.full((pages,), length, dtype=torch.int32),
        places=torch.from_numpy(rng.uniform(0, 64, (pages, length, 2)).astype(np.float16)),
        characters=torch.from_numpy(rng.integers(0, 107, (pages, patches, 5), dtype=np.uint8)),
    )


def grey_patches(page: np.ndarray, config: DemoConfig) -> torch.Tensor:
    """[P, 3 * 2 * 256] what Qwen's image processor makes of a grey page in -1 to 1 (the processor has its
    own tests)."""
    gh, gw = page.shape[0] // config.patch, page.shape[1] // config.patch
    tiles = torch.from_numpy(page).view(gh, config.patch, gw, config.patch).transpose(1, 2)
    return merge_order(tiles, config.merge).flatten(1).repeat(1, 6)


@pytest.mark.parametrize("size", SIZES)
def test_transformers_gives_the_training_steps_logits_for_an_exported_checkpoint(
    size: tuple[int, int], tmp_path: Path
) -> None:
    from transformers import Qwen3VLForConditionalGeneration

    config = DemoConfig()
    ids = write_tokenizer(tmp_path, config.vocabulary)
    trainer = random_trainer(ids)
    export(dict(trainer.model.state_dict()), config, tmp_path, torch.float32)
    theirs = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32).eval()

    batch = random_batch(size, pages=1, length=40)
    page = np.random.default_rng(5).uniform(-1, 1, size).astype(np.float32)
    shape = trainer.shape(batch)
    grid = shape.geometry.grid
    image = torch.full((grid[0] * grid[1] // 4,), ids["<|image_pad|>"])
    lead, after = torch.tensor(trainer.prompts.lead), torch.tensor(trainer.prompts.after[1])
    sequence = torch.cat((lead, image, after, batch.answers[0, :-1].long()))[None]
    inputs = StepInputs(
        torch.from_numpy(page)[None], batch.answers.long(), batch.lengths, batch.places, batch.characters
    )
    with torch.no_grad():
        vision = trainer.model.vision(inputs.pages, shape.geometry)
        got = trainer.model.logits(reading_states(trainer.model, vision, inputs, shape)[1])[0]
        want = theirs(
            input_ids=sequence,
            pixel_values=grey_patches(page, config),
            image_grid_thw=torch.tensor([[1, *grid]]),
            mm_token_type_ids=(sequence == ids["<|image_pad|>"]).int(),
        ).logits[0, -40:]
    assert want.std() > 0.1
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_training_can_go_on_from_an_exported_checkpoint(tmp_path: Path) -> None:
    config = DemoConfig()
    trainer = random_trainer(write_tokenizer(tmp_path, config.vocabulary))
    export(dict(trainer.model.state_dict()), config, tmp_path, torch.float32)
    back = read_weights(tmp_path / "model.safetensors", config)
    want = trainer.model.state_dict()
    assert sorted(back) == sorted(want)
    for name, value in want.items():
        torch.testing.assert_close(back[name], value, msg=name)


def test_a_blend_lies_between_two_checkpoints_at_its_share() -> None:
    models = [DemoModel(DemoConfig()) for _ in range(2)]
    for seed, model in enumerate(models):
        model.initialise(torch.Generator().manual_seed(seed))
    new, earlier = (dict(model.state_dict()) for model in models)
    blend = blended(new, {name: value.to(torch.bfloat16) for name, value in earlier.items()}, share=0.25)
    assert sorted(blend) == sorted(new)
    for name, value in blend.items():
        want = torch.lerp(new[name], earlier[name].to(torch.bfloat16).float(), 0.25)
        torch.testing.assert_close(value, want, msg=name)


def test_a_spoiled_answer_differs_in_some_text_only_and_never_in_tags_boxes_or_whole_pages() -> None:
    tag, opens, closes, stop = 3, 1, 2, 0  # the tokens from 4 on are text
    texts = torch.arange(40) >= 4
    marks = torch.zeros(40, dtype=torch.long)
    marks[opens], marks[closes] = 1, -1
    row = [opens, 30, 31, closes, *range(4, 24), tag, stop] + [stop] * 6
    answers = torch.tensor([row] * 400)
    torch.manual_seed(2)
    said = spoiled(answers, torch.full((400,), 26), in_boxes(answers, marks), texts)
    changed = said != answers
    assert not changed[:, :4].any()
    assert not changed[:, 24:].any()
    assert texts[said[changed]].all()
    untouched = (~changed.any(1)).float().mean()
    assert 0.5 < untouched < 0.8, "about half of the pages, and those where chance spared all"
    assert 0.005 < changed[:, 4:24].float().mean() < MOST_SPOILED / 2


def test_neighbouring_lines_of_the_smallest_type_never_share_a_place() -> None:
    assert 0.9 * 1.08 * min(TYPE_SIZES) > Y_STEP


def test_a_lines_first_token_weighs_more_and_one_that_is_nowhere_does_not() -> None:
    places = torch.tensor([[[9.0, 20.0], [30.0, 20.5], [9.0, 33.0], [30.0, 33.0], [float("nan")] * 2]])
    assert line_weights(places).tolist() == [[1.0, 1.0, LINE_START_WEIGHT, 1.0, 1.0]]
    assert LINE_START_WEIGHT > 1


def test_training_learns_a_batch_by_heart_and_goes_on_after_a_save_as_if_never_stopped(
    tmp_path: Path,
) -> None:
    ids = write_tokenizer(tmp_path, DemoConfig().vocabulary)
    batch = random_batch((64, 96), pages=2, length=12)
    trainer = Trainer(SMALL, 106, prompts(ids), levels=5, device=CPU, fast=False)
    trainer.set_rates(rate=0.5, keep=0.9, rough=0.0)
    trainer.train_on(batch)
    first = trainer.read_log()[0]["reading"]
    for _ in range(48):
        trainer.train_on(batch)
    assert trainer.read_log()[0]["steps"] == 48
    clock, curriculum = Clock(49, 98, 3.5), Curriculum(5, 2)
    save(tmp_path, trainer, clock, curriculum)
    torch.manual_seed(1)
    trainer.train_on(batch)
    assert trainer.read_log()[0]["reading"] < first / 4

    other = Trainer(SMALL, 106, prompts(ids), levels=5, device=CPU, fast=False)
    assert start(Namespace(out=tmp_path), other) == (clock, curriculum)
    other.set_rates(rate=0.5, keep=0.9, rough=0.0)
    torch.manual_seed(1)
    other.train_on(batch)
    for name, value in other.optimiser.state().items():
        torch.testing.assert_close(value, trainer.optimiser.state()[name], msg=name)


def test_a_new_run_starts_from_the_averaged_weights_of_an_earlier_one(tmp_path: Path) -> None:
    ids = write_tokenizer(tmp_path, DemoConfig().vocabulary)
    earlier = random_trainer(ids, SMALL)
    earlier.optimiser.average.copy_(earlier.optimiser.weights)
    save(tmp_path, earlier, Clock(), Curriculum(5))
    trainer = Trainer(SMALL, 106, prompts(ids), levels=5, device=CPU, fast=False)
    options = Namespace(out=tmp_path / "new", start_from=tmp_path / "average.safetensors", start_seconds=60.0)
    clock, curriculum = start(options, trainer)
    assert (clock.seconds, curriculum.unlocked) == (60.0, 5)
    for name, value in trainer.model.state_dict().items():
        want = earlier.model.state_dict()[name].to(torch.bfloat16).float()
        torch.testing.assert_close(value, want, msg=name)


def test_batches_come_as_they_are_drawn_and_an_earlier_one_again_while_none_is_ready() -> None:
    batches = [random_batch((32, 32), pages=2, length=length) for length in (3, 4)]
    more = threading.Event()

    def drawn() -> Iterator[DeviceBatch]:
        yield from batches
        more.wait()

    waiting = BatchQueue(drawn(), (1.0,), CPU)
    lengths = [waiting.get().answers.shape[1] for _ in range(5)]
    assert lengths[:2] == [3, 4]
    assert set(lengths[2:]) <= {3, 4}
    assert waiting.again == 3
    more.set()
    waiting.stop()
    assert not waiting.thread.is_alive()


def test_a_worker_that_fails_ends_the_training_with_its_error() -> None:
    def drawn() -> Iterator[DeviceBatch]:
        raise ValueError("no such font")
        yield

    with pytest.raises(RuntimeError, match="the page workers stopped") as caught:
        BatchQueue(drawn(), (1.0,), CPU).get()
    assert "no such font" in str(caught.value.__cause__)
