"""Text files are whole or not there, stand where they are expected, and a bad place is no end of the run."""

import errno
import os
from pathlib import Path

import pytest

from mlx_chandra.errors import DiskFullError
from mlx_chandra.outputs.writers import TextFiles, text_path


def test_a_text_stands_beside_its_image_or_in_the_same_tree_elsewhere() -> None:
    assert text_path("/in/x/a.png", "a", "x", None) == "/in/x/a_ocr.txt"
    assert text_path("/in/x/a.png", "a.png", "x", None) == "/in/x/a.png_ocr.txt"
    assert text_path("/in/x/a.png", "a", "x", "/out") == "/out/x/a_ocr.txt"
    assert text_path("/in/a.png", "a", "", "/out") == "/out/a_ocr.txt"


def test_texts_are_written_as_they_are_and_nothing_else_is_left(tmp_path: Path) -> None:
    texts = {str(tmp_path / "new" / "a_ocr.txt"): "one\r\ntwo\n ü\0", str(tmp_path / "b_ocr.txt"): "b"}
    assert TextFiles("/r.csv").write(texts) == {}
    assert (tmp_path / "new" / "a_ocr.txt").read_bytes() == "one\r\ntwo\n ü\ufffd".encode()
    assert sorted(os.listdir(tmp_path)) == ["b_ocr.txt", "new"]


def test_an_older_text_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a_ocr.txt"
    path.write_text("a much longer older text")
    TextFiles("/r.csv").write({str(path): "new"})
    assert path.read_text() == "new"


def test_what_a_killed_run_left_is_used_up_by_its_continuation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a_ocr.txt"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            TextFiles("/r.csv").write({str(path): "text"})
    assert len(os.listdir(tmp_path)) == 1
    assert not path.exists()
    TextFiles("/r.csv").write({str(path): "text"})
    assert os.listdir(tmp_path) == ["a_ocr.txt"]


def test_two_runs_with_different_tables_do_not_meet_in_the_hidden_file(tmp_path: Path) -> None:
    seen: list[str] = []
    replace = os.replace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", lambda part, path: (seen.append(part), replace(part, path)))
        for table in ("/one.csv", "/two.csv"):
            TextFiles(table).write({str(tmp_path / "a_ocr.txt"): "text"})
    assert seen[0] != seen[1]


def test_a_text_that_cannot_be_written_does_not_keep_the_others_from_it(tmp_path: Path) -> None:
    (tmp_path / "folder_ocr.txt").mkdir()
    long_name = str(tmp_path / ("x" * 251 + "_ocr.txt"))
    texts = {str(tmp_path / "folder_ocr.txt"): "a", long_name: "b", str(tmp_path / "good_ocr.txt"): "c"}
    failed = TextFiles("/r.csv").write(texts)
    assert set(failed) == {str(tmp_path / "folder_ocr.txt"), long_name}
    assert "folder_ocr.txt" in failed[str(tmp_path / "folder_ocr.txt")].message
    assert sorted(os.listdir(tmp_path)) == ["folder_ocr.txt", "good_ocr.txt"]


def test_a_name_as_long_as_the_system_takes_is_fine(tmp_path: Path) -> None:
    path = str(tmp_path / ("x" * 247 + "_ocr.txt"))
    assert TextFiles("/r.csv").write({path: "text"}) == {}


def test_a_full_disk_is_an_error_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DiskFullError, match="is full"):
        TextFiles("/r.csv").write({str(tmp_path / "a_ocr.txt"): "text"})
    assert os.listdir(tmp_path) == []
