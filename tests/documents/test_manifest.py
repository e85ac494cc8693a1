"""Manifests become documents: which paths their lines mean, in what order, under what names."""

import io
import os
import threading
from pathlib import Path

import pytest

from mlx_chandra.documents.manifest import Manifest
from mlx_chandra.errors import UsageError
from tests.documents.test_discover import MAC, touch


def manifest_paths(file: Path, tree: bool = False) -> list[str]:
    return [page.path for page in Manifest.at(str(file), tree)]


def test_a_manifest_gives_its_paths_in_order_without_blank_lines_and_duplicates(tmp_path: Path) -> None:
    touch(tmp_path / "b.png", tmp_path / "a.png")
    lines = [
        "b.png",
        "",
        "   ",
        str(tmp_path / "a.png"),
        "./b.png",
        "gone.png",
        "sub/../a.png",
        "a.png",
        "gone.png",
    ]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    names = [os.path.basename(path) for path in manifest_paths(tmp_path / "list.txt")]
    assert names == ["b.png", "a.png", "gone.png"]


def test_a_manifests_paths_are_looked_up_from_its_folder_first_and_then_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists, here = tmp_path / "lists", tmp_path / "here"
    touch(lists / "both.png", here / "both.png", here / "only-here.png")
    (lists / "list.txt").write_text("both.png\nonly-here.png\nnowhere.png\n")
    monkeypatch.chdir(here)
    expected = [lists / "both.png", here / "only-here.png", lists / "nowhere.png"]
    assert manifest_paths(lists / "list.txt") == [str(path) for path in expected]


def test_a_manifest_may_have_a_mark_at_its_start_and_windows_line_ends(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "b.png")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.png\r\nb.png\r\n")
    assert manifest_paths(tmp_path / "list.txt") == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]


def test_a_manifests_names_keep_their_spaces_where_such_a_file_is(tmp_path: Path) -> None:
    touch(tmp_path / " a.png ", tmp_path / "b.png")
    (tmp_path / "list.txt").write_text(" a.png \n  b.png  \n")
    assert manifest_paths(tmp_path / "list.txt") == [str(tmp_path / " a.png "), str(tmp_path / "b.png")]


@pytest.mark.skipif(MAC, reason="file names are UTF-8 there")
def test_a_manifest_may_name_files_whose_bytes_are_not_utf8(tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    Path(odd).write_bytes(b"x")
    (tmp_path / "list.txt").write_bytes(b"\xff.png\n")
    assert manifest_paths(tmp_path / "list.txt") == [odd]


def test_dots_behind_a_link_are_folded_as_the_file_system_does(tmp_path: Path) -> None:
    touch(tmp_path / "far" / "a.png")
    (tmp_path / "far" / "sub").mkdir()
    (tmp_path / "link").symlink_to("far/sub")
    (tmp_path / "list.txt").write_text("link/../a.png\n")
    assert manifest_paths(tmp_path / "list.txt") == [str(tmp_path / "far" / "a.png")]


def test_a_manifests_tree_starts_at_the_folder_that_its_pages_share(tmp_path: Path) -> None:
    touch(tmp_path / "x" / "a.png", tmp_path / "x" / "y" / "b.png")
    (tmp_path / "list.txt").write_text("x/a.png\nx/y/b.png\n")
    pages = list(Manifest.at(str(tmp_path / "list.txt"), tree=True))
    assert [page.below for page in pages] == ["", "y"]


def test_a_text_is_named_alike_by_folder_and_by_manifest(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ["a.png", "a.jpg", "b.png", "c.scan"]))
    (tmp_path / "list.txt").write_text("a.png\nb.png\nc.scan\n")
    pages = list(Manifest.at(str(tmp_path / "list.txt")))
    assert [page.text_stem for page in pages] == ["a.png", "b", "c.scan"]


def test_a_manifest_that_is_missing_or_in_utf16_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.png\n", encoding="utf-16")
    with pytest.raises(UsageError, match="UTF-16"):
        Manifest.at(str(tmp_path / "list.txt"))
    with pytest.raises(UsageError, match="can't be read"):
        Manifest.at(str(tmp_path / "gone.txt"))


def test_a_manifest_on_standard_input_is_looked_up_from_here_and_can_be_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "a.png", tmp_path / "sub" / "b.pdf")
    monkeypatch.chdir(tmp_path)
    manifest = Manifest.from_stream(io.BytesIO(b"a.png\n\nsub/b.pdf\na.png\n"), tree=True)
    for _ in range(2):
        assert [document.path for document in manifest] == [
            str(tmp_path / "a.png"),
            str(tmp_path / "sub/b.pdf"),
        ]
        assert [document.below for document in manifest] == ["", "sub"]
    with pytest.raises(UsageError, match="standard input is in UTF-16"):
        Manifest.from_stream(io.BytesIO("a.png".encode("utf-16")))


def test_comments_are_skipped_and_a_path_in_front_names_a_file_that_begins_so(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# scans of May\na.png\n#b.png\n./#b.png\n #c.png\n")
    names = [os.path.basename(path) for path in manifest_paths(tmp_path / "list.txt")]
    assert names == ["a.png", "#b.png", " #c.png"]


def test_what_find_lists_with_nul_is_read_with_line_ends_in_names(tmp_path: Path) -> None:
    for end in (b"\0", b""):
        (tmp_path / "list.txt").write_bytes(b"./a.png\0./new\nline.png\0#b.png" + end)
        names = [os.path.basename(path) for path in manifest_paths(tmp_path / "list.txt")]
        assert names == ["a.png", "new\nline.png", "#b.png"]


def test_a_pipe_is_read_once_and_its_paths_are_looked_up_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ours, its = os.pipe()  # as a shell's <(...) gives one
    lines = "".join(f"{number}.png\n" for number in range(9000))  # more than a pipe holds
    writing = threading.Thread(target=lambda: os.fdopen(its, "w").write(lines))
    writing.start()
    manifest = Manifest.at(f"/dev/fd/{ours}", tree=True)
    os.close(ours)
    writing.join()
    for _ in range(2):
        paths = [document.path for document in manifest]
        assert (len(paths), paths[-1]) == (9000, str(tmp_path / "8999.png"))
