"""Damaged image files: read as what they announce, or refused with one line, in little time and memory."""

import functools
import random
import resource
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from tests.conftest import photo
from tests.fuzz.mutate import mutate
from tests.utils.test_decode import chunk, exif, png, saved, tiff
from utils.decode import read_image, stored_size
from utils.errors import InputError
from utils.image import Array

GROWTH = 256 << 10  # kilobytes that a file of some kilobytes may take


@functools.cache
def whole_files() -> list[bytes]:
    """Small files of every kind that is read."""
    rgb = photo(34, 45)
    gray, alpha = rgb[:, :, 0], np.dstack((rgb, rgb[:, :, 1]))
    deep = rgb.astype(np.uint16) * 257
    files = [png(rgb, 8, 2), png(deep, 16, 2, [(b"eXIf", exif(6))]), png(deep[:, :, 0], 16, 0), png(gray % 2, 1, 0)]
    files += [png(gray % 4, 8, 3, [(b"PLTE", bytes(range(12))), (b"tRNS", b"\0\x80")])]
    files += [tiff(rgb), tiff(deep, packed=True), tiff(deep), tiff(gray, order=">")]
    written: list[tuple[str, Array, dict[str, Any]]] = [
        ("PNG", alpha, {}),
        ("JPEG", rgb, {"exif": b"Exif\0\0" + exif(6)}),
        ("JPEG", rgb, {"progressive": True}),
        ("JPEG", gray, {}),
        ("WEBP", rgb, {"exif": exif(6)}),
        ("WEBP", alpha, {"quality": 50}),
        ("WEBP", alpha, {"lossless": True}),
        ("WEBP", rgb, {"save_all": True, "append_images": [Pillow.fromarray(rgb[::-1])], "duration": 100}),
        ("BMP", rgb, {}),
        ("BMP", gray, {}),
        ("GIF", rgb, {}),
        *(("TIFF", alpha, {"compression": c}) for c in ("tiff_lzw", "packbits", "tiff_adobe_deflate", "zstd", "lzma")),
        ("TIFF", rgb, {"compression": "jpeg"}),
        ("TIFF", rgb, {"compression": "tiff_lzw", "tiffinfo": {278: 7}}),
        ("TIFF", rgb, {"tiffinfo": {278: 7}}),
        ("JPEG", rgb, {"mode": "CMYK"}),
        ("TIFF", rgb, {"mode": "CMYK"}),
        ("TIFF", rgb, {"mode": "1", "compression": "group4"}),
    ]
    return files + [saved(array, kind, **options) for kind, array, options in written]


def with_checksums(content: bytes) -> bytes:
    """A PNG whose chunks have right checksums, so that the damage goes on to the decoder."""
    place, out = 8, content[:8]
    while place + 12 <= len(content):
        size = struct.unpack(">I", content[place : place + 4])[0]
        if place + 12 + size > len(content):
            break
        out += chunk(content[place + 4 : place + 8], content[place + 8 : place + 8 + size])
        place += 12 + size
    return out + content[place:]


def short_pixels(content: bytes, rng: random.Random) -> bytes:
    """A PNG whose IDAT unpacks to fewer bytes than the size asks for."""
    start = content.index(b"IDAT")
    size = struct.unpack(">I", content[start - 4 : start])[0]
    data = zlib.decompress(content[start + 4 : start + 4 + size])
    data = zlib.compress(data[: rng.randrange(len(data))])
    return content[: start - 4] + chunk(b"IDAT", data) + content[start + 8 + size :]


def damaged(number: int) -> tuple[bytes, bool]:
    """A damaged file, and whether it must be refused."""
    rng = random.Random(number)
    content, other = rng.choice(whole_files()), rng.choice(whole_files())
    is_png = content.startswith(b"\x89PNG")
    if is_png and rng.random() < 0.1:
        return short_pixels(content, rng), True
    content = mutate(content, rng, other)
    return with_checksums(content) if is_png and rng.random() < 0.7 else content, False


def case(number: int) -> None:
    path = Path("a")
    content, refused = damaged(number)
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert not (check(path, False) and refused), "taken, though it is not whole"
        check(path, True)


def check(path: Path, accept_damaged: bool) -> bool:
    """Whether the file is taken."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        image = read_image(path, accept_damaged)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 400, str(error)
        image = None
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    size = stored_size(path)
    assert grown < GROWTH, f"{grown >> 10} MB for {path.stat().st_size} bytes that claim {size}, {image is not None}"
    if image is not None:
        shape = image.pixels.shape
        unannounced = accept_damaged and size == (0, 0)  # the header is damaged
        assert unannounced or sorted(shape[:2]) == sorted(size), f"{shape}, but {size} were announced"
        assert image.alpha is None or image.alpha.shape == shape[:2]
    return image is not None
