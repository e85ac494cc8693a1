"""config.json in both its forms, and what is said of one that can't be used."""

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_chandra.errors import CheckpointError
from mlx_chandra.models.config import ModelConfig, Quantization, read_config
from tests.checkpoints import CheckpointShape, ConfigForm, config_json

SHAPE = CheckpointShape()
Json = dict[str, Any]


@pytest.fixture
def config() -> Json:
    """A good config.json, for a test to alter."""
    return config_json(SHAPE)


def read(folder: Path, config: Json) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return read_config(folder)


def refusal(folder: Path, config: Json) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(folder, config)
    message = str(caught.value)
    assert str(folder / "config.json") in message
    return message


def place(config: Json, path: str) -> tuple[Json, str]:
    """The object and the key that a dotted path leads to."""
    *sections, key = path.split(".")
    for section in sections:
        config = config[section]
    return config, key


def test_both_forms_of_the_rotary_settings_mean_the_same(tmp_path: Path) -> None:
    old = read(tmp_path, config_json(SHAPE, ConfigForm.ROPE_SCALING))
    new = read(tmp_path, config_json(SHAPE, ConfigForm.ROPE_PARAMETERS))
    assert old == new
    assert old.text.rope_theta == SHAPE.rope_theta
    assert old.text.mrope_section == SHAPE.mrope_section


def test_every_size_is_read_from_where_it_stands(tmp_path: Path, config: Json) -> None:
    found = read(tmp_path, config)
    text, vision = found.text, found.vision
    assert (text.hidden_size, text.intermediate_size, text.num_hidden_layers) == (32, 48, 3)
    assert (text.num_attention_heads, text.num_key_value_heads, text.head_dim) == (4, 2, 16)
    assert (text.vocab_size, text.rms_norm_eps, text.tie_word_embeddings) == (288, 1e-6, True)
    assert (vision.depth, vision.hidden_size, vision.num_heads, vision.head_dim) == (3, 32, 2, 16)
    assert (vision.out_hidden_size, vision.patch_values) == (32, 3 * 2 * 16 * 16)
    assert vision.deepstack_visual_indexes == (0, 2)
    assert found.quantization is None


@pytest.mark.parametrize(
    "path",
    [
        "model_type",
        "text_config",
        "vision_config",
        "image_token_id",
        "vision_start_token_id",
        "text_config.hidden_size",
        "text_config.num_hidden_layers",
        "text_config.vocab_size",
        "text_config.rope_theta",
        "vision_config.depth",
        "vision_config.out_hidden_size",
        "vision_config.spatial_merge_size",
    ],
)
def test_a_missing_key_is_named_with_its_place(tmp_path: Path, config: Json, path: str) -> None:
    section, key = place(config, path)
    del section[key]
    assert f"the key {path} is missing" in refusal(tmp_path, config)
    section[key] = None  # as good as missing
    assert f"the key {path} is missing" in refusal(tmp_path, config)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("text_config", [1]),
        ("vision_config", "large"),
        ("text_config.hidden_size", "large"),
        ("text_config.num_attention_heads", 0),
        ("text_config.rope_scaling", "default"),
        ("text_config.rope_theta", "far"),
        ("vision_config.depth", [27]),
        ("vision_config.deepstack_visual_indexes", 3),
    ],
)
def test_a_value_of_the_wrong_kind_is_an_error_that_names_the_key(
    tmp_path: Path, config: Json, path: str, value: object
) -> None:
    section, key = place(config, path)
    section[key] = value
    message = refusal(tmp_path, config)
    assert key in message
    assert repr(value) in message


def test_head_counts_and_sizes_that_are_left_out_follow_from_the_others(tmp_path: Path, config: Json) -> None:
    text = config["text_config"]
    del text["num_key_value_heads"], text["head_dim"]
    text["hidden_size"] = 64
    found = read(tmp_path, config).text
    assert (found.num_key_value_heads, found.head_dim) == (4, 16)


def test_tied_embeddings_are_told_by_the_text_section_or_else_by_the_top(
    tmp_path: Path, config: Json
) -> None:
    config["text_config"]["tie_word_embeddings"], config["tie_word_embeddings"] = False, True
    assert not read(tmp_path, config).text.tie_word_embeddings
    del config["text_config"]["tie_word_embeddings"]
    assert read(tmp_path, config).text.tie_word_embeddings
    del config["tie_word_embeddings"]
    assert not read(tmp_path, config).text.tie_word_embeddings


@pytest.mark.parametrize("where", ["top", "text_config"])
@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("name", ["bfloat16", "torch.bfloat16"])
def test_the_dtype_is_found_under_either_key_in_either_place(
    tmp_path: Path, config: Json, where: str, key: str, name: str
) -> None:
    del config["torch_dtype"]
    (config if where == "top" else config[where])[key] = name
    assert read(tmp_path, config).dtype == "bfloat16"


