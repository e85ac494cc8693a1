"""Pictures to patches: Qwen's rule of sizes, the order of patches, the settings file, and its errors."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_chandra.errors import CheckpointError, PageError
from mlx_chandra.processing.image import (
    Grid,
    ImageSettings,
    PatchedImage,
    limit_size,
    patch_image,
    target_size,
)
from tests.parity.cases import (
    IMAGE_PROCESSOR_CASES,
    LEVEL,
    MAX_PIXELS,
    MIN_PIXELS,
    PIXEL_TOLERANCE,
    page_image,
)

REFERENCES = Path(__file__).parents[1] / "data" / "image_processor_references.npz"
SETTINGS = ImageSettings(MIN_PIXELS, MAX_PIXELS)
SMALL = ImageSettings(min_pixels=1024, max_pixels=1_048_576)
SETTINGS_FILE = {
    "size": {"shortest_edge": 1024, "longest_edge": 4096},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def test_target_sizes_are_those_of_transformers() -> None:
    with np.load(REFERENCES) as stored:
        rows = stored["target_sizes"].tolist()
    assert len(rows) > 500
    for height, width, low, high, *expected in rows:
        settings = ImageSettings(low, high)
        assert target_size(height, width, settings) == tuple(expected), (height, width, low, high)


@pytest.mark.parametrize(("height", "width", "max_size"), IMAGE_PROCESSOR_CASES)
def test_patches_are_those_of_transformers(height: int, width: int, max_size: int | None) -> None:
    ours = patch_image(page_image(height, width), SETTINGS, max_size)
    name = f"{height}x{width}-{max_size}"
    with np.load(REFERENCES) as stored:
        grid, means, some = (stored[f"{name}/{what}"] for what in ("grid", "means", "patches"))
    assert (ours.grid.t, ours.grid.h, ours.grid.w) == tuple(grid)
    count = ours.grid.patches
    difference = np.abs(ours.patches[[0, 1, 2, count // 2, -1]] - some)
    # Another machine's resizing may round some values to the next level of grey; nothing else may differ.
    assert difference.max() <= LEVEL + PIXEL_TOLERANCE
    assert (difference > PIXEL_TOLERANCE).mean() < 0.01
    np.testing.assert_allclose(ours.patches.reshape(count, 3, -1).mean(axis=(0, 2)), means, atol=1e-4)


def test_a_picture_of_the_right_size_is_cut_without_resampling_in_the_order_of_merge_blocks() -> None:
    pixels = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    ours = patch_image(Image.fromarray(pixels), SMALL)
    assert ours.grid == Grid(1, 4, 6)
    places = [
        (2 * row + r, 2 * column + c)
        for row in range(2)
        for column in range(3)
        for r in (0, 1)
        for c in (0, 1)
    ]
    for patch, (row, column) in zip(ours.patches.reshape(24, 3, 2, 16, 16), places, strict=True):
        square = pixels[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] / 127.5 - 1
        for frame in (0, 1):  # a still picture is doubled in time
            np.testing.assert_allclose(patch[:, frame], square.transpose(2, 0, 1), atol=PIXEL_TOLERANCE)


def test_mean_and_std_of_the_checkpoint_are_used_per_channel() -> None:
    settings = ImageSettings(1024, 4096, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0), rescale=1 / 255)
    patches = patch_image(Image.new("RGB", (32, 32), (255, 0, 51)), settings).patches.reshape(-1, 3, 512)
    for channel, expected in enumerate((1.8, -0.8, -0.1)):
        np.testing.assert_allclose(patches[:, channel], expected, atol=PIXEL_TOLERANCE)


def test_patches_are_contiguous_float32() -> None:
    patches = patch_image(page_image(70, 50), SMALL).patches
    assert patches.dtype == np.float32
    assert patches.flags.c_contiguous


@pytest.mark.parametrize("colour", [0, 255])
def test_all_black_and_all_white_pages_stay_so(colour: int) -> None:
    patches = patch_image(Image.new("RGB", (77, 55), (colour,) * 3), SMALL).patches
    np.testing.assert_allclose(patches, colour / 127.5 - 1, atol=PIXEL_TOLERANCE)


def test_one_pixel_becomes_the_smallest_page() -> None:
    ours = patch_image(Image.new("RGB", (1, 1), (255, 255, 255)), SETTINGS)
    assert ours.grid == Grid(1, 16, 16)
    np.testing.assert_allclose(ours.patches, 1, atol=PIXEL_TOLERANCE)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (201, 1)])
def test_a_page_more_than_200_times_as_long_as_wide_is_refused_by_its_size(size: tuple[int, int]) -> None:
    with pytest.raises(PageError, match=f"{size[0]}x{size[1]}") as caught:
        patch_image(Image.new("RGB", size), SETTINGS, max_size=100)
    assert caught.value.kind == "shape"
    assert caught.value.remedy


def test_a_page_exactly_200_times_as_long_as_wide_is_taken() -> None:
    assert patch_image(Image.new("RGB", (200, 1)), SMALL).grid.patches > 0


def test_an_empty_picture_is_refused() -> None:
    with pytest.raises(PageError, match="0x7"):
        target_size(7, 0, SETTINGS)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA"])
def test_other_colour_modes_are_converted(mode: str) -> None:
    picture = page_image(64, 64).convert(mode)
    expected = patch_image(picture.convert("RGB"), SMALL)
    np.testing.assert_array_equal(patch_image(picture, SMALL).patches, expected.patches)


@pytest.mark.parametrize(
    ("size", "limited"),
    [((800, 600), (400, 300)), ((600, 800), (300, 400)), ((400, 13), (400, 13)), ((9000, 1), (400, 1))],
)
def test_the_longest_side_comes_down_to_the_limit(size: tuple[int, int], limited: tuple[int, int]) -> None:
    assert limit_size(Image.new("RGB", size), 400).size == limited


def test_a_smaller_picture_is_not_touched_by_the_limit() -> None:
    picture = page_image(100, 80)
    assert limit_size(picture, 100) is picture


def test_max_size_is_the_same_as_limiting_the_picture_first() -> None:
    picture = page_image(300, 190)
    ours, first = patch_image(picture, SMALL, max_size=100), patch_image(limit_size(picture, 100), SMALL)
    _assert_same(ours, first)
    assert ours.grid == Grid(1, 6, 4)


def test_the_picture_given_is_left_as_it_was() -> None:
    picture = page_image(100, 80)
    before = picture.tobytes()
    patch_image(picture, SMALL, max_size=50)
    assert picture.tobytes() == before


def test_settings_are_read_from_both_forms_of_the_file(tmp_path: Path) -> None:
    _write(tmp_path, SETTINGS_FILE)
    new = ImageSettings.from_folder(tmp_path)
    old_file = {key: value for key, value in SETTINGS_FILE.items() if key != "size"}
    _write(tmp_path, {**old_file, "min_pixels": 1024, "max_pixels": 4096, "rescale_factor": 1 / 255})
    assert ImageSettings.from_folder(tmp_path) == new == ImageSettings(1024, 4096)


def test_pixel_bounds_of_the_old_form_win_over_size_as_in_transformers(tmp_path: Path) -> None:
    _write(tmp_path, {**SETTINGS_FILE, "min_pixels": 2048, "max_pixels": 8192})
    settings = ImageSettings.from_folder(tmp_path)
    assert (settings.min_pixels, settings.max_pixels) == (2048, 8192)


def test_settings_are_found_inside_processor_config(tmp_path: Path) -> None:
    _write(tmp_path, {"image_processor": SETTINGS_FILE}, "processor_config.json")
    assert ImageSettings.from_folder(tmp_path) == ImageSettings(1024, 4096)


def test_missing_settings_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json") as caught:
        ImageSettings.from_folder(tmp_path)
    assert caught.value.remedy


@pytest.mark.parametrize("key", sorted(SETTINGS_FILE))
def test_a_missing_key_is_named_with_its_file(tmp_path: Path, key: str) -> None:
    _write(tmp_path, {name: value for name, value in SETTINGS_FILE.items() if name != key})
    expected = "shortest_edge" if key == "size" else key
    with pytest.raises(CheckpointError, match=rf"preprocessor_config\.json.*{expected}.*missing"):
        ImageSettings.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("patch_size", "16"),
        ("merge_size", 0),
        ("temporal_patch_size", True),
        ("image_mean", [0.5]),
        ("image_std", [0.5, 0.0, 0.5]),
        ("image_std", ["a", "b", "c"]),
        ("resample", 2),
        ("do_resize", False),
        ("do_normalize", False),
        ("rescale_factor", "1/255"),
        ("size", 5),
    ],
)
def test_a_wrong_value_is_named_with_its_key(tmp_path: Path, key: str, value: object) -> None:
    _write(tmp_path, {**SETTINGS_FILE, key: value})
    with pytest.raises(CheckpointError, match=rf"preprocessor_config\.json.*{key}"):
        ImageSettings.from_folder(tmp_path)


def test_bounds_the_wrong_way_round_are_refused(tmp_path: Path) -> None:
    _write(tmp_path, {**SETTINGS_FILE, "size": {"shortest_edge": 4096, "longest_edge": 1024}})
    with pytest.raises(CheckpointError, match=r"4096.*1024"):
        ImageSettings.from_folder(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "\ufeff\x00"])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        ImageSettings.from_folder(tmp_path)


def _write(folder: Path, content: object, name: str = "preprocessor_config.json") -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def _assert_same(one: PatchedImage, other: PatchedImage) -> None:
    assert one.grid == other.grid
    np.testing.assert_array_equal(one.patches, other.patches)
