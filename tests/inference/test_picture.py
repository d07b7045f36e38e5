"""What stands around the model when an image is restored."""

from itertools import product

import numpy as np
import pytest
import torch

from inference.picture import restore_image
from inference.restore import Restore
from inference.restorers import pcsr_restorer
from models.build import build
from models.pcsr import PCSR
from models.setting import Setting
from tests.conftest import TINY_PCSR, photo
from tests.utils.test_decode import samples
from utils.image import Image, to_tensor
from utils.resize import imresize


def restorer(scale: float) -> Restore:
    model = build(TINY_PCSR)
    assert isinstance(model, PCSR)
    settings = [Setting(scale=scale), Setting("adaptive", scale=scale), Setting("k", 1.0, scale=scale)]
    return pcsr_restorer(model, settings, torch.device("cpu"))


def test_colours_are_those_of_the_model() -> None:
    picture, restore = photo(12, 17), restorer(2.5)
    results = restore_image(Image(picture, None, gray=False, icc=b"icc", exif=b"exif"), restore)
    for (image, restored), alone in zip(results, restore(to_tensor(picture)), strict=True):
        np.testing.assert_array_equal(image.pixels, alone.pixels, strict=True)
        assert restored.setting == alone.setting and image.alpha is None and not image.gray
        assert (image.icc, image.exif) == (b"icc", b"exif")


@pytest.mark.parametrize("bits", [8, 16])
def test_alpha_and_gray(bits: int) -> None:
    gray, alpha = np.broadcast_to(samples(1, bits)[:, :, None], (5, 7, 3)), samples(1, bits)[::-1]
    for image, restored in restore_image(Image(gray, alpha, gray=True), restorer(4)):
        assert image.bits == bits and image.gray and image.alpha is not None
        assert (image.pixels == image.pixels[:, :, :1]).all()
        np.testing.assert_allclose(image.pixels[:, :, 0], restored.pixels.mean(axis=2), atol=0.5)
        expected = imresize(to_tensor(alpha), (20, 28))[0, 0].clamp(0, 1) * (2**bits - 1)
        np.testing.assert_allclose(image.alpha, expected, atol=0.51)


@pytest.mark.parametrize("scale", [1, 1.3, 4])
def test_any_size_from_one_pixel_on(scale: float) -> None:
    restore = restorer(scale)
    for height, width in product((1, 2, 3), (1, 5)):
        picture = Image(photo(height, width), samples(1, 8)[:height, :width], False)
        for image, restored in restore_image(picture, restore):
            assert image.pixels.shape == (round(height * scale), round(width * scale), 3)
            assert image.alpha is not None and restored.assignment is not None
            assert image.alpha.shape == restored.assignment.shape == image.pixels.shape[:2]
