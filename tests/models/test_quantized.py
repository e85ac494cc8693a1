"""Quantised checkpoints as mlx-vlm writes them, against the same weights dequantised and stored plainly.

Both models compute in float32 on the same numbers; only the order of sums differs, so logits of up to about
10 agree within 1e-3.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_chandra.errors import CheckpointError
from mlx_chandra.models import load_model
from mlx_chandra.models.backend import BackendName, backend_of
from mlx_chandra.models.config import Quantization
from tests.checkpoints import CheckpointShape, write_mlx_checkpoint
from tests.models.parts import edit_json, page_logits

TOLERANCE = 1e-3
# Every matrix of both towers has an input size that 128 divides, except the vision MLP's second one (96).
SHAPE = CheckpointShape(
    hidden=128,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=32,
    intermediate=256,
    mrope_section=(8, 4, 4),
    vision_depth=2,
    vision_hidden=128,
    vision_heads=4,
    vision_intermediate=96,
    deepstack=(1,),
)
UNTIED = replace(SHAPE, tied=False)
GPU = backend_of(BackendName.METAL)
EMBEDDING = "language_model.model.embed_tokens"
HEAD = "language_model.lm_head"
DOWN = "language_model.model.layers.1.mlp.down_proj"


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint is quantised: mlx-vlm leaves the vision tower alone unless told otherwise."""

    bits: int = 4
    group_size: int = 64
    vision: bool = False
    overrides: Mapping[str, dict[str, int] | bool] = field(default_factory=dict)
    dtype: mx.Dtype = mx.float32

    def settings(self, module: str, columns: int) -> Quantization | None:
        """Bits and group size of a module (the checkpoint's name for it); None: it stays plain."""
        own = self.overrides.get(module, True)
        if own is False or (module.startswith("vision_tower.") and not self.vision):
            return None
        changed = own if isinstance(own, dict) else {}
        group_size = changed.get("group_size", self.group_size)
        bits = changed.get("bits", self.bits)
        return None if columns % group_size else Quantization(group_size, bits, {})

    def config(self) -> dict[str, Any]:
        return {"group_size": self.group_size, "bits": self.bits, "mode": "affine", **self.overrides}


@dataclass(frozen=True)
class Pair:
    """A quantised checkpoint and the plain one that holds the very numbers it stands for."""

    quantized: Path
    plain: Path
    modules: frozenset[str]  # that were quantised


def write_pair(folder: Path, shape: CheckpointShape, recipe: Recipe) -> Pair:
    quantized, plain = (write_mlx_checkpoint(folder / name, shape) for name in ("quantized", "plain"))
    weights = mx.load(str(plain / "model.safetensors"))
    assert isinstance(weights, dict)
    packed: dict[str, mx.array] = {}
    unpacked: dict[str, mx.array] = {}
    modules = set()
    for name, array in weights.items():
        stored = array.astype(recipe.dtype)
        module = name.removesuffix(".weight")
        settings = recipe.settings(module, array.shape[-1]) if array.ndim == 2 else None
        if settings is None or module == name:
            packed[name] = unpacked[name] = stored
            continue
        modules.add(module)
        parts = mx.quantize(stored, settings.group_size, settings.bits)
        packed.update(zip((name, f"{module}.scales", f"{module}.biases"), parts, strict=True))
        w, scales, biases = parts[0], parts[1].astype(mx.float32), parts[2].astype(mx.float32)
        unpacked[name] = mx.dequantize(w, scales, biases, settings.group_size, settings.bits)
    mx.save_safetensors(str(quantized / "model.safetensors"), packed, {"format": "mlx"})
    mx.save_safetensors(str(plain / "model.safetensors"), unpacked, {"format": "mlx"})
    edit_json(
        quantized / "config.json",
        lambda config: config.update(quantization=recipe.config(), quantization_config=recipe.config()),
    )
    return Pair(quantized, plain, frozenset(modules))


def assert_same_logits(pair: Pair) -> None:
    ours, expected = page_logits(load_model(pair.quantized)), page_logits(load_model(pair.plain))
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE)


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert str(folder) in message
    return message


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("shape", [SHAPE, UNTIED], ids=["tied", "untied"])
def test_every_bit_count_and_group_size_gives_the_logits_of_its_dequantised_weights(
    tmp_path: Path, bits: int, group_size: int, shape: CheckpointShape
) -> None:
    pair = write_pair(tmp_path, shape, Recipe(bits, group_size))
    assert EMBEDDING in pair.modules
    assert (HEAD in pair.modules) is not shape.tied
    assert len(pair.modules) == 7 * shape.layers + (1 if shape.tied else 2)
    assert_same_logits(pair)


def test_a_quantised_vision_tower_works_and_modules_of_odd_sizes_stay_plain(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, SHAPE, Recipe(8, 64, vision=True))
    assert {"vision_tower.pos_embed", "vision_tower.merger.linear_fc1"} <= pair.modules
    assert "vision_tower.blocks.0.mlp.linear_fc1" in pair.modules
    assert "vision_tower.blocks.0.mlp.linear_fc2" not in pair.modules  # 96 inputs
    assert_same_logits(pair)


