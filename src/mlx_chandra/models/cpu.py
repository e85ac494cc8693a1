"""All that exists for CPUs alone: a fast matrix product, and attention and GELU with a fast exp.

MLX's Linux CPU wheel comes linked with the reference BLAS: a 1200 x 256 x 1024 product took 316 ms where
OpenBLAS takes 17 on the same two busy cores. The extra `cpu` brings OpenBLAS (scipy-openblas32), and
`use_openblas` sets MLX's three links to the reference product to OpenBLAS's functions of the same signature,
in this process only. Macs (Accelerate) and GPUs are not touched. Where anything is not as expected, MLX stays
as it is: slow, but right.

MLX takes exp and tanh from the C library, number by number: three quarters of the time of a picture's
attention. `ATTENTION` and `gelu_tanh` compute them of sums, products and quotients, which MLX vectorises.
Four example pages take 10.7 s of processor time, and 22.6 with mlx-vlm and the same OpenBLAS.
"""

import ctypes
import math
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from functools import cache, partial
from importlib.util import find_spec
from itertools import accumulate, product
from math import gcd
from typing import Any

import mlx.core as mx

from mlx_chandra.models.attention import Attend, AttentionForm, grouped_mask, together

FUNCTIONS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")
SWITCH = "MLX_CHANDRA_OPENBLAS"  # set to 0: leave MLX as it is

# ELF (System V gABI): tags of the dynamic section, and the relocations that hold a function's address
_DT_PLTRELSZ, _DT_STRTAB, _DT_SYMTAB, _DT_JMPREL = 2, 5, 6, 23
_JUMP_SLOTS = (7, 1026)  # of x86-64 and AArch64
_PT_DYNAMIC, _PT_RELRO = 2, 0x6474E552


class _Segment(ctypes.Structure):
    """Elf64_Phdr"""

    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("kind", "flags")),
        *((name, ctypes.c_uint64) for name in ("offset", "address", "physical", "in_file", "size", "align")),
    )


class _Library(ctypes.Structure):
    """dl_phdr_info: one library as the loader has put it into memory."""

    _fields_ = (
        ("base", ctypes.c_uint64),
        ("path", ctypes.c_char_p),
        ("segments", ctypes.POINTER(_Segment)),
        ("count", ctypes.c_uint16),
    )


