"""Whatever a picture file is like, it gives an upright RGB page or says why not."""

import os
import socket
import struct
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, features

from mlx_chandra.documents.image_files import open_page, page_shape
from mlx_chandra.errors import PageError


def marked(width: int = 60, height: int = 40) -> Image.Image:
    """White, with a black field in the top left corner: its place tells how the page was turned."""
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).rectangle((0, 0, width // 3, height // 4), fill="black")
    return image


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def assert_like(page: Image.Image, expected: Image.Image, tolerance: int = 0) -> None:
    assert page.mode == "RGB"
    assert page.size == expected.size
    difference = np.abs(np.asarray(page, dtype=int) - np.asarray(expected.convert("RGB"), dtype=int))
    assert difference.max() <= tolerance


def error_of(path: Path) -> PageError:
    with pytest.raises(PageError) as caught:
        open_page(path)
    return caught.value


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.jpg", "a.jpeg", "a.webp", "a.gif", "a.avif"])
def test_every_format_opens(tmp_path: Path, name: str) -> None:
    options = {"a.webp": {"lossless": True}}.get(name, {"quality": 95} if name[2] in "ja" else {})
    path = saved(marked(64, 64), tmp_path / name, **options)
    assert_like(open_page(path), marked(64, 64), tolerance=30 if name[2] in "ja" else 0)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_heic_picture_opens_upright(tmp_path: Path, orientation: int) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    image = marked(64, 48)
    stored = image.transpose(Image.Transpose.ROTATE_90) if orientation == 6 else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    heic = pillow_heif.from_pillow(stored)
    heic.save(tmp_path / "a.heic", quality=95, exif=exif.tobytes())
    assert (tmp_path / "a.heic").read_bytes()[4:8] == b"ftyp"
    assert_like(open_page(tmp_path / "a.heic"), image, tolerance=40)
    assert page_shape(tmp_path / "a.heic") == (48, 64)


def test_a_heic_picture_without_the_extra_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 100)
    error = error_of(tmp_path / "a.heic")
    assert error.kind == "unreadable"
    assert "the extra heif: pip install pillow-heif" in error.message


def test_an_avif_picture_where_pillow_cannot_read_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.avif").write_bytes(b"\0\0\0\x1cftypavif" + b"\0" * 100)
    monkeypatch.setattr(features, "check", lambda name: False)
    monkeypatch.delitem(Image.OPEN, "AVIF")
    assert "AVIF" in error_of(tmp_path / "a.avif").message
    assert "Pillow" in error_of(tmp_path / "a.avif").message


def test_a_pdf_with_a_pictures_name_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%PDF-1.7 and so on")
    assert error_of(tmp_path / "a.png").message == "it is a PDF, and its name doesn't end in .pdf"


def test_a_cameras_jpeg_with_several_pictures_opens(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    marked(64, 64).save(path, format="MPO", save_all=True, append_images=[marked(32, 32)], quality=95)
    assert_like(open_page(path), marked(64, 64), tolerance=30)


def test_the_content_decides_and_not_the_name(tmp_path: Path) -> None:
    path = saved(marked(), tmp_path / "really-a-png.jpg", format="PNG")
    assert_like(open_page(path), marked())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_a_page_stands_upright_whatever_its_exif_says(tmp_path: Path, name: str, orientation: int) -> None:
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    image = marked(64, 48)
    stored = image.transpose(turn[orientation]) if orientation > 1 else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    page = open_page(saved(stored, tmp_path / name, exif=exif))
    assert page.size == image.size
    assert page.getpixel((5, 3))[0] < 60
    assert min(page.getpixel((60, 3))[0], page.getpixel((5, 45))[0], page.getpixel((60, 45))[0]) > 200


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_keep_a_page_from_being_read(tmp_path: Path) -> None:
    path = saved(marked(), tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert_like(open_page(path), marked())


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    name = "a.tif" if mode in ("CMYK", "YCbCr") else "a.png"
    path = saved(marked().convert(mode), tmp_path / name)
    assert_like(open_page(path), marked(), tolerance=2)


def test_a_cmyk_jpeg_is_not_inverted(tmp_path: Path) -> None:
    path = saved(marked(64, 64).convert("CMYK"), tmp_path / "a.jpg", quality=95)
    assert_like(open_page(path), marked(64, 64), tolerance=40)


def test_lab_is_read_by_its_lightness(tmp_path: Path) -> None:
    lightness = marked().convert("L")
    grey = Image.new("L", lightness.size, 128)
    path = saved(Image.merge("LAB", (lightness, grey, grey)), tmp_path / "a.tif")
    assert_like(open_page(path), marked())


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (20, 10), (0,) * len(mode))
    assert_like(open_page(saved(image, tmp_path / "a.png")), Image.new("RGB", (20, 10), "white"))


def test_half_transparent_ink_is_half_grey(tmp_path: Path) -> None:
    image = Image.new("RGBA", (20, 10), (0, 0, 0, 128))
    assert open_page(saved(image, tmp_path / "a.png")).getpixel((3, 3)) == (127, 127, 127)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_is_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (20, 10), (0, 0, 0)).convert(mode)
    transparency: object = (0, 0, 0) if mode == "RGB" else 0
    path = saved(image, tmp_path / "a.png", transparency=transparency)
    assert_like(open_page(path), Image.new("RGB", (20, 10), "white"))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bit_grey_is_scaled_and_not_cut_off(tmp_path: Path, name: str) -> None:
    grey = np.linspace(0, 65535, 256).astype(np.uint16)[None, :].repeat(4, axis=0)  # [4, 256]
    path = saved(Image.fromarray(grey), tmp_path / name)
    expected = Image.fromarray(np.rint(grey / 257).astype(np.uint8))
    assert_like(open_page(path), expected)


def test_sixteen_bit_tiff_whose_zero_is_white_is_turned_over(tmp_path: Path) -> None:
    grey = np.full((4, 6), 65535, dtype=np.uint16)
    path = saved(Image.fromarray(grey), tmp_path / "a.tif", tiffinfo={262: 0})
    assert open_page(path).getpixel((1, 1)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 128, 255], [0, 128, 255]),
        ([0, 32896, 65535], [0, 128, 255]),
        ([-100000, 0, 100000], [0, 128, 255]),
    ],
)
def test_thirty_two_bit_grey_is_scaled_by_the_range_it_uses(
    tmp_path: Path, values: list[int], expected: list[int]
) -> None:
    path = saved(Image.fromarray(np.array([values], dtype=np.int32)), tmp_path / "a.tif")
    assert [open_page(path).getpixel((x, 0))[0] for x in range(3)] == expected


