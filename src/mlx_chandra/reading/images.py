"""Opens the images of a Python call as pages: paths, PIL images and arrays, each as its file would be."""

import os

import numpy as np
from PIL.Image import Image, fromarray

from mlx_chandra.documents.image_files import open_page, open_regular, page_of, page_shape, upright_shape
from mlx_chandra.documents.pdf import is_pdf
from mlx_chandra.errors import PageError

Picture = str | os.PathLike[str] | Image | np.ndarray
Shape = tuple[int, int]  # height, width


def name_of(image: Picture) -> str:
    """Return a name for the image. One object has one name, so that no two threads decode it at a time."""
    if isinstance(image, str | os.PathLike):
        return os.fsdecode(image)
    return f"{type(image).__name__} at {id(image):#x}"


def shape_of(image: Picture) -> Shape:
    """Return the height and width of an image as it stands upright; (0, 0) where it can't be read."""
    if isinstance(image, Image):
        return upright_shape(image)
    if isinstance(image, np.ndarray):
        return (image.shape[0], image.shape[1]) if image.ndim in (2, 3) else (0, 0)
    try:
        return page_shape(image) if isinstance(image, str | os.PathLike) else (0, 0)
    except PageError:
        return 0, 0


def open_image(image: object) -> Image:
    """Open any kind of image as an upright RGB page. Raises PageError."""
    if isinstance(image, Image):
        return page_of(image)
    if isinstance(image, np.ndarray):
        return page_of(_from_array(image))
    if not isinstance(image, str | os.PathLike):
        what = f"{type(image).__name__} is no image: give a path, a PIL image or an array"
        raise PageError("unreadable", what)
    name = os.fsdecode(image)
    if name.startswith(("http://", "https://")):
        raise PageError("missing", "it is a URL: download it, and give the file's path")
    with open_regular(name) as file:
        if is_pdf(file.read(1024)):
            what = "it is a PDF: read_pages and the command line read these, batch_generate reads pictures"
            raise PageError("unreadable", what)
    return open_page(name)


def _from_array(array: np.ndarray) -> Image:
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        what = f"an array must be uint8 [height, width] or [height, width, 3 or 4], and not {array.dtype} "
        raise PageError("unreadable", what + str(list(array.shape)))
    return fromarray(array)