def test_a_model_type_that_is_not_supported_is_named_with_those_that_are(
    tmp_path: Path, config: Json
) -> None:
    config["model_type"] = "llama"
    message = refusal(tmp_path, config)
    assert "'llama' is not supported" in message
    assert "qwen3_vl" in message


def test_a_rope_type_that_is_not_supported_is_named(tmp_path: Path, config: Json) -> None:
    config["text_config"]["rope_scaling"]["rope_type"] = "yarn"
    assert "rope of type 'yarn' is not supported" in refusal(tmp_path, config)


def test_the_old_name_mrope_for_the_rope_type_is_read(tmp_path: Path, config: Json) -> None:
    rope = config["text_config"]["rope_scaling"]
    del rope["rope_type"]
    rope["type"] = "mrope"
    assert read(tmp_path, config).text.mrope_section == SHAPE.mrope_section


def test_mrope_sections_have_to_add_up_to_half_of_the_head(tmp_path: Path, config: Json) -> None:
    config["text_config"]["rope_scaling"]["mrope_section"] = [4, 2, 3]
    assert "[4, 2, 3] should add up to half of head_dim 16" in refusal(tmp_path, config)


def test_mrope_sections_have_to_be_three(tmp_path: Path, config: Json) -> None:
    config["text_config"]["rope_scaling"]["mrope_section"] = [4, 4]
    assert "three numbers, but is [4, 4]" in refusal(tmp_path, config)


def test_missing_mrope_sections_are_named(tmp_path: Path, config: Json) -> None:
    del config["text_config"]["rope_scaling"]
    assert "no mrope_section" in refusal(tmp_path, config)


def test_an_activation_that_is_not_supported_is_named(tmp_path: Path, config: Json) -> None:
    config["vision_config"]["hidden_act"] = "relu"
    assert "vision_config.hidden_act 'relu' is not supported" in refusal(tmp_path, config)


def test_quantisation_is_read_with_its_overrides(tmp_path: Path, config: Json) -> None:
    config["quantization"] = {
        "group_size": 64,
        "bits": 4,
        "mode": "affine",
        "language_model.lm_head": False,
        "language_model.model.embed_tokens": {"group_size": 32, "bits": 8},
        "language_model.model.layers.0.mlp.up_proj": {"bits": 6},
        "language_model.model.layers.1.mlp.up_proj": True,
    }
    assert read(tmp_path, config).quantization == Quantization(
        group_size=64,
        bits=4,
        overrides={
            "language_model.lm_head": None,
            "language_model.model.embed_tokens": Quantization(32, 8, {}),
            "language_model.model.layers.0.mlp.up_proj": Quantization(64, 6, {}),
        },
    )


def test_quantisation_under_its_other_key_is_read_too(tmp_path: Path, config: Json) -> None:
    config["quantization_config"] = {"group_size": 128, "bits": 8}
    assert read(tmp_path, config).quantization == Quantization(128, 8, {})


@pytest.mark.parametrize(
    "raw",
    [
        {"quant_method": "gptq", "bits": 4, "desc_act": False},
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        "int8",
    ],
    ids=str,
)
def test_other_kinds_of_quantisation_are_refused_with_what_would_do(
    tmp_path: Path, config: Json, raw: object
) -> None:
    config["quantization_config"] = raw
    message = refusal(tmp_path, config)
    assert "this kind of quantisation is not supported" in message
    assert "affine" in message


@pytest.mark.parametrize(
    "raw",
    [
        {"group_size": 48, "bits": 4},
        {"group_size": 64, "bits": 7},
        {"group_size": 32, "bits": 4, "mode": "mxfp4"},
        {"group_size": 64, "bits": 4, "lm_head": {"bits": 1}},
        {"group_size": 64, "bits": 4, "lm_head": {"mode": "nvfp4"}},
    ],
    ids=str,
)
def test_numbers_and_modes_that_are_not_supported_are_named(tmp_path: Path, config: Json, raw: Json) -> None:
    config["quantization"] = raw
    message = refusal(tmp_path, config)
    settings = {**raw, **raw.get("lm_head", {})}
    assert f"group_size {settings['group_size']}, bits {settings['bits']} is not supported" in message
    assert repr(settings.get("mode", "affine")) in message


def test_a_folder_without_the_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        read_config(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe{}"], ids=str)
def test_a_file_that_is_no_json_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json can't be read as JSON"):
        read_config(tmp_path)


def test_a_file_with_another_json_value_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="should hold a JSON object"):
        read_config(tmp_path)
