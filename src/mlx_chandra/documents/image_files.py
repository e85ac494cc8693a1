"""Opens one image file as an upright RGB picture, or says why it can't be read.

The picture keeps its size; `processing` scales it. Of a file with several frames the first one is read;
`frames.py` reads the others of a TIFF or GIF.
"""

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from typing import TYPE_CHECKING, BinaryIO

from mlx_chandra.errors import PageError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

MAX_PIXELS = 178_956_970
"""The most pixels a picture may declare: an A0 sheet at 300 dpi passes (139 million), and one page stays
below half a gigabyte in memory. Pillow itself refuses anything above it (twice its warning limit)."""

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "AVIF", "HEIF")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_NOT_FILES = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))
_ORIENTATION = 0x0112
_TURNS: dict[int | None, str] = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_PLUGINS_LOADING = threading.Lock()
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262


def open_page(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> "Image":
    """Return the picture in a file in mode RGB, turned upright as its EXIF says, transparent parts white.

    Args:
        path: A PNG, JPEG, TIFF, GIF, BMP, WebP, HEIC or AVIF file; its content decides, not its name.
        max_pixels: Larger pictures are refused before they are decoded.

    Raises:
        PageError: `missing`, `unreadable` (also for a file that breaks off: half a page is never returned) or
            `too-large`.
    """
    with open_regular(path) as file, trouble():
        return page_of(identified(file, max_pixels), max_pixels)


def page_of(image: "Image", max_pixels: int = MAX_PIXELS) -> "Image":
    """Return a picture that is open already as `open_page` would its file. Raises PageError likewise."""
    check_size(image, max_pixels)
    with trouble():
        image.load()
        return to_page(image)


def page_shape(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return height and width of the picture in a file as it stands upright, from its header.

    Raises PageError as `open_page`, but for what shows only when the picture is decoded.
    """
    with open_regular(path) as file, trouble():
        return upright_shape(identified(file, max_pixels))


def upright_shape(image: "Image") -> tuple[int, int]:
    """Return height and width that the picture will have when it is turned as its EXIF says."""
    sideways = _orientation(image) in (5, 6, 7, 8)  # EXIF orientations that swap the sides
    return (image.width, image.height) if sideways else (image.height, image.width)


@contextmanager
def trouble() -> Iterator[None]:
    """Turn whatever a broken file makes Pillow raise into a PageError."""
    try:
        yield
    except PageError:
        raise
    except MemoryError as error:
        raise PageError("too-large", "there is not enough memory to decode it") from error
    except Exception as error:  # Pillow's plugins raise almost anything on a broken file
        if type(error).__name__ == "DecompressionBombError":  # for a frame that isn't the first
            raise too_large("it has too many pixels") from error
        reason = str(error) or type(error).__name__
        raise PageError("unreadable", f"the picture is damaged: {reason}") from error


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a regular file; never wait on a pipe. Raises PageError."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise PageError("missing", "there is no such file") from error
    except PermissionError as error:
        raise PageError("unreadable", "this user may not read the file") from error
    except OSError as error:
        raise PageError("unreadable", f"the file can't be opened: {error.strerror}") from error
    facts = os.fstat(number)
    trouble = ""
    if not stat.S_ISREG(facts.st_mode):
        trouble = "it is " + next((name for test, name in _NOT_FILES if test(facts.st_mode)), "a device")
    elif facts.st_size == 0:
        trouble = "the file is empty"
    if trouble:
        os.close(number)
        raise PageError("unreadable", trouble)
    return os.fdopen(number, "rb")


def identified(file: BinaryIO, max_pixels: int) -> "Image":
    """Return the picture with its header read, not decoded. Raises PageError, and whatever Pillow raises."""
    from PIL import Image, UnidentifiedImageError

    start = file.read(12)
    file.seek(0)
    with _PLUGINS_LOADING:  # Pillow loads its plugins at the first use, and not safely from several threads
        Image.init()
        if start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS and "HEIF" not in Image.OPEN:
            _load_heif_plugin()
        formats = [name for name in _FORMATS if name in Image.OPEN]
    try:
        image = Image.open(file, formats=formats)
    except UnidentifiedImageError as error:
        raise PageError("unreadable", _unidentified(start)) from error
    except Image.DecompressionBombError as error:
        raise too_large(f"it has more than {max_pixels:,} pixels") from error
    check_size(image, max_pixels)
    return image


def check_size(image: "Image", max_pixels: int) -> None:
    """Raise PageError for a picture or frame that declares too many pixels."""
    width, height = image.size
    if width * height > max_pixels:
        raise too_large(f"it is {width:,} x {height:,}, more than {max_pixels:,} pixels")


def too_large(what: str) -> PageError:
    """Return the error of a page that would take too much memory."""
    return PageError("too-large", f"{what}; --max-pixels allows more")


def allow_pixels(max_pixels: int) -> None:
    """Lift Pillow's own limit, for the whole process, where it is below this one."""
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = (max_pixels + 1) // 2


def to_page(image: "Image") -> "Image":
    """Return a decoded picture as a page: in mode RGB, upright, white where it is transparent."""
    from PIL.Image import Transpose

    # ImageOps.exif_transpose would write the rest of the EXIF anew, which raises for some damaged EXIF.
    page, turn = _rgb(image), _TURNS.get(_orientation(image))
    return page.transpose(Transpose[turn]) if turn else page


def _load_heif_plugin() -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        message = "HEIC pictures need the extra heif: pip install pillow-heif"
        raise PageError("unreadable", message) from error
    register_heif_opener()


def _unidentified(start: bytes) -> str:
    if start.startswith(b"%PDF-"):
        return "it is a PDF, and its name doesn't end in .pdf"
    if start[4:12] in (b"ftypavif", b"ftypavis"):
        from PIL import features

        if not features.check("avif"):
            return "this build of Pillow reads no AVIF: pip install --upgrade pillow"
    return "it is neither a PDF nor a picture in PNG, JPEG, TIFF, GIF, BMP, WebP, HEIC or AVIF"


def _orientation(image: "Image") -> int | None:
    try:
        found = image.getexif().get(_ORIENTATION)
    except Exception:  # the page can be read without its EXIF
        return None
    return found if isinstance(found, int) else None


def _rgb(image: "Image") -> "Image":
    if image.mode == "LAB":
        return image.getchannel("L").convert("RGB")  # lightness is enough to read by
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _on_white(image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: "Image") -> "Image":
    from PIL import Image

    page = Image.new("RGB", image.size, "white")
    page.paste(image, mask=image.getchannel("A"))
    return page


def _eight_bits(image: "Image") -> "Image":
    """Scale greyscale of 16 or 32 bits or floats to 8 bits: white stays white."""
    import numpy as np
    from PIL import Image

    grey = np.asarray(image).astype(np.float64)  # [height, width]
    tags: dict[int, object] = dict(getattr(image, "tag_v2", {}))
    if image.mode.startswith("I;16"):
        bits = tags.get(_BITS_PER_SAMPLE)
        grey = grey / (4095.0 if bits in (12, (12,)) else 65535.0)
    else:
        grey = _to_unit(grey)
    if tags.get(_PHOTOMETRIC) == 0:  # TIFF's "white is zero", which Pillow applies to 8 bits and less only
        grey = 1.0 - grey
    eight = np.rint(grey.clip(0.0, 1.0) * 255.0).astype(np.uint8)
    return Image.fromarray(eight).convert("RGB")


def _to_unit(
    grey: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]",
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """Map values of unknown range to 0-1, from the smallest usual range that holds them or else their own."""
    import numpy as np

    grey = np.nan_to_num(grey, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(grey.min()), float(grey.max())
    if low >= 0.0:
        usual = next((top for top in (1.0, 255.0, 65535.0) if high <= top), None)
        if usual is not None:
            return grey / usual
    return (grey - low) / (high - low) if high > low else np.ones_like(grey)
