"""Made weights: the same for every engine, under each one's names and in its layouts."""

import mlx.core as mx
import numpy as np

from benchmarks.made_model import CHANDRA_1, TOY, Naming, made_config, made_tensors
from mlx_chandra.models.backend import current_backend
from mlx_chandra.models.qwen3_vl import Qwen3VL
from tests.checkpoints import CheckpointShape, tensor_shapes

# TOY as tests/checkpoints.py says it, which knows transformers' names and shapes.
SAME_SHAPE = CheckpointShape(
    hidden=TOY.hidden,
    layers=TOY.layers,
    heads=TOY.heads,
    kv_heads=TOY.kv_heads,
    head_dim=TOY.head_dim,
    intermediate=TOY.intermediate,
    vocab=TOY.vocab,
    tied=False,
    vision_depth=TOY.vision_depth,
    vision_hidden=TOY.vision_hidden,
    vision_heads=TOY.vision_heads,
    vision_intermediate=TOY.vision_intermediate,
    deepstack=TOY.deepstack,
    num_position_embeddings=TOY.positions,
)


def test_the_real_dimensions_are_those_of_a_model_with_8770_million_weights() -> None:
    text, vision = made_config(CHANDRA_1).text, made_config(CHANDRA_1).vision
    assert (text.hidden_size, text.num_hidden_layers, text.vocab_size) == (4096, 36, 151_936)
    assert (vision.hidden_size, vision.depth, vision.deepstack_visual_indexes) == (1152, 27, (8, 16, 24))
    shape = CheckpointShape(
        4096, 36, 32, 8, 128, 12_288, vocab=151_936, tied=False, vision_depth=27, vision_hidden=1152,
        vision_heads=16, vision_intermediate=4304, deepstack=(8, 16, 24), num_position_embeddings=2304,
    )  # fmt: skip
    assert round(sum(np.prod(size) for _, size in tensor_shapes(shape)) / 1e7) == 877


def test_the_tensors_have_transformers_names_and_shapes() -> None:
    made = {name: tensor.shape for name, tensor in made_tensors(TOY, mx.float32, Naming.HUGGING_FACE)}
    assert made == dict(tensor_shapes(SAME_SHAPE))


def test_our_model_takes_them_all_and_gives_finite_numbers() -> None:
    model = Qwen3VL(made_config(TOY), current_backend())
    model.load_weights(list(made_tensors(TOY, mx.float32, Naming.OURS)))
    weights = model.language_model.layers[0].mlp.up_proj.weight
    assert bool(mx.isfinite(weights).all().item())
    assert 0.5 < mx.std(weights).item() * TOY.hidden**0.5 < 2


def test_each_naming_holds_the_same_numbers() -> None:
    sums = {
        naming: [float(tensor.sum().item()) for _, tensor in made_tensors(TOY, mx.float32, naming)]
        for naming in Naming
    }
    for naming in Naming:
        np.testing.assert_allclose(sums[naming], sums[Naming.OURS], rtol=1e-4, atol=1e-3)


def test_the_patch_projection_of_each_layout_is_the_same_convolution() -> None:
    """One number is followed through all three: output 5, channel 1, frame 0, row 3, column 7."""
    kernels = {
        naming: next(
            tensor
            for name, tensor in made_tensors(TOY, mx.float32, naming)
            if "patch_embed.proj.weight" in name
        )
        for naming in Naming
    }
    ours = kernels[Naming.OURS][5, 1 * 2 * 256 + 3 * 16 + 7].item()
    assert kernels[Naming.HUGGING_FACE][5, 1, 0, 3, 7].item() == ours
    assert kernels[Naming.MLX_VLM][5, 0, 3, 7, 1].item() == ours


def test_a_tensor_is_the_same_each_time_and_another_than_its_neighbour() -> None:
    first, second = (dict(made_tensors(TOY, mx.bfloat16, Naming.OURS)) for _ in range(2))
    name = "language_model.layers.0.mlp.up_proj.weight"
    assert mx.array_equal(first[name], second[name]).item()
    assert not mx.array_equal(first[name], first[name.replace("layers.0", "layers.1")]).item()
    assert first[name].dtype == mx.bfloat16
