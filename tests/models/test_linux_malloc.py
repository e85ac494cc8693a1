"""Freed memory stays with the process, unless the user has said how much may."""

import os
import platform
import subprocess
import sys

import pytest

from mlx_chandra.models.linux_malloc import KEPT_BYTES

HAS_GLIBC = platform.libc_ver()[0] == "glibc"
pytestmark = pytest.mark.skipif(not HAS_GLIBC, reason="only glibc's malloc")

# Takes 120 MB in 20 pieces, writes to them, frees them, four times: how many pages did the last time ask for?
PROGRAM = """
import ctypes, resource
from mlx_chandra.models.linux_malloc import keep_freed_memory
kept = keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pieces = [libc.malloc(6_000_000) for _ in range(20)]
    for piece in pieces:
        ctypes.memset(piece, 1, 6_000_000)
    for piece in pieces:
        libc.free(piece)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def last_round(variables: dict[str, str]) -> tuple[str, int]:
    """What keep_freed_memory() said, and the page faults of the last round."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": "src", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, faults = done.stdout.split()
    return kept, int(faults)


def test_memory_that_was_freed_is_used_again_without_asking_for_it() -> None:
    assert KEPT_BYTES > 120_000_000
    kept, faults = last_round({})
    assert kept == "True"
    assert faults < 1000


@pytest.mark.parametrize(
    "variables",
    [
        {"MALLOC_TRIM_THRESHOLD_": "1000000"},
        {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7:glibc.malloc.trim_threshold=1000000"},
    ],
)
def test_a_user_who_has_said_how_much_is_kept_is_obeyed(variables: dict[str, str]) -> None:
    kept, faults = last_round(variables)
    assert kept == "False"
    assert faults > 10_000


def test_other_wishes_of_a_user_about_memory_leave_freed_memory_with_the_process() -> None:
    kept, faults = last_round({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"})
    assert kept == "True"
    assert faults < 1000