@cache
def use_openblas() -> bool:
    """Set MLX's links, once MLX is loaded.

    Returns:
        Whether MLX multiplies through OpenBLAS now.
    """
    if sys.platform != "linux" or os.environ.get(SWITCH) == "0" or find_spec("scipy_openblas32") is None:
        return False
    try:
        import scipy_openblas32

        openblas = ctypes.CDLL(f"{scipy_openblas32.get_lib_dir()}/lib{scipy_openblas32.get_library()}.so")
        # Half of the cores, unless the user has chosen: its threads wait for each other by spinning. With one
        # on every core, MLX's and those that open images stall them all: decoding was ten times slower.
        if not os.environ.keys() & {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"}:
            openblas.scipy_openblas_set_num_threads(max(1, (os.cpu_count() or 1) // 2))
        slots = {name: address for name, address in _jump_slots("libmlx.so") if name in FUNCTIONS}
        for name, address in slots.items():
            function = ctypes.cast(getattr(openblas, f"scipy_{name}"), ctypes.c_void_p)
            ctypes.c_void_p.from_address(address).value = function.value
        return FUNCTIONS[0] in slots
    except (OSError, KeyError, AttributeError, struct.error, ImportError):
        return False


def _jump_slots(file_name: str) -> Iterator[tuple[str, int]]:
    """The name of each function that a library calls elsewhere, and where its address is kept."""
    for library in _libraries():
        if (library.path or b"").decode(errors="replace").rpartition("/")[2] != file_name:
            continue
        dynamic, read_only = {}, range(0)
        for segment in library.segments[: library.count]:
            start = library.base + segment.address
            if segment.kind == _PT_DYNAMIC:  # with absolute addresses: the loader has made them so
                dynamic = dict(struct.iter_unpack("<QQ", ctypes.string_at(start, segment.size)))
            elif segment.kind == _PT_RELRO:
                read_only = range(start, start + segment.size & ~0xFFF)
        relocations = ctypes.string_at(dynamic[_DT_JMPREL], dynamic[_DT_PLTRELSZ])
        for offset, info, _ in struct.iter_unpack("<QQq", relocations):
            address = library.base + offset
            if info & 0xFFFFFFFF in _JUMP_SLOTS and address not in read_only:
                symbol = ctypes.string_at(dynamic[_DT_SYMTAB] + 24 * (info >> 32), 4)
                name = dynamic[_DT_STRTAB] + int.from_bytes(symbol, "little")
                yield ctypes.string_at(name).decode(), address


def _libraries() -> list[_Library]:
    found = []

    def add(library: Any, size: int, data: object) -> int:
        found.append(_Library.from_buffer_copy(library.contents))
        return 0

    takes = ctypes.POINTER(_Library), ctypes.c_size_t, ctypes.c_void_p
    ctypes.CDLL(None).dl_iterate_phdr(ctypes.CFUNCTYPE(ctypes.c_int, *takes)(add), None)
    return found


_MOST_SCORES = 400_000  # at a time, so that the processor's caches hold them
_MOST_CAUSAL = 128  # queries at a time: of a longer block, much would be computed to be thrown away
_KEYS_TOGETHER = 128  # in one product of a decode step
_LEAST = 100.0  # 2**-100 is as good as nothing beside the largest weight, which is about 1
_LOG2_E = math.log2(math.e)

# 2**f is _SCALE * (_C + f / ((f - _A)**2 + _B)) for f from -1/2 to 1/2, to 4.3e-7 of its value: the
# form of exp's Padé approximant of degree 2 / 2, its coefficients fitted to the least largest relative error.
_A, _B, _C = 4.338919430784517, 6.212884921090692, 0.05761803232074436
_SCALE = 17.355677723133056
_TO_INTEGER = 1.5 * 2**23  # added to a float32, it leaves no place for a fraction: the sum's last bits count


def softmax_weights(scores: mx.array, axis: int | tuple[int, ...]) -> mx.array:
    """Return a multiple of 2**scores, the same multiple along `axis`; the caller divides by the sum.

    Args:
        scores: float32; what is no number stays so. Not all minus infinity along `axis`.
    """
    top = mx.round(scores.max(axis=axis, keepdims=True))
    return _exp2(mx.maximum(scores, top - _LEAST), top)


def gelu_tanh(x: mx.array) -> mx.array:
    """GELU's tanh form: (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u))."""
    y, slope = x.astype(mx.float32), -2 * _LOG2_E * math.sqrt(2 / math.pi)
    exponent = mx.clip(y * (mx.square(y) * (slope * 0.044715) + slope), -_LEAST, _LEAST)
    return (y / (1 + _SCALE * _exp2(exponent, 0.0))).astype(x.dtype)


def _exp2(x: mx.array, less: mx.array | float) -> mx.array:
    """Return 2**(x - less) / _SCALE.

    Args:
        x: float32; what is no number stays so.
        less: Whole numbers below 4 million, so that they change the exponent alone; x - less must lie between
            -125 and 125.
    """
    shift = _TO_INTEGER - less
    whole = x + shift
    part = x - (whole - shift)  # exact, between -1/2 and 1/2
    fraction = _C + part / (mx.square(part - _A) + _B)
    exponent = mx.left_shift(whole.view(mx.int32), mx.array(23, mx.int32))
    return (fraction.view(mx.int32) + exponent).view(mx.float32)


def _segments(lengths: Sequence[int], total: int, causal: bool, dtype: mx.Dtype) -> Attend:
    return partial(_by_segment, tuple(lengths), causal)


def _by_segment(
    lengths: tuple[int, ...], causal: bool, queries: mx.array, keys: mx.array, values: mx.array
) -> mx.array:
    outputs = []
    for stop, length in zip(accumulate(lengths), lengths, strict=True):
        here = slice(stop - length, stop)
        outputs.append(_segment(queries[here], keys[here], values[here], causal))
    return together(outputs, len(queries)).astype(queries.dtype)


def _segment(queries: mx.array, keys: mx.array, values: mx.array, causal: bool) -> mx.array:
    """Attend within one segment, a block of queries at a time: [L, heads * d]."""
    length, heads, width = queries.shape
    by_head = (x.astype(mx.float32).swapaxes(0, 1) for x in (queries * (_LOG2_E * width**-0.5), keys, values))
    q, k, v = map(mx.contiguous, by_head)  # or every product copies them anew
    block = min(length, max(1, _MOST_SCORES // length), _MOST_CAUSAL if causal else length)
    mask = _causal_mask(length, block) if causal else None
    outputs = []
    for head, start in product(range(heads), range(0, length, block)):
        stop, shared = min(start + block, length), head * len(k) // heads
        seen = stop if causal else length
        rows = None if mask is None else mask[length - start :][:seen, : stop - start]
        outputs.append(_block(q[head, start:stop], k[shared, :seen], v[shared, :seen], rows))
        mx.eval(outputs[-1])  # the next block uses its scores' memory again
    return mx.concatenate(outputs).reshape(heads, length, width).swapaxes(0, 1).reshape(length, -1)


def _causal_mask(length: int, block: int) -> mx.array:
    """Return what is added to scores [S, B] of the queries from `start` on: the rows from length - start on.

    Returns:
        [length + block, block]; row r is for the key that stands r - length behind the first query.
    """
    behind = mx.arange(-length, block)[:, None]
    return mx.where(behind <= mx.arange(block), 0.0, -mx.inf)


def _block(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None) -> mx.array:
    """Attend with q [B, d] to k and v [S, d], with `mask` [S, B] added.

    Scores have a query's keys in a column: MLX takes maxima and sums of columns for many queries at once.
    """
    scores = k @ q.T  # [S, B]
    weights = softmax_weights(scores if mask is None else scores + mask, axis=0)
    return (weights.T @ v) / weights.sum(axis=0)[:, None]


def _step_attention(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array) -> mx.array:
    """Attend with one query a page, a few keys to a product.

    OpenBLAS reads a small product's matrices where they are, and copies those of a large one first.
    """
    count, kv_heads, window, width = keys.shape
    size = gcd(window, _KEYS_TOGETHER)
    blocks = (count, kv_heads, window // size, size)
    q = (queries * (_LOG2_E * width**-0.5)).reshape(count, kv_heads, 1, -1, width)
    scores = q @ keys.reshape(*blocks, width).swapaxes(-1, -2)  # [n, kv_heads, blocks, share, keys]
    added = mask[:, :, 0].reshape(count, kv_heads, -1, 1, size)
    weights = softmax_weights((scores + added).astype(mx.float32), axis=(2, 4))
    sums = weights.sum(axis=(2, 4), keepdims=True)  # [n, kv_heads, 1, share, 1]
    out = (weights @ values.reshape(*blocks, width)).sum(axis=2, keepdims=True) / sums
    return out.astype(queries.dtype).reshape(count, -1)


ATTENTION = AttentionForm(_segments, grouped_mask, _step_attention)
