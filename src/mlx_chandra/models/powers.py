"""Powers of two and activations out of what MLX's CPU backend is quick at.

On Linux, MLX's CPU operations run as the compiler left them: sums, products, quotients and integer operations
on several numbers at once (0.1 to 0.2 ns a number), exp, tanh and erf one by one through the C library (9 to
23 ns). So here the quick ones make up the others, in float32, to a few units in the last place.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

LOG2_E = math.log2(math.e)

# 2**f = SCALE * (_C + f / ((f - _A)**2 + _B)) for f from -1/2 to 1/2, to 4.3e-7 of its value: the form of
# exp's Padé approximant of degree 2 / 2, its coefficients fitted to the least largest relative error.
_A, _B, _C = 4.338919430784517, 6.212884921090692, 0.05761803232074436
SCALE = 17.355677723133056
_TO_INTEGER = 1.5 * 2**23  # added to a float32, it leaves no place for a fraction: the sum's last bits count
_MANY = 100_000  # numbers
_LOWEST, _HIGHEST = -100.0, 100.0  # exponents that keep clear of what float32 can't hold


def power_of_two(x: mx.array, less: mx.array | float = 0.0) -> mx.array:
    """2**(x - less) / SCALE.

    The caller drops the factor where it cancels, and multiplies where it doesn't.

    Args:
        x: float32; what isn't a number stays so.
        less: Whole numbers below 4 million; x - less must lie between -125 and 125.
    """
    shift = _TO_INTEGER - less
    whole = x + shift
    part = x - (whole - shift)  # exact, between -1/2 and 1/2
    power = _C + part / (mx.square(part - _A) + _B)
    exponent = mx.left_shift(whole.view(mx.int32), mx.array(23, mx.int32))
    return (power.view(mx.int32) + exponent).view(mx.float32)


def _logistic(x: mx.array, exponent: mx.array) -> mx.array:
    """x / (1 + 2**exponent)"""
    power = power_of_two(mx.clip(exponent, _LOWEST, _HIGHEST))
    return x * (1 / SCALE) / (power + 1 / SCALE)


def silu(x: mx.array) -> mx.array:
    """x * sigmoid(x).

    A decode step's arrays are so small that the number of operations counts: for them it is few, and of the
    functions that go through the C library, power takes the least time.
    """
    if x.size > _MANY and x.dtype == mx.float32:
        return _logistic(x, x * -LOG2_E)
    return x / (1 + mx.power(2.0, x * -LOG2_E))


def gelu_tanh(x: mx.array) -> mx.array:
    """GELU's tanh form, written with the logistic function: (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u))."""
    slope = -2 * LOG2_E * math.sqrt(2 / math.pi)
    return _logistic(x, x * (mx.square(x) * (slope * 0.044715) + slope))


def gelu_erf(x: mx.array) -> mx.array:
    """GELU's exact form, max(x, 0) - |x| erfc(|x| / sqrt(2)) / 2.

    erfc by Abramowitz and Stegun 7.1.26, to 1.5e-7, which is also what MLX's erf does.
    """
    size = mx.abs(x)
    t = mx.reciprocal(size * (0.3275911 / math.sqrt(2)) + 1)
    series = t * 1.061405429 - 1.453152027
    for coefficient in (1.421413741, -0.284496736, 0.254829592):
        series = series * t + coefficient
    bell = power_of_two(mx.maximum(mx.square(x) * (-LOG2_E / 2), _LOWEST))
    return mx.maximum(x, 0.0) - size * (SCALE / 2) * (series * t) * bell


@dataclass(frozen=True)
class Activations:
    """The functions between two linear layers."""

    silu: Callable[[mx.array], mx.array]
    gelu_tanh: Callable[[mx.array], mx.array]
    gelu_erf: Callable[[mx.array], mx.array]


def _in_float32(function: Callable[[mx.array], mx.array]) -> Callable[[mx.array], mx.array]:
    return lambda x: function(x.astype(mx.float32)).astype(x.dtype)


@mx.compile
def _gelu_tanh_in_one(x: mx.array) -> mx.array:
    """GELU's tanh form in one launch and in float32. It is compiled for each shape: for any shape at once, as
    MLX's gelu_approx is, it takes CUDA 3.5 times as long."""
    y = x.astype(mx.float32)
    return (y * mx.sigmoid((2 * math.sqrt(2 / math.pi)) * (y + 0.044715 * y * y * y))).astype(x.dtype)


COMPILED = Activations(nn.silu, _gelu_tanh_in_one, nn.gelu)
MLX_ACTIVATIONS = Activations(nn.silu, nn.gelu_approx, nn.gelu)
WRITTEN_OUT = Activations(silu, _in_float32(gelu_tanh), _in_float32(gelu_erf))
