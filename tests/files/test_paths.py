"""Every path has one form in UTF-8, and comes back from it."""

import os

import pytest

from mlx_chandra.files.paths import real_path, shown_path

pytest.importorskip("hypothesis")
from hypothesis import example, given
from hypothesis import strategies as st


@given(
    st.lists(st.sampled_from([b"\\x41", b"\\x5cx41", b"\\", b"x5c", b"\xff", b"\xc3\xa9", b"a"])), st.binary()
)
@example([b"\\x5c", b"x41"], b"")
def test_a_path_is_shown_in_utf_8_and_comes_back(parts: list[bytes], rest: bytes) -> None:
    path = os.fsdecode(b"/" + b"".join(parts) + rest)
    shown = shown_path(path)
    assert shown.encode().decode() == shown
    assert real_path(shown) == path
