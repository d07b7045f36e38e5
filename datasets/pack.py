"""Random crops of a training folder in one file, which can be carried to another machine and unpacked there.

The file is numpy's compressed .npz with one array, `differences` (n,P,P,3) uint8: each pixel minus its left neighbour,
modulo 256. In this form photographs take about half the space of raw pixels.
"""

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np

from datasets.cache import decode_8_bits
from utils.decode import stored_size
from utils.errors import InputError
from utils.files import list_images, read_bytes, write_atomic
from utils.image import Array

HIGHEST = 2**32  # the largest number that options may have


def pack(source: Path, output: Path, size: int, count: int, seed: int) -> int:
    """Write `count` crops of size x size, drawn evenly from all places in all images; returns the file's bytes.

    Raises InputError if no image has room for one, for images that cannot be read or have more than 8 bits, and for
    numbers out of range.
    """
    for name, given, least in ("size", size, 1), ("count", count, 1), ("seed", seed, 0):
        if not least <= given <= HIGHEST:
            raise InputError(f"--{name} {given}: must lie between {least} and {HIGHEST}")
    paths = list_images(source, below=True)
    sizes = np.array([stored_size(path) for path in paths])  # (n,2)
    for index in np.flatnonzero((sizes == 0).any(axis=1)):
        decode_8_bits(paths[index])  # raises, and says why
    places = np.maximum(sizes - size + 1, 0).prod(axis=1, dtype=np.float64)
    if not places.any():
        raise InputError(f"{source}: no image is {size}x{size} pixels or larger")
    rng = np.random.default_rng(seed)
    crops = np.empty((count, size, size, 3), np.uint8)
    filled = 0
    for path, number in zip(paths, rng.multinomial(count, places / places.sum()), strict=True):
        if not number:
            continue
        pixels = decode_8_bits(path)
        height, width = pixels.shape[:2]
        for _ in range(number):
            top, left = rng.integers(height - size + 1), rng.integers(width - size + 1)
            crops[filled] = pixels[top : top + size, left : left + size]
            filled += 1
    rng.shuffle(crops)  # so that the last crops, which may be used for validation, come from all images
    crops[:, :, 1:] -= crops[:, :, :-1].copy()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, differences=crops)
    write_atomic(output, buffer.getbuffer())
    return buffer.tell()


def unpack(file: Path) -> Array:
    """The crops (n,P,P,3) uint8. Raises InputError for a file that `pack` did not write."""
    try:
        with np.load(io.BytesIO(read_bytes(file))) as content:
            return content["differences"].cumsum(2, dtype=np.uint8)
    except (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error):
        raise InputError(f"{file}: is no whole file of datasets/scripts/pack.py; pack it, or copy it, again") from None
