"""Images of Pillow that cannot be read."""

import io

import numpy as np
import pytest
from PIL import Image as Pillow

from inference.kinds import picture_of
from tests.conftest import photo
from utils.errors import InputError


def test_damaged_exif_is_left_out() -> None:
    image = Pillow.fromarray(photo(5, 6))
    image.info["exif"] = b"Exif\0\0garbage"
    np.testing.assert_array_equal(picture_of(image).pixels, photo(5, 6))


def test_what_cannot_be_read_is_an_input_error() -> None:
    stored = io.BytesIO()
    Pillow.fromarray(photo(60, 60)).save(stored, "PNG")
    half = io.BytesIO(stored.getvalue()[: len(stored.getvalue()) // 2])
    for image in (Pillow.open(half), Pillow.new("La", (4, 4))):
        with pytest.raises(InputError, match="the image of Pillow cannot be read: "):
            picture_of(image)
