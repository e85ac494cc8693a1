"""Numbers that a decode step needs on the device, made once.

A number in an expression of arrays becomes an array in the host's memory, anew each time. On CUDA such memory
moves between host and device page by page, and each of these costs a step up to 0.25 ms.
"""

from functools import cache

import mlx.core as mx


@cache
def constant(value: float, dtype: mx.Dtype) -> mx.array:
    """An array [] of this number; the same one each time."""
    return mx.array(value, dtype)
