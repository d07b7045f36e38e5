"""What is taken of a file of which the end is missing."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import TiffImagePlugin

from tests.conftest import photo
from tests.utils.test_damaged import strips
from tests.utils.test_decode import check, chunk, exif, png, refused, samples, saved, tiff
from utils.chunks import ADAM7
from utils.decode import read_image, stored_size
from utils.errors import InputError
from utils.image import Array


def interlaced(array: Array) -> bytes:
    """(H,W,3) of 8 bits -> PNG in seven passes."""
    passes = [array[top::down, left::across] for left, top, across, down in ADAM7]
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for each in passes for row in each))
    header = struct.pack(">IIBBBBB", array.shape[1], len(array), 8, 2, 0, 0, 1)
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


TIFFS = {  # of one strip and of several, of both orders of bytes
    "tif": tiff(photo(64, 48)),
    "tif_16": tiff(photo(64, 48).astype(np.uint16) * 257, order=">"),
    "tif deflate": tiff(photo(64, 48), packed=True),
    "tif deflate 16": tiff(photo(64, 48).astype(np.uint16) * 257, packed=True),
    "tif rows": strips(photo(64, 48), 64),
}


@pytest.mark.parametrize("name", ["png", "png_16", "jpg", "bmp", "gif", "png interlaced", "webp", *TIFFS])
def test_what_is_left_of_a_damaged_file(name: str, tmp_path: Path) -> None:
    """The first rows come back, the rest is filled in, a note says so, and without the option the remedy is told."""
    picture, bits = photo(64, 48), 16 if "16" in name else 8
    if name == "png interlaced":
        content = interlaced(picture)
        check(tmp_path / "a", content, picture)
    elif name.startswith("png"):
        picture = picture.astype(np.uint16) * 257 if bits == 16 else picture
        content = png(picture, bits, 2)
    elif name in TIFFS:
        picture, content = picture.astype(np.uint16) * 257 if bits == 16 else picture, TIFFS[name]
    else:
        content = saved(picture, {"jpg": "JPEG"}.get(name, name.upper()), quality=100)
    (tmp_path / "a").write_bytes(content)
    whole = read_image(tmp_path / "a")
    (tmp_path / "a").write_bytes(content[: 2 * len(content) // 3])
    assert refused(tmp_path / "a", "ask for it").endswith("; ask for it")
    assert ";" not in refused(tmp_path / "a").partition("(")[2]
    image = read_image(tmp_path / "a", accept_damaged=True)
    assert image.pixels.shape == picture.shape and image.bits == bits and "damaged (" in image.notes[0]
    if name == "png interlaced":
        np.testing.assert_array_equal(image.pixels[:16:8, ::8], picture[:16:8, ::8])
    elif name == "bmp":  # whose rows are stored from the last to the first
        np.testing.assert_array_equal(image.pixels[-16:], picture[-16:])
    else:
        step = 8 if name == "gif" else 1  # Pillow interlaces the rows
        np.testing.assert_array_equal(image.pixels[:16:step], whole.pixels[:16:step])
    for empty in (b"", content[:40]):
        (tmp_path / "a").write_bytes(empty)
        with pytest.raises(InputError):
            read_image(tmp_path / "a", accept_damaged=True)


@pytest.mark.parametrize("form", ["lossy", "lossless", "alpha", "with EXIF"])
def test_rows_of_a_webp_that_are_known(form: str, tmp_path: Path) -> None:
    """They are those of the whole file; nothing is made up below them."""
    picture, path = photo(200, 150), tmp_path / "a.webp"
    if form == "alpha":
        picture = np.dstack((picture, np.full((200, 150), 99, np.uint8)))
    options: dict[str, Any] = {"exif": exif(1)} if form == "with EXIF" else {"lossless": form == "lossless"}
    content = saved(picture, "WEBP", **options)
    path.write_bytes(content)
    whole = read_image(path)
    path.write_bytes(content[: 3 * len(content) // 4])
    assert "truncated); ask for it" in refused(path, "ask for it") and stored_size(path) == (150, 200)
    image = read_image(path, accept_damaged=True)
    rows = np.flatnonzero(image.pixels.any(axis=(1, 2)))[-1] + 1
    assert 40 < rows < 200 and not image.pixels[rows:].any()
    np.testing.assert_array_equal(image.pixels[:rows], whole.pixels[:rows])
    if image.alpha is not None and whole.alpha is not None:
        np.testing.assert_array_equal(image.alpha[:rows], whole.alpha[:rows])


def test_a_tiff_of_which_a_strip_in_the_middle_is_damaged(tmp_path: Path) -> None:
    picture, path = photo(34, 45), tmp_path / "a.tif"
    content = bytearray(strips(picture, 34, compression="tiff_lzw"))
    strip = bytes(content)[TiffImagePlugin.TiffImageFile(io.BytesIO(content)).tag_v2[273][20] :][:20]
    path.write_bytes(content.replace(strip, bytes(20)))
    assert "ask for it" in refused(path, "ask for it")
    image = read_image(path, accept_damaged=True)
    assert not image.pixels[20].any()
    np.testing.assert_array_equal(np.delete(image.pixels, 20, 0), np.delete(picture, 20, 0))


def test_no_remedy_is_told_where_there_is_none(tmp_path: Path) -> None:
    frames: dict[str, Any] = {"save_all": True, "append_images": [Pillow.fromarray(photo(34, 45, 1))]}
    animation = saved(photo(34, 45), "WEBP", **frames)
    directory_last = saved(photo(34, 45), "TIFF", compression="tiff_lzw")
    for content, reason in ((animation, "truncated)"), (directory_last, "(truncated: its directory is missing")):
        (tmp_path / "a").write_bytes(content[: len(content) // 2])
        line = refused(tmp_path / "a", "ask for it")
        assert reason in line and "ask for it" not in line
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
