"""Images of Pillow: what they cannot hold, and those that cannot be read."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageOps, TiffImagePlugin

from inference.kinds import picture_of
from tests.conftest import photo
from tests.utils.test_decode import png, samples
from utils.errors import InputError


def test_damaged_exif_is_left_out() -> None:
    image = Pillow.fromarray(photo(5, 6))
    image.info["exif"] = b"Exif\0\0garbage"
    np.testing.assert_array_equal(picture_of(image).pixels, photo(5, 6))


def test_colours_that_no_image_of_pillow_holds(tmp_path: Path) -> None:
    for gamma, told in ((45455, ()), (100000, ("an image of Pillow does not hold what a PNG says of its colours",))):
        content = png(samples(3, 8), 8, 2, [(b"gAMA", struct.pack(">I", gamma)), (b"tEXt", b"Author\0me")])
        (tmp_path / "a.png").write_bytes(content)
        notes = picture_of(tmp_path / "a.png").notes
        assert len(notes) == len(told) and all(note.startswith(told) for note in notes)


def test_an_image_of_pillow_is_turned_once(tmp_path: Path) -> None:
    """Whoever turns it removes what it has understood of the metadata."""
    xmp = b"<x:xmpmeta><rdf:Description tiff:Orientation='6'/></x:xmpmeta>"
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[700], tags[274] = xmp, 6
    Pillow.fromarray(photo(20, 30)).save(tmp_path / "a.tif", tiffinfo=tags)
    exif = Pillow.Exif()
    exif[274] = 6
    Pillow.fromarray(photo(20, 30)).save(tmp_path / "a.jpg", xmp=xmp, exif=exif.tobytes())
    for image in (Pillow.open(tmp_path / "a.tif"), ImageOps.exif_transpose(Pillow.open(tmp_path / "a.jpg"))):
        assert picture_of(image).pixels.shape == (30, 20, 3)


def test_what_cannot_be_read_is_an_input_error() -> None:
    stored = io.BytesIO()
    Pillow.fromarray(photo(60, 60)).save(stored, "PNG")
    half = io.BytesIO(stored.getvalue()[: len(stored.getvalue()) // 2])
    for image in (Pillow.open(half), Pillow.new("La", (4, 4))):
        with pytest.raises(InputError, match="the image of Pillow cannot be read: "):
            picture_of(image)
