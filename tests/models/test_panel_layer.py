"""Layers in panels compute what plain ones do, for prompts and for steps; what isn't plain is left alone."""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_map

from mlx_chandra.models.attention import SegmentPass
from mlx_chandra.models.backend import Backend, BackendName, PrefillForm, backend_of
from mlx_chandra.models.cache import KeyValueCache
from mlx_chandra.models.config import TextConfig
from mlx_chandra.models.panel_layer import PanelLayer, joined, panel_layers, panels
from mlx_chandra.models.qwen3_vl import DecoderLayer
from mlx_chandra.models.rope import TextRope
from tests.models.parts import text_config

CPU = replace(backend_of(BackendName.CPU), rows_together=8)
CONFIGS = [text_config(), replace(text_config(head_dim=20, sections=(4, 3, 3)), intermediate_size=134)]
SOURCE = np.random.default_rng(5)


def normal(*shape: int) -> mx.array:
    return mx.array(SOURCE.normal(size=shape).astype(np.float32))


def random_layer(config: TextConfig, number: int = 0, backend: Backend = CPU) -> DecoderLayer:
    """With norms that matter: by itself, a new layer's are all ones."""
    layer = DecoderLayer(config, backend, number)
    layer.update(tree_map(lambda array: normal(*array.shape) * 0.3 + (array.ndim == 1), layer.parameters()))
    return layer


@pytest.mark.parametrize("columns", [None, 6, 18])
def test_a_product_with_panels_is_the_product_with_the_matrix(columns: int | None) -> None:
    weight, x = normal(72, 20), normal(5, 20)
    cut = panels(weight, columns)
    assert cut.shape == (72 // (columns or 36), 20, columns or 36)
    assert mx.allclose(joined(x @ cut), x @ weight.T, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS, ids=["small", "odd sizes"])
@pytest.mark.parametrize("tokens", [1, 7, 30], ids="{} tokens".format)
def test_prompts_come_out_as_of_a_plain_layer(config: TextConfig, tokens: int) -> None:
    plain = random_layer(config)
    x = normal(tokens, config.hidden_size)
    rotation = TextRope(config).rotation(SOURCE.integers(0, 99, (3, tokens)).astype(np.int32), mx.float32)
    attention = SegmentPass((tokens,), PrefillForm(scores=100))
    expected = plain(x, rotation, attention)
    mx.eval(expected)
    (layer,) = panel_layers([plain], config, CPU)
    assert isinstance(layer, PanelLayer)
    assert mx.allclose(layer(x, rotation, attention), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", CONFIGS, ids=["small", "odd sizes"])
def test_steps_come_out_as_of_a_plain_layer_and_store_the_same(config: TextConfig) -> None:
    plain, lengths = random_layer(config), [40, 3, 17]
    positions = mx.array(lengths, mx.int32)
    x, prompts = normal(3, config.hidden_size), [normal(sum(lengths), 2, config.head_dim) for _ in range(2)]
    outcomes = []
    for layer in (plain, panel_layers([random_copy(plain, config)], config, CPU)[0]):
        cache: KeyValueCache[int] = KeyValueCache(config, 4, 100, mx.float32, CPU)
        queries = mx.zeros((sum(lengths), config.num_attention_heads, config.head_dim))
        cache.insert([0, 1, 2], lengths).attend(0, queries, *prompts)
        out = layer.step(x, TextRope(config).step_rotation(positions, mx.float32), cache.step())
        rows = [cache.row(0, row)[part][:, : lengths[0] + 1] for row in range(3) for part in (0, 1)]
        outcomes.append([out, *rows])
    assert isinstance(layer, PanelLayer)
    for ours, expected in zip(outcomes[1], outcomes[0], strict=True):
        assert mx.allclose(ours, expected, rtol=1e-4, atol=1e-4)


def random_copy(layer: DecoderLayer, config: TextConfig) -> DecoderLayer:
    copy = DecoderLayer(config, CPU, 0)
    copy.update(layer.parameters())
    return copy


def test_layers_that_are_quantised_or_in_16_bits_stay_as_they_are() -> None:
    config = replace(text_config(heads=4, head_dim=16), intermediate_size=64)
    halves = random_layer(config)
    halves.set_dtype(mx.float16)
    quantised = random_layer(config)
    nn.quantize(quantised, group_size=32, bits=4)
    kept = panel_layers([halves, quantised, random_layer(config)], config, CPU)
    assert [type(layer) for layer in kept] == [DecoderLayer, DecoderLayer, PanelLayer]
    assert kept[0] is halves
