"""Folders become documents: which ones, in what order, under what names."""

import inspect
import os
import sys
import time
import tracemalloc
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlx_chandra.documents.discover import Folder
from mlx_chandra.errors import UsageError

MAC = sys.platform == "darwin"  # its file systems take names in UTF-8 only


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def found(root: Path) -> list[str]:
    return [os.path.relpath(page.path, root) for page in Folder.at(str(root))]


def test_all_formats_are_found_in_any_letter_case_and_nothing_else(tmp_path: Path) -> None:
    wanted = ["a.png", "b.JPG", "c.Jpeg", "d.tif", "e.TIFF", "f.bmp", "g.WebP", "h.PDF", "i.gif"]
    wanted += ["j.HEIC", "k.heif", "l.avif"]
    touch(*(tmp_path / name for name in [*wanted, "m.txt", "png", "n.png.txt", ".png", "o.pdf.part"]))
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


def test_texts_of_a_documents_pages_meet_no_other_documents_text(tmp_path: Path) -> None:
    names = ["a.pdf", "a_p0003.png", "b.pdf", "b.png", "b.pdf_p0001.png", "c_p0001.png", "d_p12.tif", "d.tif"]
    touch(*(tmp_path / name for name in names))
    stems = {os.path.basename(d.path): d.text_stem for d in Folder.at(str(tmp_path))}
    assert stems == {
        "a.pdf": "a", "a_p0003.png": "a_p0003.png", "b.pdf": "b.pdf", "b.png": "b.png",
        "b.pdf_p0001.png": "b.pdf_p0001.png", "c_p0001.png": "c_p0001", "d_p12.tif": "d_p12", "d.tif": "d",
    }  # fmt: skip


def test_below_is_the_folder_seen_from_the_top(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "x" / "y" / "b.png")
    assert [page.below for page in Folder.at(str(tmp_path))] == ["", "x/y"]


def test_a_huge_folder_starts_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "scandir", lambda path: _huge_folder(100_000))
    began = time.monotonic()
    first = next(iter(Folder.at(str(tmp_path))))
    assert os.path.basename(first.path) == "page-0000000.png"
    assert time.monotonic() - began < 3.0


def test_a_huge_folder_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "scandir", lambda path: _huge_folder(10_000))
    tracemalloc.start()
    try:
        assert sum(1 for _ in Folder.at(str(tmp_path))) == 10_000
        memory = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert memory < 10_000 * 800  # bytes at the peak, when stems are compared


def _huge_folder(count: int) -> AbstractContextManager[object]:
    """Return what os.scandir gives for a folder of so many pictures."""
    names = (f"page-{number:07}.png" for number in reversed(range(count)))
    no = lambda: False  # noqa: E731
    return nullcontext(SimpleNamespace(name=name, is_dir=no, is_symlink=no) for name in names)
