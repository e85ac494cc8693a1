"""The hash of a file's bytes, and its size and time, without a look at what it is."""

import hashlib
import os
from pathlib import Path

from mlx_chandra.documents.content import Stamp, content_hash, stamp_of


def test_the_hash_is_sha256_of_all_bytes(tmp_path: Path) -> None:
    content = os.urandom((1 << 20) + 5)
    (tmp_path / "a").write_bytes(content)
    assert content_hash(str(tmp_path / "a")) == hashlib.sha256(content).hexdigest()


def test_a_stamp_is_the_size_and_the_time_of_the_file_that_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    os.utime(tmp_path / "a", ns=(1, 1_234_567_890_000_000_000))
    (tmp_path / "b").symlink_to("a")
    assert stamp_of(str(tmp_path / "b")) == Stamp(5, 1_234_567_890_000_000_000)


def test_what_is_no_readable_file_has_neither(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("pipe", "none", "."):
        assert stamp_of(str(tmp_path / name)) is None
        assert content_hash(str(tmp_path / name)) is None
    assert content_hash(str(tmp_path / "empty")) is None
