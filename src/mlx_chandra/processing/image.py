"""Cuts a page picture into the patches that Qwen's vision tower takes.

The numbers agree with transformers' Qwen2VLImageProcessorPil (Qwen3-VL and Qwen3.5 use the same one): the
same grid, and pixel values within 1e-6. Pictures come upright and in colour from `documents`.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mlx_chandra.errors import CheckpointError, PageError
from mlx_chandra.files.json_file import JsonFile

if TYPE_CHECKING:
    from PIL import Image

CHANNELS = 3
MAX_ASPECT_RATIO = 200  # Qwen's own limit
BICUBIC = 3  # PIL's number for it, which is what the checkpoints' files hold


@dataclass(frozen=True)
class ImageSettings:
    """How a checkpoint's pictures are prepared: sizes in pixels, mean and std of the 0-1 range by channel."""

    min_pixels: int
    max_pixels: int
    patch_size: int = 16
    temporal_patch_size: int = 2
    merge_size: int = 2
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    rescale: float = 1 / 255

    @classmethod
    def from_folder(cls, folder: Path) -> "ImageSettings":
        """Read preprocessor_config.json, or the image part of transformers 5's processor_config.json.

        Raises CheckpointError, also where the file asks for steps that this program doesn't do.
        """
        file = _settings_file(folder)
        for step in ("do_resize", "do_rescale", "do_normalize"):
            if file.get(step) is False:
                raise file.wrong(step, "true, because pictures are always prepared in full here")
        if file.get("resample", BICUBIC) != BICUBIC:
            raise file.wrong("resample", f"{BICUBIC} (bicubic)")
        min_pixels, max_pixels = _pixel_bounds(file)
        red, green, blue = file.numbers("image_mean", CHANNELS)
        red_std, green_std, blue_std = file.numbers("image_std", CHANNELS)
        if not all((red_std, green_std, blue_std)):
            raise file.wrong("image_std", "without a zero")
        return cls(
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            patch_size=file.count("patch_size"),
            temporal_patch_size=file.count("temporal_patch_size"),
            merge_size=file.count("merge_size"),
            mean=(red, green, blue),
            std=(red_std, green_std, blue_std),
            rescale=file.number("rescale_factor", 1 / 255),
        )


def _settings_file(folder: Path) -> JsonFile:
    processor = JsonFile.read(folder / "processor_config.json", {})
    if processor.get("image_processor") is not None:
        return processor.section("image_processor")
    return JsonFile.read(folder / "preprocessor_config.json")


def _pixel_bounds(file: JsonFile) -> tuple[int, int]:
    """Return the smallest and largest area; min_pixels and max_pixels win over `size`, as in transformers."""
    size = file if file.get("size") is None else file.section("size")
    lowest = size.count("shortest_edge") if file.get("min_pixels") is None else file.count("min_pixels")
    highest = size.count("longest_edge") if file.get("max_pixels") is None else file.count("max_pixels")
    if lowest > highest:
        raise CheckpointError(f"{file.path}: the smallest area ({lowest}) is above the largest ({highest}).")
    return lowest, highest


@dataclass(frozen=True)
class Grid:
    """The size of a picture in patches: frames (always 1 here), rows, columns."""

    t: int
    h: int
    w: int

    @property
    def patches(self) -> int:
        return self.t * self.h * self.w


@dataclass(frozen=True)
class PatchedImage:
    """A picture cut into patches, in the order in which the vision tower merges them.

    Its numbers stay bytes until they are on the device: normalised and with every frame written out they
    would take eight times as much to hold and to copy.

    Attributes:
        pixels: uint8 [grid.patches, channels * patch_size * patch_size].
        scale, shift: float32 [channels]; a pixel's normalised value is pixel * scale + shift.
        frames: A still picture stands for so many, all the same.
        grid: Patches in time, height and width.
    """

    pixels: npt.NDArray[np.uint8]
    scale: npt.NDArray[np.float32]
    shift: npt.NDArray[np.float32]
    frames: int
    grid: Grid

    @property
    def patches(self) -> npt.NDArray[np.float32]:
        """Return normalised values as transformers' processor gives them.

        float32 [grid.patches, channels * frames * patch_size * patch_size].
        """
        values = self.pixels.reshape(self.grid.patches, len(self.scale), 1, -1).astype(np.float32)
        values *= self.scale[:, None, None]
        values += self.shift[:, None, None]
        return np.repeat(values, self.frames, axis=2).reshape(self.grid.patches, -1)


