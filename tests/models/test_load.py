"""Checkpoints in both layouts to one model; and what is said of those that are not whole."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors.numpy import load_file, save_file

from mlx_chandra.errors import CheckpointError
from mlx_chandra.models import load_model
from mlx_chandra.models.backend import BackendName, backend_of, current_backend
from mlx_chandra.models.load import DTYPES, loaded_bytes
from tests.checkpoints import (
    QUANTIZABLE,
    Array,
    CheckpointShape,
    ConfigForm,
    Packing,
    random_weights,
    write_huggingface_checkpoint,
    write_mlx_checkpoint,
)
from tests.models.parts import edit_json, page_logits, small_page

TIED = CheckpointShape()
UNTIED = replace(TIED, tied=False, deepstack=(1,))
GPU = backend_of(BackendName.METAL)
LAYERS_AS_STORED = replace(current_backend(), fused_layers=False)
NORM = "model.language_model.norm.weight"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A good checkpoint in Hugging Face's layout, for a test to spoil."""
    return write_huggingface_checkpoint(tmp_path / "checkpoint", TIED)


def edit_weights(folder: Path, change: Callable[[dict[str, Array]], object]) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert str(folder) in message
    return message


@pytest.mark.parametrize("shape", [TIED, UNTIED], ids=["tied", "untied"])
def test_every_layout_gives_the_same_logits_bit_for_bit(tmp_path: Path, shape: CheckpointShape) -> None:
    logits = [
        page_logits(load_model(folder))
        for folder in (
            write_huggingface_checkpoint(tmp_path / "hf", shape),
            write_huggingface_checkpoint(tmp_path / "hf5", shape, form=ConfigForm.ROPE_PARAMETERS),
            write_huggingface_checkpoint(tmp_path / "hf-shards", shape, shards=3),
            write_mlx_checkpoint(tmp_path / "mlx", shape),
            write_mlx_checkpoint(tmp_path / "mlx-shards", shape, shards=2),
        )
    ]
    for other in logits[1:]:
        np.testing.assert_array_equal(other, logits[0])


def test_every_tensor_of_a_model_matters_so_that_equal_logits_mean_equal_weights(tmp_path: Path) -> None:
    model = load_model(write_huggingface_checkpoint(tmp_path, UNTIED), backend=LAYERS_AS_STORED)
    before = page_logits(model)
    tensors = dict(tree_flatten(model.parameters()))
    assert len(tensors) == len(random_weights(UNTIED))
    for name, array in tensors.items():
        model.load_weights([(name, array[::-1])], strict=False)
        assert not np.allclose(page_logits(model), before, rtol=0, atol=1e-4), name
        model.load_weights([(name, array)], strict=False)
    np.testing.assert_array_equal(page_logits(model), before)


def test_the_patch_embedding_is_recognised_by_its_shape_in_either_order(tmp_path: Path) -> None:
    hf = load_model(write_huggingface_checkpoint(tmp_path / "hf", TIED))
    mlx = load_model(write_mlx_checkpoint(tmp_path / "mlx", TIED))
    flat = random_weights(TIED)["model.visual.patch_embed.proj.weight"].reshape(TIED.vision_hidden, -1)
    for model in (hf, mlx):
        np.testing.assert_array_equal(np.array(model.visual.patch_embed.proj.weight), flat)


def test_files_beside_those_that_the_index_names_are_not_read(tmp_path: Path) -> None:
    folder = write_huggingface_checkpoint(tmp_path, TIED, shards=2)
    before = page_logits(load_model(folder))
    save_file({NORM: np.zeros(TIED.hidden, np.float32)}, folder / "z-leftover.safetensors")
    np.testing.assert_array_equal(page_logits(load_model(folder)), before)


