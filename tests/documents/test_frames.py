"""Image files with several pages: how many, and each as upright and white as a picture by itself."""

import io
import os
import struct
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import AppendingTiffWriter

from mlx_chandra.documents.frames import FrameFile, tiff_pages
from mlx_chandra.documents.image_files import MAX_PIXELS, open_page, open_regular
from mlx_chandra.errors import PageError
from tests.documents.test_image_files import assert_like, marked

COLOURS = ["red", "lime", "blue", "white", "black"]


def frames(count: int = 3, size: tuple[int, int] = (40, 30)) -> list[Image.Image]:
    return [Image.new("RGB", size, COLOURS[number % len(COLOURS)]) for number in range(count)]


def saved(path: Path, images: list[Image.Image], **options: object) -> Path:
    images[0].save(path, save_all=True, append_images=images[1:], **options)  # type: ignore[arg-type]
    return path


def page(path: Path, number: int, max_pixels: int = MAX_PIXELS) -> Image.Image:
    with closing(FrameFile(open_regular(path), max_pixels)) as opened:
        return opened.page(number)


def colours(path: Path, numbers: list[int]) -> list[object]:
    with closing(FrameFile(open_regular(path), MAX_PIXELS)) as opened:
        return [opened.page(number).getpixel((5, 5)) for number in numbers]


def tiff(directories: list[dict[int, int]], order: str = "<", big: bool = False) -> bytes:
    """A TIFF of directories with these tags (as LONG), and nothing that they speak of."""
    word = "Q" if big else "I"
    out = bytearray(b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    out += struct.pack(order + "HHQ", 8, 0, 16) if big else struct.pack(order + "I", 8)
    for place, tags in enumerate(directories):
        out += struct.pack(order + ("Q" if big else "H"), len(tags))
        for tag, value in tags.items():
            out += struct.pack(order + "HH" + word, tag, 4, 1) + struct.pack(order + "I", value)
            out += b"\0\0\0\0" if big else b""
        after = len(out) + (8 if big else 4)
        out += struct.pack(order + word, after if place + 1 < len(directories) else 0)
    return bytes(out)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_a_tiffs_frames_are_counted_in_all_its_variants(order: str, big: bool) -> None:
    assert tiff_pages(io.BytesIO(tiff([{256: 9}] * 5, order, big))) == [0, 1, 2, 3, 4]


def test_smaller_copies_and_masks_are_no_pages() -> None:
    kinds = [0, 1, 2, 4, 0]
    assert tiff_pages(io.BytesIO(tiff([{254: kind, 256: 9} for kind in kinds]))) == [0, 2, 4]
    assert tiff_pages(io.BytesIO(tiff([{254: 1, 256: 9}]))) == [0]


def test_a_tiff_whose_frames_go_in_a_circle_ends() -> None:
    content = bytearray(tiff([{256: 9}] * 3))
    content[-4:] = struct.pack("<I", 8)
    assert tiff_pages(io.BytesIO(bytes(content))) == [0, 1, 2]


def test_a_tiff_that_leads_out_of_the_file_counts_the_page_that_is_missing() -> None:
    content = tiff([{256: 9}] * 3)
    assert tiff_pages(io.BytesIO(content[:-10])) == [0, 1, 2]
    assert tiff_pages(io.BytesIO(content[:10])) == [0]
    assert tiff_pages(io.BytesIO(content[:6])) == []


@pytest.mark.parametrize("name", ["a.tif", "a.gif"])
def test_frames_are_read_in_any_order(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / name, frames(5))
    shown = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)]
    assert colours(path, [1, 2, 3, 4, 5]) == shown
    assert colours(path, [4, 1, 5, 2, 2]) == [shown[3], shown[0], shown[4], shown[1], shown[1]]


