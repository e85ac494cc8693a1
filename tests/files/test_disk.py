"""A file is there whole or not at all, and nothing that lies in the way of its part is written to."""

import errno
import os
from pathlib import Path

import pytest

from mlx_chandra.errors import DiskFullError, OutputError
from mlx_chandra.files.disk import disk_errors, whole_file, write_whole


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    with whole_file(str(path)) as file:
        file.write(b"new")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError("odd"), KeyboardInterrupt()])
def test_a_file_that_is_not_finished_leaves_the_old_one(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    write_whole(str(path), b"old")

    def write_half() -> None:
        with whole_file(str(path)) as file:
            file.write(b"ha")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("kind", ["link", "hard link", "file"])
def test_what_lies_where_the_part_goes_is_not_written_to(tmp_path: Path, kind: str) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    with whole_file(str(tmp_path / "out" / "a.txt")):
        (part,) = (tmp_path / "out").iterdir()
    if kind == "link":
        part.symlink_to(mine)
    elif kind == "hard link":
        os.link(mine, part)
    else:
        part.write_bytes(b"of a killed run, and longer than what comes now")
    write_whole(str(tmp_path / "out" / "a.txt"), b"new")
    assert mine.read_bytes() == b"mine"
    assert (tmp_path / "out" / "a.txt").read_bytes() == b"new"
    assert not (tmp_path / "out" / "a.txt").is_symlink()
    assert os.listdir(tmp_path / "out") == ["a.txt"]


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, DiskFullError), (errno.EDQUOT, DiskFullError), (errno.EIO, OutputError)],
)
def test_the_systems_refusals_name_the_file(number: int, kind: type[OutputError]) -> None:
    with pytest.raises(OutputError, match="/a/b") as caught, disk_errors("/a/b"):
        raise OSError(number, os.strerror(number))
    assert type(caught.value) is kind
