"""A file of lines is whole at every moment, also where it is written anew."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_chandra.errors import DiskFullError
from mlx_chandra.outputs.lines_file import LinesFile


@pytest.fixture
def file(tmp_path: Path) -> Iterator[LinesFile]:
    file = LinesFile(str(tmp_path / "lines"))
    for line in (b"one\n", b"two\n", b"three\n"):
        file.append(line)
    yield file
    file.close()


def test_lines_are_found_at_their_places_and_reading_does_not_disturb_writing(file: LinesFile) -> None:
    assert list(file.lines()) == [(0, b"one\n"), (4, b"two\n"), (8, b"three\n")]
    assert file.line(4) == b"two\n"
    file.append(b"four\n")
    assert file.line(14) == b"four\n"
    assert Path(file.path).read_bytes() == b"one\ntwo\nthree\nfour\n"


def test_a_file_written_anew_of_its_own_lines_grows_on(file: LinesFile) -> None:
    file.write_anew(line for _, line in file.lines() if line != b"two\n")
    file.append(b"four\n")
    assert Path(file.path).read_bytes() == b"one\nthree\nfour\n"
    assert file.line(10) == b"four\n"
    assert file.is_there


def test_a_file_that_cannot_be_written_anew_stays_and_leaves_nothing_beside_it(file: LinesFile) -> None:
    def lines() -> Iterator[bytes]:
        yield b"one\n"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFullError):
        file.write_anew(lines())
    file.append(b"four\n")
    assert Path(file.path).read_bytes() == b"one\ntwo\nthree\nfour\n"
    assert os.listdir(Path(file.path).parent) == ["lines"]


def test_what_a_kill_left_of_writing_anew_is_in_nobodys_way(file: LinesFile) -> None:
    Path(f"{file.path}.part").write_bytes(b"half of a longer fi")
    file.write_anew([b"all\n"])
    assert Path(file.path).read_bytes() == b"all\n"
    assert os.listdir(Path(file.path).parent) == ["lines"]
