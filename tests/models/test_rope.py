"""Positions by numbers worked out by hand, and angles by what they must be equal to."""

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_chandra.models.rope import TextRope, page_positions, vision_rotation
from tests.models.parts import SmallGrid, text_config, vision_config

TEXT, IMAGE = 7, 99


def positions(prompt: list[int], height: int, width: int) -> list[list[int]]:
    """Positions of a prompt with an image of height x width patches, merged 2 x 2."""
    ids = np.array(prompt, dtype=np.int32)
    found = page_positions(ids, IMAGE, SmallGrid(1 if height else 0, height, width), 2)
    assert found.shape == (3, len(prompt))
    return [[int(n) for n in axis] for axis in found]


def test_text_alone_counts_on_all_three_axes() -> None:
    assert positions([TEXT] * 4, 0, 0) == [[0, 1, 2, 3]] * 3


def test_an_image_at_the_start_begins_at_zero() -> None:
    assert positions([IMAGE] * 6 + [TEXT] * 2, 4, 6) == [
        [0, 0, 0, 0, 0, 0, 3, 4],
        [0, 0, 0, 1, 1, 1, 3, 4],
        [0, 1, 2, 0, 1, 2, 3, 4],
    ]


def test_an_image_in_the_middle_begins_where_the_text_ends() -> None:
    assert positions([TEXT] * 2 + [IMAGE] * 4 + [TEXT] * 3, 4, 4) == [
        [0, 1, 2, 2, 2, 2, 4, 5, 6],
        [0, 1, 2, 2, 3, 3, 4, 5, 6],
        [0, 1, 2, 3, 2, 3, 4, 5, 6],
    ]


def test_an_image_at_the_end_has_nothing_behind_it() -> None:
    assert positions([TEXT] + [IMAGE] * 2, 4, 2) == [[0, 1, 1], [0, 1, 2], [0, 1, 1]]


def test_after_a_wide_image_text_goes_on_behind_its_last_column() -> None:
    assert positions([TEXT] + [IMAGE] * 5 + [TEXT] * 2, 2, 10) == [
        [0, 1, 1, 1, 1, 1, 6, 7],
        [0, 1, 1, 1, 1, 1, 6, 7],
        [0, 1, 2, 3, 4, 5, 6, 7],
    ]


def test_after_a_tall_image_text_goes_on_behind_its_last_row() -> None:
    assert positions([TEXT] + [IMAGE] * 5 + [TEXT] * 2, 10, 2) == [
        [0, 1, 1, 1, 1, 1, 6, 7],
        [0, 1, 2, 3, 4, 5, 6, 7],
        [0, 1, 1, 1, 1, 1, 6, 7],
    ]


@pytest.mark.parametrize("tokens", [0, 5, 7])
def test_image_tokens_that_do_not_fit_the_grid_are_an_error(tokens: int) -> None:
    with pytest.raises(ValueError, match=rf"run of 6 image tokens.*found {tokens}"):
        positions([TEXT] + [IMAGE] * tokens + [TEXT], 4, 6)


def test_image_tokens_in_two_runs_are_an_error() -> None:
    with pytest.raises(ValueError, match="one run of 4 image tokens"):
        positions([IMAGE] * 2 + [TEXT] + [IMAGE] * 2, 4, 4)


def test_image_tokens_without_an_image_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"run of 0 image tokens.*found 2"):
        positions([TEXT] + [IMAGE] * 2, 0, 0)


def test_at_text_positions_the_rotation_is_plain_rope() -> None:
    config = text_config(head_dim=32, sections=(6, 5, 5))
    x = mx.array(np.random.default_rng(0).normal(size=(9, 4, 32)).astype(np.float32))
    rotation = TextRope(config).rotation(np.tile(np.arange(9, dtype=np.int32), (3, 1)), mx.float32)
    plain = mx.fast.rope(
        x.swapaxes(0, 1)[None], 32, traditional=False, base=config.rope_theta, scale=1.0, offset=0
    )
    np.testing.assert_allclose(np.array(rotation(x)), np.array(plain[0].swapaxes(0, 1)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("axis", "frequencies"),
    [(0, {0, 3, 6, 7}), (1, {1, 4}), (2, {2, 5})],
    ids=["time", "height", "width"],
)
def test_each_axis_turns_its_own_frequencies_in_turn_and_time_the_rest(
    axis: int, frequencies: set[int]
) -> None:
    place = np.zeros((3, 1), dtype=np.int32)
    place[axis] = 1
    rotation = TextRope(text_config(head_dim=16, sections=(4, 2, 2))).rotation(place, mx.float32)
    sines = np.array(rotation.sin)[0][8:]
    assert set(np.flatnonzero(sines).tolist()) == frequencies
    np.testing.assert_array_equal(np.array(rotation.sin)[0][:8], -sines)
    np.testing.assert_allclose(
        [float(sines[n]) for n in sorted(frequencies)],
        [np.sin(10_000.0 ** (-2 * n / 16)) for n in sorted(frequencies)],
        rtol=1e-6,
    )


def test_chandras_sections_give_20_frequencies_each_to_height_and_width() -> None:
    rope = TextRope(text_config(heads=2, head_dim=128, sections=(24, 20, 20)))
    turned = [np.count_nonzero(_sines(rope, axis)[:64]) for axis in range(3)]
    assert turned == [24, 20, 20]


def _sines(rope: TextRope, axis: int) -> NDArray[np.float32]:
    place = np.zeros((3, 1), dtype=np.int32)
    place[axis] = 1
    return np.array(rope.rotation(place, mx.float32).sin[0])


def test_angles_are_worked_out_in_float32_whatever_the_dtype() -> None:
    far = np.full((3, 1), 4001, dtype=np.int32)  # bfloat16 has no 4001
    rope = TextRope(text_config())
    exact, rounded = (rope.rotation(far, dtype).cos.astype(mx.float32) for dtype in (mx.float32, mx.bfloat16))
    np.testing.assert_allclose(np.array(rounded), np.array(exact), rtol=0, atol=0.004)


def test_a_patchs_row_turns_the_first_half_of_the_frequencies_and_its_column_the_second() -> None:
    rows, columns = np.array([0, 3, 0], dtype=np.int32), np.array([0, 0, 5], dtype=np.int32)
    rotation = vision_rotation(rows, columns, vision_config(hidden=32, heads=2), mx.float32)  # heads of 16
    assert rotation.cos.shape == (3, 16)
    angle = np.array([10_000.0 ** (-n / 4) for n in range(4)])
    still = np.zeros(4)
    expected = [[*still, *still], [*(3 * angle), *still], [*still, *(5 * angle)]]
    np.testing.assert_allclose(np.array(rotation.sin[:, :8]), -np.sin(expected), rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.array(rotation.sin[:, 8:]), np.sin(expected), rtol=0, atol=1e-6)