def test_a_tied_checkpoint_that_stores_the_head_too_is_the_same_model(checkpoint: Path) -> None:
    before = page_logits(load_model(checkpoint))
    edit_weights(
        checkpoint,
        lambda weights: weights.update(
            {"lm_head.weight": weights["model.language_model.embed_tokens.weight"]}
        ),
    )
    np.testing.assert_array_equal(page_logits(load_model(checkpoint)), before)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_huggingface_checkpoint(tmp_path, TIED, shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    message = refusal(folder)
    assert "lacks model-00002-of-00003.safetensors, which its index names" in message
    assert "Download" in message


def test_an_index_that_is_damaged_is_named(tmp_path: Path) -> None:
    folder = write_huggingface_checkpoint(tmp_path, TIED, shards=2)
    index = folder / "model.safetensors.index.json"
    for content in ("{", "[]", '{"weight_map": 3}'):
        index.write_text(content)
        assert f"{index} can't be read" in refusal(folder)


def test_a_folder_without_weights_says_so(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    assert "holds no *.safetensors file" in refusal(checkpoint)


def test_a_missing_tensor_is_named(checkpoint: Path) -> None:
    edit_weights(checkpoint, lambda weights: weights.pop("model.visual.merger.norm.bias"))
    assert "missing: visual.merger.norm.bias." in refusal(checkpoint)


def test_an_untied_checkpoint_without_a_head_says_so(tmp_path: Path) -> None:
    folder = write_huggingface_checkpoint(tmp_path, UNTIED)
    edit_weights(folder, lambda weights: weights.pop("lm_head.weight"))
    assert "missing: lm_head.weight." in refusal(folder)


def test_an_unexpected_tensor_is_named(checkpoint: Path) -> None:
    extra = {"model.language_model.layers.3.mlp.up_proj.weight": np.zeros((2, 2), np.float32)}
    edit_weights(checkpoint, lambda weights: weights.update(extra))
    assert "unexpected: language_model.layers.3.mlp.up_proj.weight." in refusal(checkpoint)


def test_a_tensor_of_a_wrong_shape_is_named_with_both_shapes(checkpoint: Path) -> None:
    edit_weights(checkpoint, lambda weights: weights.update({NORM: np.zeros(31, np.float32)}))
    assert "of a wrong shape: language_model.norm.weight (31,) instead of (32,)" in refusal(checkpoint)


def test_a_patch_embedding_of_a_wrong_shape_is_named(checkpoint: Path) -> None:
    name = "model.visual.patch_embed.proj.weight"
    edit_weights(checkpoint, lambda weights: weights.update({name: np.zeros((32, 3, 2, 14, 14), np.float32)}))
    assert "visual.patch_embed.proj.weight (32, 3, 2, 14, 14) instead of" in refusal(checkpoint)


def test_all_problems_are_told_at_once_and_many_names_are_cut_short(checkpoint: Path) -> None:
    edit_json(checkpoint / "config.json", lambda config: config["text_config"].update(num_hidden_layers=5))
    edit_weights(checkpoint, lambda weights: weights.update({"surplus": np.zeros(1, np.float32)}))
    message = refusal(checkpoint)
    assert "missing: language_model.layers.3.input_layernorm.weight, " in message
    assert "and 14 more; unexpected: surplus." in message


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_a_file_that_was_cut_short_is_named(tmp_path: Path, kept: float) -> None:
    folder = write_huggingface_checkpoint(tmp_path, TIED, shards=2)
    file = folder / "model-00002-of-00002.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    message = refusal(folder)
    assert str(file) in message
    assert "Download" in message


def test_a_file_with_a_damaged_header_is_named(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[40:60] = b"\xff" * 20
    file.write_bytes(content)
    assert str(file) in refusal(checkpoint)


def in_bfloat16(folder: Path) -> None:
    """Store a checkpoint's weights in bfloat16, as real ones are."""
    weights = mx.load(str(folder / "model.safetensors"))
    assert isinstance(weights, dict)
    halved = {name: array.astype(mx.bfloat16) for name, array in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), halved)
    edit_json(folder / "config.json", lambda config: config.update(torch_dtype="bfloat16"))


def test_a_bfloat16_checkpoint_runs_in_float32_on_the_cpu_and_in_its_own_dtype_on_a_gpu(
    checkpoint: Path,
) -> None:
    in_bfloat16(checkpoint)
    assert load_model(checkpoint).dtype == mx.float32
    assert load_model(checkpoint, backend=GPU).dtype == mx.bfloat16


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
def test_a_dtype_that_is_asked_for_is_what_everything_runs_in(checkpoint: Path, dtype: mx.Dtype) -> None:
    model = load_model(checkpoint, dtype)
    assert model.dtype == dtype
    assert model.visual.patch_embed.proj.weight.dtype == dtype
    assert {logits.dtype for logits in model.logits([small_page()])} == {dtype}


def test_the_dtype_of_config_json_counts_and_not_that_of_the_files(checkpoint: Path) -> None:
    edit_json(checkpoint / "config.json", lambda config: config.update(torch_dtype="float16"))
    assert load_model(checkpoint, backend=GPU).dtype == mx.float16


def test_a_dtype_that_is_not_supported_is_named_where_it_matters(checkpoint: Path) -> None:
    edit_json(checkpoint / "config.json", lambda config: config.update(torch_dtype="float8_e4m3fn"))
    assert load_model(checkpoint).dtype == mx.float32
    with pytest.raises(CheckpointError, match="dtype 'float8_e4m3fn' is not supported"):
        load_model(checkpoint, backend=GPU)


def test_nbytes_is_what_the_weights_take(checkpoint: Path) -> None:
    stored = sum(array.nbytes for array in random_weights(TIED).values())
    assert load_model(checkpoint, backend=LAYERS_AS_STORED).nbytes == stored
    assert load_model(checkpoint, mx.float16).nbytes == stored // 2


@pytest.mark.parametrize("packing", [None, Packing(64, 4)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_the_weights_will_take_is_known_before_they_are_loaded(
    tmp_path: Path, packing: Packing | None, dtype: str
) -> None:
    folder = write_mlx_checkpoint(tmp_path / "it", QUANTIZABLE, packing=packing)
    model = load_model(folder, dtype, LAYERS_AS_STORED)
    assert loaded_bytes(folder, model.config, DTYPES[dtype]) == model.nbytes
