"""Lets the C library keep the memory that MLX's CPU backend frees, on Linux.

A pass makes and frees arrays of some megabytes by the hundred. MLX keeps 32 MB of them for the next ones and
frees the others; glibc then gives them back to the system, which clears every page anew when it is asked for
again. For a picture of 3,072 patches that was a tenth of the time.
"""

import ctypes
import os
import sys

KEPT_BYTES = 256 << 20  # free memory that stays with the process
_LARGEST = 32 << 20  # the most that glibc takes for it; larger arrays are few

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_USERS_OWN = {  # variables, and names in GLIBC_TUNABLES
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_THRESHOLD_",
    "glibc.malloc.trim_threshold",
    "glibc.malloc.mmap_threshold",
}


def keep_freed_memory() -> bool:
    """Set the limits, unless the user has, or the C library isn't glibc.

    Returns:
        Whether memory is kept now.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "").split(":")
    said = {*os.environ, *(tunable.partition("=")[0] for tunable in tunables)}
    if sys.platform != "linux" or said & _USERS_OWN:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES) and mallopt(_M_MMAP_THRESHOLD, _LARGEST))
