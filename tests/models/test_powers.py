"""What is written out of quick operations against the functions themselves, in float64."""

import math
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_chandra.models.powers import MLX_ACTIVATIONS, SCALE, WRITTEN_OUT, Activations, power_of_two

Function = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def test_a_power_of_two_is_right_to_a_few_units_in_the_last_place() -> None:
    x = np.linspace(-100, 100, 400_001, dtype=np.float32)
    ours = np.array(power_of_two(mx.array(x))).astype(np.float64) * SCALE
    np.testing.assert_allclose(ours, np.exp2(x.astype(np.float64)), rtol=7e-7)


def test_powers_of_two_between_far_numbers_keep_the_precision_of_their_difference() -> None:
    top = np.array([[-3000.0], [0.0], [70_000.0]], np.float32)
    x = (top + np.linspace(-90, 0.5, 182, dtype=np.float32)).astype(np.float32)
    ours = np.array(power_of_two(mx.array(x), mx.array(top))).astype(np.float64) * SCALE
    np.testing.assert_allclose(ours, np.exp2(x.astype(np.float64) - top), rtol=7e-7)


def _silu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x * np.exp(-np.logaddexp(0, -x))


def _gelu_tanh(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def _gelu_erf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x * (1 + np.array([math.erf(number / math.sqrt(2)) for number in x])) / 2


@pytest.mark.parametrize("numbers", [24_001, 240_001], ids="{} numbers".format)
@pytest.mark.parametrize("activations", [MLX_ACTIVATIONS, WRITTEN_OUT], ids=["mlx", "written out"])
@pytest.mark.parametrize("function", [_silu, _gelu_tanh, _gelu_erf])
def test_activations_mean_what_they_are_called(
    activations: Activations, function: Function, numbers: int
) -> None:
    edges = [0.0, -0.0, 1e-30, -1e-30, 30.0, -30.0, 1e3, -1e3, 1e6, -1e6]
    x = np.concatenate([np.linspace(-12, 12, numbers), edges]).astype(np.float32)
    ours = np.array(getattr(activations, function.__name__[1:])(mx.array(x)))
    np.testing.assert_allclose(ours, function(x.astype(np.float64)), rtol=4e-7, atol=1e-6)


@pytest.mark.parametrize("function", [_silu, _gelu_tanh, _gelu_erf])
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_written_out_activations_keep_the_dtype_and_what_is_not_a_number(
    dtype: mx.Dtype, function: Function
) -> None:
    x = mx.array([1.5, -2.0, math.nan, 60_000.0]).astype(dtype)
    name = function.__name__[1:]
    ours, plain = getattr(WRITTEN_OUT, name)(x), getattr(MLX_ACTIVATIONS, name)(x.astype(mx.float32))
    assert ours.dtype == dtype
    np.testing.assert_allclose(np.array(ours.astype(mx.float32)), np.array(plain), rtol=0.02)