def target_size(height: int, width: int, settings: ImageSettings) -> tuple[int, int]:
    """Return the size in pixels (height, width) that a picture is resized to.

    Both sides become multiples of patch_size * merge_size, the area comes between min_pixels and max_pixels,
    the proportions stay as near as that allows. Same as `smart_resize` in transformers' qwen2_vl.

    Raises:
        PageError: kind "shape", for an empty picture or one side more than 200 times the other.
    """
    if height < 1 or width < 1:
        raise PageError("shape", f"The picture is {width}x{height} pixels: there is nothing to read.")
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise PageError(
            "shape",
            f"The picture is {width}x{height} pixels: one side is more than {MAX_ASPECT_RATIO} times the "
            "other, which the model can't take.",
            "Cut it into shorter pages.",
        )
    multiple = settings.patch_size * settings.merge_size
    rows, columns = round(height / multiple), round(width / multiple)
    if rows * columns * multiple**2 > settings.max_pixels:
        shrink = math.sqrt(height * width / settings.max_pixels)
        rows = max(1, math.floor(height / shrink / multiple))
        columns = max(1, math.floor(width / shrink / multiple))
    elif rows * columns * multiple**2 < settings.min_pixels:
        grow = math.sqrt(settings.min_pixels / (height * width))
        rows = math.ceil(height * grow / multiple)
        columns = math.ceil(width * grow / multiple)
    return rows * multiple, columns * multiple


def limit_size(image: "Image.Image", max_size: int) -> "Image.Image":
    """Bring the longest side down to `max_size` pixels, never up, in one bicubic pass of PIL's."""
    height, width = limited(image.height, image.width, max_size)
    if (width, height) == image.size:
        return image
    return image.resize((width, height), resample=BICUBIC, reducing_gap=None)


def limited(height: int, width: int, max_size: int) -> tuple[int, int]:
    """Return height and width with the longest side brought down to `max_size`, as `limit_size` does it."""
    longest = max(height, width)
    if longest <= max_size:
        return height, width
    return max(1, round(height * max_size / longest)), max(1, round(width * max_size / longest))


def target_grid(shape: tuple[int, int], settings: ImageSettings, max_size: int | None = None) -> Grid:
    """Return the patches of a picture of this height and width. Raises PageError as `patch_image`."""
    height, width = shape
    # A shape that can't be taken is refused with the size that the user knows.
    target_size(height, width, settings)
    if max_size is not None:
        height, width = limited(height, width, max_size)
    height, width = target_size(height, width, settings)
    return Grid(1, height // settings.patch_size, width // settings.patch_size)


def patch_image(image: "Image.Image", settings: ImageSettings, max_size: int | None = None) -> PatchedImage:
    """Resize a picture by the checkpoint's rule and cut it into patches; one that isn't RGB is converted.

    First brings the longest side down to `max_size` pixels, when given. Raises PageError as `target_size`.
    """
    if image.mode != "RGB":
        image = image.convert("RGB")
    grid = target_grid((image.height, image.width), settings, max_size)
    if max_size is not None:
        image = limit_size(image, max_size)
    width, height = grid.w * settings.patch_size, grid.h * settings.patch_size
    if image.size != (width, height):
        image = image.resize((width, height), resample=BICUBIC, reducing_gap=None)
    mean, std = np.array(settings.mean), np.array(settings.std)  # [3] float64: rounded once, at the end
    return PatchedImage(
        _patches(np.asarray(image), grid, settings),
        (settings.rescale / std).astype(np.float32),
        (-mean / std).astype(np.float32),
        settings.temporal_patch_size,
        grid,
    )


def _patches(pixels: npt.NDArray[np.uint8], grid: Grid, settings: ImageSettings) -> npt.NDArray[np.uint8]:
    """Cut pixels [H, W, 3] into patches [grid.patches, 3 * side * side].

    The order is `patchify`'s in transformers' qwen2_vl: within the whole picture, merge blocks row by row,
    then the patches of a block row by row; within a patch: channel, row, column.
    """
    merge, side = settings.merge_size, settings.patch_size
    blocks = pixels.reshape(grid.h // merge, merge, side, grid.w // merge, merge, side, CHANNELS)
    blocks = blocks.transpose(0, 3, 1, 4, 6, 2, 5)  # [rows, columns, merge, merge, channel, side, side]
    return blocks.reshape(grid.patches, -1)
