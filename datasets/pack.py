"""Random crops of a training folder in one file, which can be carried to another machine and unpacked there.

The file is numpy's compressed .npz with two arrays (n,P,P,3) uint8: `training`, and `validation` from images of its
own. Each pixel is stored minus its left neighbour, modulo 256. So photographs take about half the space of raw pixels.
"""

import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.cache import decode_8_bits
from utils.decode import stored_size
from utils.errors import InputError
from utils.files import list_images, read_bytes, write_atomic
from utils.image import Array

HIGHEST = 2**32  # the largest number that options may have
VALIDATION = 16  # crops for validation
ONE_OF = 50  # images is for validation, and at least one


class Pack(NamedTuple):
    """Crops (n,P,P,3) uint8 for training, and those for validation."""

    training: Array
    validation: Array


def pack(source: Path, output: Path, size: int, count: int, seed: int) -> int:
    """Write `count` crops of size x size for training, and some for validation, which are drawn from images of their
    own; both evenly from all places in their images. Returns the file's bytes.

    Raises InputError if fewer than two images have room for a crop, for images that cannot be read or have more than 8
    bits, and for numbers out of range.
    """
    for name, given, least in ("size", size, 1), ("count", count, 1), ("seed", seed, 0):
        if not least <= given <= HIGHEST:
            raise InputError(f"--{name} {given}: must lie between {least} and {HIGHEST}")
    paths = list_images(source, below=True)
    sizes = np.array([stored_size(path) for path in paths])  # (n,2)
    for index in np.flatnonzero((sizes == 0).any(axis=1)):
        decode_8_bits(paths[index])  # raises, and says why
    places = np.maximum(sizes - size + 1, 0).prod(axis=1, dtype=np.float64)
    large = np.flatnonzero(places)
    if len(large) < 2:
        wanted = "two images are needed that have this size or more, one of them for validation"
        raise InputError(f"{source}: {len(large)} of {len(paths)} are {size}x{size} pixels or larger; {wanted}")
    rng = np.random.default_rng(seed)
    apart = np.isin(np.arange(len(paths)), rng.choice(large, max(1, len(large) // ONE_OF), replace=False))
    packed = Pack(
        random_crops(paths, places * ~apart, size, count, rng),
        random_crops(paths, places * apart, size, VALIDATION, rng),
    )
    for crops in packed:
        crops[:, :, 1:] -= crops[:, :, :-1].copy()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **packed._asdict())
    write_atomic(output, buffer.getbuffer())
    return buffer.tell()


def random_crops(
    paths: Sequence[Path], places: NDArray[np.float64], size: int, count: int, rng: np.random.Generator
) -> Array:
    """So many crops (n,P,P,3) of images that have these numbers of places for one."""
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
    return crops


def unpack(file: Path) -> Pack:
    """The crops of a file. Raises InputError for one that `pack` did not write."""
    try:
        with np.load(io.BytesIO(read_bytes(file))) as content:
            return Pack(*(content[name].cumsum(2, dtype=np.uint8) for name in Pack._fields))
    except (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error):
        raise InputError(f"{file}: is no whole file of datasets/scripts/pack.py; pack it, or copy it, again") from None
