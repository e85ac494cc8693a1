"""Folders and manifests become pages: which ones, in what order, under what names."""

import inspect
import os
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from mlx_chandra.documents.discover import Folder, Manifest, Page
from mlx_chandra.errors import UsageError

MAC = sys.platform == "darwin"  # its file systems take names in UTF-8 only


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def found(root: Path) -> list[str]:
    return [os.path.relpath(page.path, root) for page in Folder.at(str(root))]


def page_named(pages: list[Page], name: str) -> Page:
    return next(page for page in pages if os.path.basename(page.path) == name)


def test_all_formats_are_found_in_any_letter_case_and_nothing_else(tmp_path: Path) -> None:
    wanted = ["a.png", "b.JPG", "c.Jpeg", "d.tif", "e.TIFF", "f.bmp", "g.WebP"]
    touch(*(tmp_path / name for name in [*wanted, "h.pdf", "i.txt", "png", "j.png.txt", ".png"]))
    assert found(tmp_path) == wanted


def test_pages_come_in_the_order_of_their_paths_bytes(tmp_path: Path) -> None:
    names = [
        "a/b.png",
        "a-b.png",
        "a.png",
        "B.png",
        "ä.png",
        "a/b/c.png",
        "a/b-c.png",
        "z.png",
        "10.png",
        "9.png",
    ]
    touch(*(tmp_path / name for name in names))
    assert found(tmp_path) == sorted(names, key=os.fsencode)


def test_paths_are_full_even_when_the_folder_is_named_from_where_we_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "pages" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert [page.path for page in Folder.at("pages")] == [str(tmp_path / "pages" / "a.png")]


def test_a_folder_with_a_pictures_name_is_descended_into(tmp_path: Path) -> None:
    touch(tmp_path / "x.png" / "inside.png")
    assert found(tmp_path) == ["x.png/inside.png"]


def test_a_link_to_a_picture_of_the_tree_is_passed_over(tmp_path: Path) -> None:
    touch(tmp_path / "sub" / "real.png")
    (tmp_path / "a-link.png").symlink_to("sub/real.png")
    assert found(tmp_path) == ["sub/real.png"]


def test_what_lies_outside_the_tree_is_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "out" / "one.png", tmp_path / "out" / "deep" / "two.png", tmp_path / "in" / "own.png")
    inside = tmp_path / "in"
    (inside / "first.png").symlink_to(tmp_path / "out" / "one.png")
    (inside / "second.png").symlink_to(tmp_path / "out" / "one.png")
    (inside / "zfolder").symlink_to(tmp_path / "out")
    (inside / "zzagain").symlink_to(tmp_path / "out" / "deep")
    assert found(inside) == ["first.png", "own.png", "zfolder/deep/two.png"]


def test_a_link_to_a_file_of_the_tree_without_a_pictures_name_is_read(tmp_path: Path) -> None:
    touch(tmp_path / "scan.dat")
    (tmp_path / "scan.png").symlink_to("scan.dat")
    assert found(tmp_path) == ["scan.png"]


def test_link_loops_end(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    touch(inside / "a.png", inside / "sub" / "b.png", tmp_path / "beside.png")
    (inside / "sub" / "self").symlink_to(".")
    (inside / "sub" / "up").symlink_to("..")
    (inside / "sub" / "above").symlink_to(tmp_path)
    (inside / "round").symlink_to("round")
    assert found(inside) == ["a.png", "sub/b.png"]


def test_a_loop_that_lies_outside_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "out" / "a.png", tmp_path / "in" / "b.png")
    (tmp_path / "out" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "out" / "self").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "out").symlink_to(tmp_path / "out")
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (listed.append(path), scandir(path))[1])
    assert found(tmp_path / "in") == ["b.png", "out/a.png"]
    assert listed == [str(tmp_path / "in"), str(tmp_path / "in" / "out")]