@pytest.mark.parametrize("values", [[0.0, 0.5, 1.0], [0.0, 127.5, 255.0], [np.nan, 32767.5, 65535.0]])
def test_floats_are_scaled_by_the_range_they_use(tmp_path: Path, values: list[float]) -> None:
    path = saved(Image.fromarray(np.array([values], dtype=np.float32)), tmp_path / "a.tif")
    assert [open_page(path).getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_odd_shapes_and_empty_pages_open(tmp_path: Path, size: tuple[int, int]) -> None:
    for colour in ("white", "black"):
        image = Image.new("RGB", size, colour)
        assert_like(open_page(saved(image, tmp_path / "a.png")), image)


def test_the_first_frame_of_several_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    marked().save(path, save_all=True, append_images=[Image.new("RGB", (10, 10), "red")])
    assert_like(open_page(path), marked())


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    assert error_of(tmp_path / "gone.png").kind == "missing"


def test_an_empty_file_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    error = error_of(tmp_path / "a.png")
    assert (error.kind, error.message) == ("unreadable", "the file is empty")


def test_text_named_png_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not a picture at all\n" * 100)
    assert error_of(tmp_path / "a.png").kind == "unreadable"


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.tif", "a.webp"])
@pytest.mark.parametrize("kept", [0.9, 0.5, 0.05])
def test_a_file_that_breaks_off_never_gives_half_a_page(tmp_path: Path, name: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 100, 3), dtype=np.uint8)
    path = saved(Image.fromarray(noise), tmp_path / name)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    assert error_of(path).kind == "unreadable"


def test_a_jpeg_without_its_end_is_unreadable(tmp_path: Path) -> None:
    path = saved(marked(200, 200), tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes()[:-20])
    assert error_of(path).kind == "unreadable"


def declared_png(width: int, height: int) -> bytes:
    """A PNG that says it is this large and has next to nothing in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 100)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("sides", [(60000, 60000), (14000, 13000)])
def test_a_png_that_declares_a_huge_page_is_refused_before_it_is_decoded(
    tmp_path: Path, sides: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(declared_png(*sides))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    error = error_of(tmp_path / "a.png")
    assert error.kind == "too-large"
    assert "pixels" in error.message


def test_the_limit_on_pixels_can_be_set(tmp_path: Path) -> None:
    path = saved(marked(60, 40), tmp_path / "a.png")
    assert open_page(path, max_pixels=2400).size == (60, 40)
    with pytest.raises(PageError, match="60 x 40"):
        open_page(path, max_pixels=2399)


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(marked(), tmp_path / "a.png")

    def refusing(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refusing)  # a test that runs as root may read everything
    error = error_of(path)
    assert (error.kind, error.message) == ("unreadable", "this user may not read the file")


def test_a_folder_a_pipe_and_a_socket_are_refused_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path may only be short
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        errors: list[PageError] = []
        names = ["folder.png", "pipe.png", "socket.png"]
        thread = threading.Thread(
            target=lambda: errors.extend(error_of(tmp_path / n) for n in names), daemon=True
        )
        thread.start()
        thread.join(10)
    assert [error.kind for error in errors] == ["unreadable"] * 3
    assert "folder" in errors[0].message
    assert "pipe" in errors[1].message


def test_no_file_stays_open(tmp_path: Path) -> None:
    good = saved(marked(), tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    (tmp_path / "c.png").write_bytes(b"")
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        open_page(good)
        for name in ("b.png", "c.png"):
            error_of(tmp_path / name)
    assert len(os.listdir("/dev/fd")) <= before
