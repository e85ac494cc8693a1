"""Gives MLX's CPU backend on Linux a fast matrix product.

MLX's Linux CPU wheel comes linked with the reference BLAS: a 1200 x 256 x 1024 product took 316 ms where
OpenBLAS takes 17 on the same two busy cores. The extra `cpu` brings OpenBLAS (scipy-openblas32), and here
MLX's three links to the reference product are set to OpenBLAS's functions of the same signature, in this
process only. Macs (Accelerate) and GPUs are not touched; where anything is not as expected, MLX stays as it
is: slow, but right.
"""

import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

FUNCTIONS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")
SWITCH = "MLX_CHANDRA_OPENBLAS"  # set to 0: leave MLX as it is

# ELF (System V gABI): tags of the dynamic section, and the relocations that hold a function's address
_DT_PLTRELSZ, _DT_STRTAB, _DT_SYMTAB, _DT_JMPREL = 2, 5, 6, 23
_JUMP_SLOTS = (7, 1026)  # of x86-64 and AArch64
_PT_LOAD, _PT_DYNAMIC, _PT_RELRO = 1, 2, 0x6474E552


@dataclass(frozen=True)
class _Library:
    """One library as the loader has put it into memory."""

    base: int
    dynamic: dict[int, int]  # tag -> value, addresses relative to base
    read_only: range  # what the loader protects after linking, relative to base

    def jump_slots(self) -> Iterator[tuple[str, int]]:
        """The name of each function that the library calls elsewhere, and where its address is kept."""
        for place in range(0, self.dynamic[_DT_PLTRELSZ], 24):
            offset, info, _ = struct.unpack("<QQq", self._read(self.dynamic[_DT_JMPREL] + place, 24))
            if info & 0xFFFFFFFF in _JUMP_SLOTS and offset not in self.read_only:
                (name,) = struct.unpack("<I", self._read(self.dynamic[_DT_SYMTAB] + 24 * (info >> 32), 4))
                text = ctypes.string_at(self.base + self.dynamic[_DT_STRTAB] + name)
                yield text.decode(), self.base + offset

    def _read(self, address: int, size: int) -> bytes:
        return ctypes.string_at(self.base + address, size)


@cache
def use_openblas() -> bool:
    """Set MLX's links, once MLX is loaded.

    Returns:
        Whether MLX multiplies through OpenBLAS now.
    """
    if sys.platform != "linux" or os.environ.get(SWITCH) == "0" or find_spec("scipy_openblas32") is None:
        return False
    import mlx.core  # noqa: F401  (loads the library that is looked for below)

    try:
        library = _loaded("libmlx.so")
        if library is None:
            return False
        import scipy_openblas32

        openblas = ctypes.CDLL(f"{scipy_openblas32.get_lib_dir()}/lib{scipy_openblas32.get_library()}.so")
        _set_threads(openblas)
        return _link(library, openblas)
    except (OSError, KeyError, AttributeError, struct.error, ImportError):
        return False


def _set_threads(openblas: ctypes.CDLL) -> None:
    """Half of the cores, unless the user has chosen.

    OpenBLAS's threads wait for each other by spinning. With one on every core, anything else (MLX's own
    thread, the workers that open images) stalls them all: decoding was ten times slower on a busy machine.
    """
    if not os.environ.keys() & {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"}:
        openblas.scipy_openblas_set_num_threads(max(1, (os.cpu_count() or 1) // 2))


def _link(library: _Library, openblas: ctypes.CDLL) -> bool:
    slots = {name: address for name, address in library.jump_slots() if name in FUNCTIONS}
    for name, address in slots.items():
        function = getattr(openblas, f"scipy_{name}")
        ctypes.c_void_p.from_address(address).value = ctypes.cast(function, ctypes.c_void_p).value
    return FUNCTIONS[0] in slots


def _loaded(name: str) -> _Library | None:
    """The library of that file name in this process, or None."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].rpartition("/")[2] == name and int(fields[2], 16) == 0:
            return _parse(Path(fields[5]), int(fields[0].partition("-")[0], 16))
    return None


def _parse(path: Path, base: int) -> _Library | None:
    with path.open("rb") as file:
        header = file.read(64)
        if header[:6] != b"\x7fELF\x02\x01":  # 64 bits, little-endian
            return None
        (start,), (size, count) = struct.unpack_from("<Q", header, 32), struct.unpack_from("<HH", header, 54)
        file.seek(start)
        table = file.read(size * count)
        dynamic, read_only, first = b"", range(0), None
        for place in range(0, size * count, size):
            kind, _, offset, address, _, in_file, in_memory, _ = struct.unpack_from("<IIQQQQQQ", table, place)
            if kind == _PT_LOAD and first is None:
                first = address
            elif kind == _PT_RELRO:
                read_only = range(address, address + in_memory & ~0xFFF)
            elif kind == _PT_DYNAMIC:
                file.seek(offset)
                dynamic = file.read(in_file)
    base -= first or 0
    # the loader has made the pointers in memory absolute; the file has them relative, as needed here
    return _Library(base, dict(struct.iter_unpack("<QQ", dynamic)), read_only)
