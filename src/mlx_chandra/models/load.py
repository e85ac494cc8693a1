"""Loads a checkpoint folder as a model: Hugging Face's and MLX's layouts, sharded or not, quantised or not.

A tensor that is missing, unexpected or of a wrong shape is an error that names it. Names are mapped while
loading, so neither layout needs a conversion step.
"""

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_chandra.errors import CheckpointError
from mlx_chandra.models.backend import Backend, BackendName, current_backend
from mlx_chandra.models.config import ModelConfig, Quantization, read_config
from mlx_chandra.models.cpu import use_openblas
from mlx_chandra.models.hub import some_of, weight_files
from mlx_chandra.models.names import PATCH_PROJECTION, our_name
from mlx_chandra.models.qwen3_vl import Qwen3VL

Weights = dict[str, mx.array]

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def load_model(folder: Path, dtype: mx.Dtype | str | None = None, backend: Backend | None = None) -> Qwen3VL:
    """Load the model of a checkpoint folder, weights evaluated.

    Args:
        folder: Holds config.json and the safetensors files.
        dtype: float32, float16 or bfloat16, or its name; None: float32 on the CPU, the checkpoint's own on
            a GPU.
        backend: How this machine computes best; None: as `current_backend` says.

    Raises:
        CheckpointError: Something in the folder is missing, unexpected, damaged or not supported.
    """
    folder = Path(folder)
    config, backend = read_config(folder), backend or current_backend()
    if backend.name is BackendName.CPU:
        use_openblas()
    model = Qwen3VL(config, backend)
    weights = _read_weights(folder, config)
    _quantize(model, weights, config.quantization, folder)
    _check(model, weights, folder)
    chosen = chosen_dtype(dtype, config, backend, folder)
    model.load_weights([(name, _cast(array, chosen)) for name, array in weights.items()])
    mx.eval(model.parameters())
    model.fuse()
    model.eval()
    return model


def loaded_bytes(folder: Path, config: ModelConfig, dtype: mx.Dtype) -> int:
    """Return the bytes that the weights take with this dtype, by the files' headers alone.

    Raises:
        CheckpointError: The weights are missing or damaged.
    """
    return sum(_cast(array, dtype).nbytes for array in _read_weights(folder, config).values())


def chosen_dtype(
    dtype: mx.Dtype | str | None, config: ModelConfig, backend: Backend, folder: Path
) -> mx.Dtype:
    """Return the dtype that `load_model` uses. Raises CheckpointError for one that isn't supported."""
    dtype = dtype or ("float32" if backend.float32_only else config.dtype)
    if isinstance(dtype, mx.Dtype):
        return dtype
    if dtype not in DTYPES:
        raise CheckpointError(
            f"{folder}: the dtype {dtype!r} is not supported.", f"Choose one of {', '.join(DTYPES)}."
        )
    return DTYPES[dtype]


def _cast(array: mx.array, dtype: mx.Dtype) -> mx.array:
    return array.astype(dtype) if mx.issubdtype(array.dtype, mx.floating) else array


def _read_weights(folder: Path, config: ModelConfig) -> Weights:
    weights: Weights = {}
    for path in weight_files(folder):
        try:
            tensors = mx.load(str(path))
        except (RuntimeError, ValueError, OSError) as error:
            raise CheckpointError(
                f"{path} can't be read as safetensors: {error}.", "Download the checkpoint again."
            ) from None
        if not isinstance(tensors, dict):
            raise CheckpointError(f"{path} holds no named tensors.")
        weights.update((our_name(name), array) for name, array in tensors.items())
    if config.text.tie_word_embeddings:  # some checkpoints store the shared matrix twice
        weights = {name: array for name, array in weights.items() if not name.startswith("lm_head.")}
    if PATCH_PROJECTION in weights:
        weights[PATCH_PROJECTION] = _flat_projection(weights[PATCH_PROJECTION], config)
    return weights


def _flat_projection(weight: mx.array, config: ModelConfig) -> mx.array:
    """Return the patch convolution as a matrix [hidden, channels * frames * height * width].

    Hugging Face stores [out, channels, frames, height, width], MLX has the channels last.
    """
    vision = config.vision
    size = (vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    if weight.shape == (vision.hidden_size, *size, vision.in_channels):
        weight = weight.transpose(0, 4, 1, 2, 3)
    elif weight.shape != (vision.hidden_size, vision.in_channels, *size):
        return weight  # the check of shapes names it
    return weight.reshape(vision.hidden_size, vision.patch_values)


def _quantize(model: Qwen3VL, weights: Weights, quantization: Quantization | None, folder: Path) -> None:
    """Give quantised modules, those that the checkpoint has scales of, their packed form."""
    stated = quantization.overrides if quantization is not None else {}
    overrides = {our_name(path + "."): value for path, value in stated.items()}

    def settings(path: str, module: nn.Module) -> bool | dict[str, int]:
        if f"{path}.scales" not in weights:
            return False
        own = overrides.get(path + ".", quantization)
        if own is None or not hasattr(module, "to_quantized"):
            raise CheckpointError(f"{folder}: {path} is quantised, but config.json doesn't say so.")
        if module.weight.shape[-1] % own.group_size:
            raise CheckpointError(
                f"{folder}: {path} has {module.weight.shape[-1]} inputs, which can't be quantised in groups "
                f"of {own.group_size} as config.json says."
            )
        return {"group_size": own.group_size, "bits": own.bits}

    nn.quantize(model, class_predicate=settings)


def _check(model: Qwen3VL, weights: Weights, folder: Path) -> None:
    expected = dict(tree_flatten(model.parameters()))
    missing = sorted(expected.keys() - weights.keys())
    unexpected = sorted(weights.keys() - expected.keys())
    wrong = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(array.shape)}"
        for name, array in expected.items()
        if name in weights and weights[name].shape != array.shape
    ]
    problems = [
        f"{what}: {some_of(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of a wrong shape", wrong))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{folder}: the tensors don't fit config.json; {'; '.join(problems)}.",
            "Is the checkpoint complete, and of a supported model?",
        )