@pytest.mark.parametrize(
    "overrides",
    [
        {DOWN: {"bits": 8}},
        {DOWN: {"bits": 6, "group_size": 32}},
        {DOWN: False},
        {HEAD: False, EMBEDDING: {"group_size": 128, "bits": 8}},
        {HEAD: {"group_size": 32, "bits": 8}, EMBEDDING: False, DOWN: True},
    ],
    ids=str,
)
def test_single_modules_may_have_other_settings_or_stay_plain(
    tmp_path: Path, overrides: dict[str, dict[str, int] | bool]
) -> None:
    pair = write_pair(tmp_path, UNTIED, Recipe(4, 64, overrides=overrides))
    assert {module for module, own in overrides.items() if own is False}.isdisjoint(pair.modules)
    assert_same_logits(pair)


def test_quantisation_is_really_kept_and_not_unpacked_while_loading(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, UNTIED, Recipe(4, 64))
    model = load_model(pair.quantized)
    assert isinstance(model.lm_head, nn.QuantizedLinear)
    assert isinstance(model.language_model.embed_tokens, nn.QuantizedEmbedding)
    assert model.lm_head.weight.dtype == mx.uint32
    stored = mx.load(str(pair.quantized / "model.safetensors"))
    assert isinstance(stored, dict)
    assert model.nbytes == sum(array.nbytes for array in stored.values())


def test_scales_in_bfloat16_are_brought_to_float32_on_the_cpu(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, SHAPE, Recipe(4, 64, dtype=mx.bfloat16))
    model = load_model(pair.quantized)
    assert model.dtype == mx.float32
    assert model.language_model.embed_tokens.scales.dtype == mx.float32
    assert model.language_model.embed_tokens.weight.dtype == mx.uint32
    assert_same_logits(pair)


def test_on_a_gpu_scales_and_activations_are_in_the_checkpoints_dtype(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, SHAPE, Recipe(8, 64, dtype=mx.bfloat16))
    edit_json(pair.quantized / "config.json", lambda config: config.update(torch_dtype="bfloat16"))
    model = load_model(pair.quantized, backend=GPU)
    assert model.dtype == mx.bfloat16
    assert model.language_model.embed_tokens.scales.dtype == mx.bfloat16
    assert np.isfinite(page_logits(model)).all()


def test_a_config_that_says_quantised_beside_plain_tensors_opens_as_the_plain_model(tmp_path: Path) -> None:
    """No module of the files has scales: mlx-vlm writes none for modules that it left alone."""
    pair = write_pair(tmp_path, SHAPE, Recipe())
    before = page_logits(load_model(pair.plain))
    edit_json(pair.plain / "config.json", lambda config: config.update(quantization=Recipe().config()))
    np.testing.assert_array_equal(page_logits(load_model(pair.plain)), before)


def test_quantised_tensors_beside_a_config_that_does_not_say_so_are_an_error(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, SHAPE, Recipe())
    edit_json(
        pair.quantized / "config.json",
        lambda config: [config.pop(key) for key in ("quantization", "quantization_config")],
    )
    message = refusal(pair.quantized)
    assert "language_model.embed_tokens is quantised, but config.json doesn't say so" in message


def test_a_quantised_module_that_the_config_says_is_plain_is_named(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, SHAPE, Recipe())
    edit_json(pair.quantized / "config.json", lambda config: config["quantization"].update({DOWN: False}))
    message = refusal(pair.quantized)
    assert "layers.1.mlp.down_proj is quantised, but config.json doesn't say so" in message


@pytest.mark.parametrize("wrong", [{"bits": 8}, {"group_size": 128}, {"group_size": 32}], ids=str)
def test_settings_that_do_not_fit_the_tensors_are_an_error_that_names_them(
    tmp_path: Path, wrong: dict[str, int]
) -> None:
    pair = write_pair(tmp_path, SHAPE, Recipe(4, 64))
    edit_json(pair.quantized / "config.json", lambda config: config["quantization"].update(wrong))
    message = refusal(pair.quantized)
    assert "of a wrong shape" in message
    assert "language_model.embed_tokens." in message


def test_a_group_size_that_does_not_divide_a_module_is_an_error_that_names_it(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, SHAPE, Recipe(8, 32, vision=True))
    assert "vision_tower.blocks.0.mlp.linear_fc2" in pair.modules  # 96 inputs, groups of 32
    edit_json(pair.quantized / "config.json", lambda config: config["quantization"].update(group_size=64))
    message = refusal(pair.quantized)
    assert "visual.blocks.0.mlp.linear_fc2 has 96 inputs" in message
    assert "groups of 64" in message


def test_missing_scales_or_biases_are_named(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, SHAPE, Recipe())
    file = str(pair.quantized / "model.safetensors")
    whole = mx.load(file)
    assert isinstance(whole, dict)
    mx.eval(whole)
    mx.save_safetensors(file, {name: array for name, array in whole.items() if name != f"{DOWN}.biases"})
    assert "missing: language_model.layers.1.mlp.down_proj.biases" in refusal(pair.quantized)
    mx.save_safetensors(file, {name: array for name, array in whole.items() if name != f"{DOWN}.scales"})
    assert "language_model.layers.1.mlp.down_proj" in refusal(pair.quantized)