def test_a_page_stays_as_it_is_when_the_next_is_read(tmp_path: Path) -> None:
    for name in ("a.tif", "a.gif"):
        with closing(FrameFile(open_regular(saved(tmp_path / name, frames())), MAX_PIXELS)) as opened:
            pages = [opened.page(number) for number in (1, 2, 3)]
        assert [image.getpixel((5, 5)) for image in pages] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def test_a_gifs_frames_are_counted(tmp_path: Path) -> None:
    with closing(FrameFile(open_regular(saved(tmp_path / "a.gif", frames(4))), MAX_PIXELS)) as opened:
        assert opened.count() == 4


def test_frames_of_every_mode_become_rgb_as_single_pictures_do(tmp_path: Path) -> None:
    modes = ["1", "L", "P", "RGBA", "LA", "CMYK", "YCbCr"]
    images = [marked().convert(mode) for mode in modes]
    images.append(Image.fromarray((np.asarray(marked().convert("L")).astype(np.uint16)) * 257))
    images.append(Image.new("RGBA", (60, 40), (0, 0, 0, 0)))
    path = saved(tmp_path / "a.tif", images)
    for number in range(1, len(images)):
        assert_like(page(path, number), marked(), tolerance=2)
    assert_like(page(path, len(images)), Image.new("RGB", (60, 40), "white"))


def test_each_frame_is_turned_by_its_own_exif(tmp_path: Path) -> None:
    path, exif = tmp_path / "a.tif", Image.Exif()
    exif[0x0112] = 6
    with AppendingTiffWriter(path, new=True) as writer:
        marked(64, 48).save(writer, format="TIFF")
        writer.newFrame()
        marked(64, 48).transpose(Image.Transpose.ROTATE_90).save(writer, format="TIFF", exif=exif)
        writer.newFrame()
        marked(64, 48).save(writer, format="TIFF")
    for number in (1, 2, 3, 2):
        assert_like(page(path, number), marked(64, 48))


def test_frames_of_different_sizes_are_themselves(tmp_path: Path) -> None:
    images = [marked(60, 40), marked(20, 90), marked(90, 20)]
    path = saved(tmp_path / "a.tif", images)
    for number, image in enumerate(images, start=1):
        assert_like(page(path, number), image)


def test_a_transparent_gif_is_white_behind(tmp_path: Path) -> None:
    clear = Image.new("P", (20, 10), 0)
    clear.putpalette([0, 0, 0, 255, 0, 0])
    path = saved(tmp_path / "a.gif", [clear, clear], transparency=0, disposal=2)
    assert_like(open_page(path), Image.new("RGB", (20, 10), "white"))


def test_a_frame_that_is_too_large_is_refused_and_the_others_are_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", [marked(20, 10), marked(60, 40), marked(20, 10)])
    with closing(FrameFile(open_regular(path), 1000)) as opened:
        with pytest.raises(PageError, match="60 x 40") as caught:
            opened.page(2)
        assert caught.value.kind == "too-large"
        assert_like(opened.page(3), marked(20, 10))
        assert_like(opened.page(1), marked(20, 10))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_tiff_that_breaks_off_gives_the_pages_before_and_an_error_for_the_rest(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", [marked(), marked(), marked()])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with open(path, "rb") as file:
        assert tiff_pages(file) == [0, 1, 2]
    with closing(FrameFile(open_regular(path), MAX_PIXELS)) as opened:
        assert_like(opened.page(1), marked())
        for number in (2, 3, 2):
            with pytest.raises(PageError) as caught:
                opened.page(number)
            assert caught.value.kind == "unreadable"
        assert_like(opened.page(1), marked())


def test_no_file_stays_open(tmp_path: Path) -> None:
    (tmp_path / "bad.tif").write_bytes(b"II*\0")
    path = saved(tmp_path / "a.tif", frames())
    before = len(os.listdir("/dev/fd"))
    page(path, 2)
    with pytest.raises(PageError):
        page(tmp_path / "bad.tif", 1)
    assert len(os.listdir("/dev/fd")) <= before
