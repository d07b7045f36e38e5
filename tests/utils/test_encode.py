"""Images reduced to what a file format holds."""

from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import photo
from tests.utils.test_image import samples
from utils.encode import JPEG_EXIF, reduce_to
from utils.image import Image

PICTURE = Image(photo(6, 8), None, gray=False, icc=b"icc", exif=b"exif")
GRAY = replace(PICTURE, pixels=np.broadcast_to(samples(1, 8)[:, :, None], (5, 7, 3)), gray=True)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_what_fits_is_left_alone(suffix: str) -> None:
    assert reduce_to(suffix, PICTURE) == (PICTURE, [])


def test_16_bits_become_the_nearest_of_8() -> None:
    deep = Image(samples(3, 16), samples(1, 16), gray=False)
    assert reduce_to(".png", deep) == (deep, [])
    image, notes = reduce_to(".webp", deep)
    np.testing.assert_array_equal(image.pixels, np.rint(deep.pixels / 257).astype(np.uint8), strict=True)
    np.testing.assert_array_equal(image.alpha, np.rint(samples(1, 16) / 257).astype(np.uint8), strict=True)
    assert len(notes) == 1


def test_jpeg_lies_on_white() -> None:
    alpha = samples(1, 8)
    image, notes = reduce_to(".jpg", replace(GRAY, alpha=alpha))
    assert image.alpha is None and image.gray and image.icc == b"icc" and len(notes) == 1
    share = alpha[:, :, None] / 255
    np.testing.assert_allclose(image.pixels, GRAY.pixels * share + 255 * (1 - share), atol=0.51)
    opaque, notes = reduce_to(".jpg", replace(PICTURE, alpha=np.full((6, 8), 255, np.uint8)))
    assert opaque.alpha is None and not notes
    np.testing.assert_array_equal(opaque.pixels, PICTURE.pixels)


def test_a_gray_profile_needs_gray() -> None:
    assert reduce_to(".jpg", GRAY) == (GRAY, [])
    deep = replace(GRAY, pixels=GRAY.pixels.astype(np.uint16), alpha=samples(1, 16))
    for suffix, image in ((".webp", GRAY), (".png", deep)):
        reduced, notes = reduce_to(suffix, image)
        assert reduced.icc is None and not reduced.gray and len(notes) == 1
        assert reduced.exif == b"exif" and reduced.pixels is image.pixels


def test_jpeg_holds_one_segment_of_exif() -> None:
    for size, lost in ((JPEG_EXIF, False), (JPEG_EXIF + 1, True)):
        image, notes = reduce_to(".jpg", replace(PICTURE, exif=bytes(size)))
        assert (image.exif is None) == lost == bool(notes)