def test_broken_and_circular_links_are_pages_with_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.png").symlink_to("gone.png")
    (tmp_path / "one.png").symlink_to("two.png")
    (tmp_path / "two.png").symlink_to("one.png")
    (tmp_path / "broken.txt").symlink_to("gone.txt")
    pages = list(Folder.at(str(tmp_path)))
    assert [os.path.basename(page.path) for page in pages] == ["broken.png", "one.png", "two.png"]
    assert [page.error.kind for page in pages if page.error] == ["broken-link"] * 3
    assert pages[0].error is not None
    assert "gone.png" in pages[0].error.message


def test_a_folder_that_cannot_be_listed_is_a_page_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "a.png", tmp_path / "closed" / "b.png", tmp_path / "z.png")
    scandir = os.scandir

    def refusing(path: str) -> object:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    pages = list(Folder.at(str(tmp_path)))
    assert [os.path.basename(page.path) for page in pages] == ["a.png", "closed", "z.png"]
    assert pages[1].error is not None
    assert "Permission denied" in pages[1].error.message


def test_odd_names_are_found(tmp_path: Path) -> None:
    not_utf8 = [] if MAC else [b"bytes\xff\xfe.png"]
    names = [
        b"two words.png",
        b"line\nbreak.png",
        "\N{CAT FACE}.png".encode(),
        *not_utf8,
        b'q"uo,te.png',
    ]
    for name in names:
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(b"x")
    assert [os.fsencode(name) for name in found(tmp_path)] == sorted(names)


def test_mac_shadow_files_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "._a.png")
    assert found(tmp_path) == ["a.png"]


def test_a_very_deep_folder_is_walked(tmp_path: Path) -> None:
    touch(tmp_path.joinpath(*["d"] * 200) / "a.png")
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        count = len(found(tmp_path))
    finally:
        sys.setrecursionlimit(before)
    assert count == 1


def test_a_missing_folder_and_a_file_in_its_place_are_wrong_usage(tmp_path: Path) -> None:
    touch(tmp_path / "a.png")
    with pytest.raises(UsageError, match="no folder"):
        Folder.at(str(tmp_path / "gone"))
    with pytest.raises(UsageError, match="is a file"):
        Folder.at(str(tmp_path / "a.png"))


def test_texts_of_pictures_that_share_a_stem_keep_the_extension(tmp_path: Path) -> None:
    touch(
        *(tmp_path / name for name in ["a.png", "a.jpg", "b.png", "C.png", "c.TIF"]),
        tmp_path / "sub" / "b.png",
    )
    stems = {os.path.relpath(p.path, tmp_path): p.text_stem for p in Folder.at(str(tmp_path))}
    assert stems == {
        "a.png": "a.png", "a.jpg": "a.jpg", "b.png": "b", "C.png": "C.png", "c.TIF": "c.TIF",
        "sub/b.png": "b",
    }  # fmt: skip


def test_a_stem_that_looks_like_a_kept_extension_stays_apart(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ["a.png", "a.jpg", "a.png.tif", "a.png.tif.bmp"]))
    stems = [page.text_stem for page in Folder.at(str(tmp_path))]
    assert len(set(stems)) == 4


def test_below_is_the_folder_seen_from_the_top(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "x" / "y" / "b.png")
    assert [page.below for page in Folder.at(str(tmp_path))] == ["", "x/y"]


def test_a_huge_folder_starts_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "scandir", lambda path: _HugeFolder(100_000))
    began = time.monotonic()
    first = next(iter(Folder.at(str(tmp_path))))
    assert os.path.basename(first.path) == "page-0000000.png"
    assert time.monotonic() - began < 3.0


def test_a_huge_folder_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "scandir", lambda path: _HugeFolder(10_000))
    tracemalloc.start()
    try:
        assert sum(1 for _ in Folder.at(str(tmp_path))) == 10_000
        memory = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert memory < 10_000 * 800  # bytes at the peak, when stems are compared


class _HugeFolder:
    """What os.scandir gives for a folder of so many pictures."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __enter__(self) -> "_HugeFolder":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> "object":
        return (_Entry(f"page-{number:07}.png") for number in reversed(range(self._count)))


class _Entry:
    def __init__(self, name: str) -> None:
        self.name = name

    def is_dir(self) -> bool:
        return False

    def is_symlink(self) -> bool:
        return False


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
