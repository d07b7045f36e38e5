"""The assignment in colours, as --assignment and --opacity draw it."""

import numpy as np
import pytest

from inference.visual import colour_assignment


@pytest.mark.parametrize("levels", [np.uint8, np.uint16])
def test_heavy_is_red_and_light_is_blue(levels: type[np.uint8 | np.uint16]) -> None:
    most = np.iinfo(levels).max
    pixels, assignment = np.full((2, 3, 3), most, levels), np.array([[0, 1, 2], [0, 1, 2]], np.uint8)
    pixels[1] = 0
    for row in colour_assignment(pixels, assignment, 3).astype(int):
        assert row[0, 2] > row[0, 0] + 50 and row[2, 0] > row[2, 2] + 50  # RGB
        assert abs(row[1, 0] - row[1, 2]) < 10  # between the two: gray
    bright, dark = colour_assignment(pixels, assignment, 3)
    assert (bright > dark).all()


def test_opacity() -> None:
    pixels = np.zeros((1, 2, 3), np.uint8)
    pixels[..., 0] = 30, 240
    assignment = np.array([[0, 1]], np.uint8)
    np.testing.assert_array_equal(colour_assignment(pixels, assignment, 2, 0)[0], [[10] * 3, [80] * 3])  # gray
    covered, half = (colour_assignment(pixels, assignment, 2, opacity)[0] for opacity in (1.0, 0.5))
    expected = covered / 2 + [[5] * 3, [40] * 3]
    assert np.abs(half - expected).max() <= 1
