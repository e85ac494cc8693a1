"""Our image processing against transformers' Qwen2VLImageProcessorPil: sizes, grids, tokens, pixel values."""

from pathlib import Path

import numpy as np
import pytest

from mlx_chandra.errors import PageError
from mlx_chandra.processing.image import ImageSettings, limit_size, patch_image, target_size
from tests.parity.cases import (
    IMAGE_PROCESSOR_CASES,
    IMAGE_SIZES,
    MAX_PIXELS,
    MIN_PIXELS,
    PIXEL_TOLERANCE,
    TARGET_SIZE_BOUNDS,
    page_image,
)
from tests.processing_files import write_processing_files

qwen2_vl = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")

pytestmark = pytest.mark.parity
CASES = (
    *IMAGE_PROCESSOR_CASES,
    *((height, width, None) for height, width in IMAGE_SIZES),
    (1700, 1300, 1024),
)


@pytest.mark.parametrize(("height", "width", "max_size"), CASES)
def test_grid_tokens_and_pixel_values_agree(
    tmp_path: Path, height: int, width: int, max_size: int | None
) -> None:
    write_processing_files(tmp_path, MIN_PIXELS, MAX_PIXELS)
    processor = qwen2_vl.Qwen2VLImageProcessorPil.from_pretrained(tmp_path)
    picture = page_image(height, width)
    ours = patch_image(picture, ImageSettings.from_folder(tmp_path), max_size)
    limited = picture if max_size is None else limit_size(picture, max_size)
    theirs = processor(limited, return_tensors="np")
    assert (ours.grid.t, ours.grid.h, ours.grid.w) == tuple(theirs["image_grid_thw"][0])
    assert processor.get_number_of_image_patches(limited.height, limited.width) == ours.grid.patches
    np.testing.assert_allclose(ours.patches, theirs["pixel_values"], rtol=0, atol=PIXEL_TOLERANCE)


@pytest.mark.parametrize("bounds", TARGET_SIZE_BOUNDS)
def test_five_thousand_sizes_are_resized_by_the_same_rule(bounds: tuple[int, int]) -> None:
    low, high = bounds
    settings = ImageSettings(low, high)
    source = np.random.Generator(np.random.PCG64(low))
    tops = source.choice([60, 400, 3000, 12_000], (5000, 2))
    for height, width in (source.integers(1, tops)).tolist():
        try:
            theirs = qwen2_vl.smart_resize(height, width, factor=32, min_pixels=low, max_pixels=high)
        except ValueError:
            with pytest.raises(PageError):
                target_size(height, width, settings)
        else:
            assert target_size(height, width, settings) == theirs, (height, width)
