"""Writing image files, and what a format does not hold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference.reduce import reduce_to
from tests.conftest import photo
from tests.utils.test_decode import samples
from utils.decode import read_image
from utils.encode import SEGMENT, write_image
from utils.errors import InputError
from utils.files import FORMATS
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
    for size, lost in ((SEGMENT, False), (SEGMENT + 1, True)):
        image, notes = reduce_to(".jpg", replace(PICTURE, exif=bytes(size)))
        assert (image.exif is None) == lost == bool(notes)


@pytest.mark.parametrize("suffix", sorted(FORMATS.keys() | {".PNG", ".Jpg"}))
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_what_is_written_comes_back_or_is_refused(tmp_path: Path, suffix: str, bits: int, channels: int) -> None:
    array, path, kind = np.atleast_3d(samples(channels, bits)), tmp_path / f"a{suffix}", suffix.lower()
    pixels, alpha = array[:, :, : max(1, channels // 3 * 3)], array[:, :, -1] if channels in (2, 4) else None
    array[2:, :, -1] = 0  # where alpha is 0, colours stay
    path.write_text("before")
    (tmp_path / "other name").hardlink_to(path)  # keeps it, unless it is written over in place
    if kind in (".png", ".tif", ".tiff") or (bits == 8 and (alpha is None or kind == ".webp")):
        write_image(path, pixels if channels >= 3 else pixels[:, :, 0], alpha)
        image = read_image(path)
        assert image.bits == bits and image.gray == (kind != ".webp" and (channels == 1 or (channels, bits) == (2, 8)))
        if kind not in (".jpg", ".jpeg"):
            np.testing.assert_array_equal(image.pixels, np.broadcast_to(pixels, image.pixels.shape))
        np.testing.assert_array_equal(image.alpha, alpha)
    else:
        with pytest.raises(InputError, match=path.name):
            write_image(path, pixels if channels >= 3 else pixels[:, :, 0], alpha)
        assert path.read_text() == "before"
    assert (tmp_path / "other name").read_text() == "before"
    assert {each.name for each in tmp_path.iterdir()} == {path.name, "other name"}


def test_what_cannot_be_written(tmp_path: Path) -> None:
    for name in ("a", "a.gif", "a.xyz", "png"):
        with pytest.raises(InputError, match=r"\.png"):
            write_image(tmp_path / name, samples(3, 8))
    with pytest.raises(InputError, match="at most 16383"):
        write_image(tmp_path / "a.webp", np.zeros((1, 16384, 3), np.uint8))  # WebP ends at 16383
    with pytest.raises(InputError, match=r"at most 1000000; use \.tif"):
        write_image(tmp_path / "a.png", np.zeros((1, 10**6 + 1, 3), np.uint16))
    with pytest.raises(AssertionError):
        write_image(tmp_path / "a.png", samples(3, 8) / 255)
    assert not list(tmp_path.iterdir())
