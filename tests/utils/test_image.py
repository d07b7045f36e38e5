"""Arrays and tensors of an image."""

import os
import warnings

import numpy as np
import pytest
import torch

from tests.utils.test_decode import samples
from utils.image import quiet, to_pixels, to_tensor


@pytest.mark.parametrize("bits", [8, 16])
def test_every_level_survives_the_tensor(bits: int) -> None:
    levels = np.arange(2**bits).reshape(16, -1).astype(np.uint8 if bits == 8 else np.uint16)
    tensor = to_tensor(levels)
    assert tensor.dtype == torch.float32 and tensor.shape == (1, 1, *levels.shape)
    assert tensor.min() == 0 and tensor.max() == 1
    np.testing.assert_array_equal(to_pixels(tensor, bits), levels, strict=True)
    colours = to_pixels(to_tensor(samples(3, bits)), bits)
    np.testing.assert_array_equal(colours, samples(3, bits), strict=True)
    assert colours.flags.c_contiguous


def test_pixels_are_clamped_and_rounded() -> None:
    values = torch.tensor([-0.5, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 1.5])
    assert to_pixels(values.view(1, 1, 1, 6)).tolist() == [[0, 0, 0, 1, 255, 255]]
    assert to_pixels(torch.ones(1, 3, 2, 2, dtype=torch.float16), bits=16).min() == 65535  # beyond what half can count


def test_only_pillow_is_silenced(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet(), pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", stacklevel=1)
        os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"
