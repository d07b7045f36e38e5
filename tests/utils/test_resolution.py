"""The resolution that a file states, on its way into a result."""

from pathlib import Path

import pytest
from PIL import Image as Pillow

from tests.utils.test_metadata import exif
from tests.utils.test_notes import opened, saved, through


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("source", ["PNG", "JPEG", "TIFF"])
def test_resolution(source: str, suffix: str, tmp_path: Path) -> None:
    _, notes = through(saved(source, dpi=(300, 300)), suffix, tmp_path)
    with opened(tmp_path, suffix) as file:
        found = file.info.get("dpi") or [file.getexif()[tag] for tag in (282, 283)]
        assert [float(each) for each in found] == pytest.approx([300, 300], abs=0.1) and not notes


def test_the_resolution_of_a_turned_picture(tmp_path: Path) -> None:
    for kind in ("PNG", "JPEG", "TIFF"):
        image, _ = through(saved(kind, dpi=(200, 100), exif=exif(6)), ".png", tmp_path)
        assert image.pixels.shape == (30, 20, 3) and image.dpi == pytest.approx((100, 200), abs=0.1)


def test_a_resolution_that_only_exif_states(tmp_path: Path) -> None:
    block = Pillow.Exif()
    block[282], block[283], block[296] = 300.0, 300.0, 2
    for suffix in (".png", ".tif"):
        through(saved("PNG", exif=block), suffix, tmp_path)
        with opened(tmp_path, suffix) as file:
            assert float(file.getexif()[282]) == 300


def test_no_resolution_is_made_up(tmp_path: Path) -> None:
    for source in (saved("JPEG"), saved("JPEG", exif=exif(1)), saved("PNG"), saved("WEBP"), saved("TIFF")):
        image, _ = through(source, ".png", tmp_path)
        assert image.dpi is None
