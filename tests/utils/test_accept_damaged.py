"""What is taken of a file of which the end is missing."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import photo
from tests.utils.test_decode import check, chunk, png, refused, samples, saved
from utils.chunks import ADAM7
from utils.decode import read_image
from utils.errors import InputError
from utils.image import Array


def interlaced(array: Array) -> bytes:
    """(H,W,3) of 8 bits -> PNG in seven passes."""
    passes = [array[top::down, left::across] for left, top, across, down in ADAM7]
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for each in passes for row in each))
    header = struct.pack(">IIBBBBB", array.shape[1], len(array), 8, 2, 0, 0, 1)
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


@pytest.mark.parametrize("name", ["png", "png_16", "jpg", "bmp", "gif", "png interlaced"])
def test_what_is_left_of_a_damaged_file(name: str, tmp_path: Path) -> None:
    """The first rows come back, the rest is filled in, a note says so, and without the option the remedy is told."""
    picture, bits = photo(64, 48), 16 if name == "png_16" else 8
    if name == "png interlaced":
        content = interlaced(picture)
        check(tmp_path / "a", content, picture)
    elif name.startswith("png"):
        picture = picture.astype(np.uint16) * 257 if bits == 16 else picture
        content = png(picture, bits, 2)
    else:
        content = saved(picture, {"jpg": "JPEG"}.get(name, name.upper()), quality=100)
    (tmp_path / "a").write_bytes(content[: 2 * len(content) // 3])
    assert "accept_damaged takes what can be decoded" in refused(tmp_path / "a")
    image = read_image(tmp_path / "a", accept_damaged=True)
    assert image.pixels.shape == picture.shape and image.bits == bits and "damaged (" in image.notes[0]
    if name.startswith("png"):
        np.testing.assert_array_equal(image.pixels[:16:8, ::8], picture[:16:8, ::8])
    for empty in (b"", content[:40]):
        (tmp_path / "a").write_bytes(empty)
        with pytest.raises(InputError):
            read_image(tmp_path / "a", accept_damaged=True)


def test_a_camera_jpeg_without_its_last_bytes(tmp_path: Path) -> None:
    content, path = saved(photo(64, 48), "JPEG", quality=95), tmp_path / "a.jpg"
    path.write_bytes(content)
    whole = read_image(path).pixels
    path.write_bytes(content[:-40])
    image = read_image(path, accept_damaged=True)
    np.testing.assert_array_equal(image.pixels[:40], whole[:40])


def test_a_wrong_checksum_can_be_accepted(tmp_path: Path) -> None:
    content = bytearray(png(samples(3, 8), 8, 2))
    content[content.index(b"IDAT") - 5] ^= 1  # of IHDR
    (tmp_path / "a.png").write_bytes(content)
    image = read_image(tmp_path / "a.png", accept_damaged=True)
    np.testing.assert_array_equal(image.pixels, samples(3, 8))
