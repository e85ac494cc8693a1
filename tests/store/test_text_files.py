"""Text files are whole or not there, stand where they are expected, and a bad place is no end of the run."""

import errno
import os
from pathlib import Path

import pytest

from mlx_chandra.errors import DiskFullError
from mlx_chandra.store.text_files import TextFiles, text_path


def test_a_text_stands_beside_its_image_or_in_the_same_tree_elsewhere() -> None:
    assert text_path("/in/x/a.png", "a", "x", None) == "/in/x/a_ocr.txt"
    assert text_path("/in/x/a.png", "a.png", "x", None) == "/in/x/a.png_ocr.txt"
    assert text_path("/in/x/a.png", "a", "x", "/out") == "/out/x/a_ocr.txt"
    assert text_path("/in/a.png", "a", "", "/out") == "/out/a_ocr.txt"


def test_texts_are_written_as_they_are_and_nothing_else_is_left(tmp_path: Path) -> None:
    (tmp_path / "b_ocr.txt").write_text("a much longer older text")
    texts = {str(tmp_path / "new" / "a_ocr.txt"): "one\r\ntwo\n ü\0", str(tmp_path / "b_ocr.txt"): "b"}
    assert TextFiles("/r.csv").write(texts) == {}
    assert (tmp_path / "new" / "a_ocr.txt").read_bytes() == "one\r\ntwo\n ü\ufffd".encode()
    assert (tmp_path / "b_ocr.txt").read_text() == "b"
    assert sorted(os.listdir(tmp_path)) == ["b_ocr.txt", "new"]


def test_part_files_are_used_up_follow_no_link_and_are_each_csvs_own(tmp_path: Path) -> None:
    path, target, parts, replace = tmp_path / "a_ocr.txt", tmp_path / "precious", [], os.replace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", lambda part, to: (parts.append(part), replace(part, to)))
        for table in ("/one.csv", "/two.csv"):
            TextFiles(table).write({str(path): "text"})
    assert parts[0] != parts[1]
    target.write_text("precious")
    os.symlink(target, parts[0])  # or what a killed run left
    TextFiles("/one.csv").write({str(path): "new"})
    assert (path.read_text(), target.read_text()) == ("new", "precious")
    assert sorted(os.listdir(tmp_path)) == ["a_ocr.txt", "precious"]


def test_a_text_that_cannot_be_written_does_not_keep_the_others_from_it(tmp_path: Path) -> None:
    (tmp_path / "folder_ocr.txt").mkdir()
    longest, too_long = (str(tmp_path / ("x" * size + "_ocr.txt")) for size in (247, 251))
    texts = {str(tmp_path / "folder_ocr.txt"): "a", too_long: "b", longest: "c"}
    failed = TextFiles("/r.csv").write(texts)
    assert set(failed) == {str(tmp_path / "folder_ocr.txt"), too_long}
    assert "folder_ocr.txt" in failed[str(tmp_path / "folder_ocr.txt")].message
    assert sorted(os.listdir(tmp_path)) == ["folder_ocr.txt", os.path.basename(longest)]


def test_a_full_disk_is_an_error_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DiskFullError, match="is full"):
        TextFiles("/r.csv").write({str(tmp_path / "a_ocr.txt"): "text"})
    assert os.listdir(tmp_path) == []
