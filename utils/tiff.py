"""TIFF files: written with all that they can say, and their kind told."""

import io
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import ExifTags, TiffImagePlugin, TiffTags
from PIL import Image as Pillow
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from utils.image import Array
from utils.metadata import DESCRIPTIVE
from utils.patches import bands

STRIP = 1 << 20  # bytes of pixels that are compressed together
LARGEST = (1 << 32) - (1 << 20)  # bytes of a file, whose offsets have 32 bits
SAMPLES_ARE = {1: "unsigned", 2: "signed", 3: "float", 5: "complex", 6: "complex"}
TIFF_MARKS = b"II*\0", b"MM\0*"

# Pillow opens no file of float samples but gray ones. What it says of such a file is needed, its pixels are OpenCV's.
for _prefix in (b"II", b"MM"):
    for _count, _mode, _extra in ((3, "RGB", ()), (4, "RGBA", (2,)), (4, "RGBX", (0,))):
        TiffImagePlugin.OPEN_INFO.setdefault((_prefix, 2, (3,), 1, (32,) * _count, _extra), (_mode, "float"))


def encode_tiff(array: Array, tags: dict[int, bytes], exif: bytes | None, dpi: tuple[float, float] | None) -> bytes:
    """(H,W) or (H,W,C), 8 or 16 bits, with alpha if C is 2 or 4; compressed without loss.

    tags: further ones, each a block of bytes. Raises ValueError for an image that is too large for a TIFF.
    """
    height, width = array.shape[:2]
    channels = 1 if array.ndim == 2 else array.shape[2]
    directory = ImageFileDirectory_v2()
    for tag, value in exif_tags(exif):
        directory[tag] = value
    directory[256], directory[257] = width, height
    directory[258] = (8 * array.itemsize,) * channels
    directory[259], directory[317] = 8, 2  # deflate, of the differences between neighbours
    directory[262], directory[277], directory[284] = 1 if channels < 3 else 2, channels, 1
    if channels in (2, 4):
        directory[338] = 2  # alpha, not premultiplied
    if dpi is not None:
        directory[282], directory[283], directory[296] = *dpi, 2
    for tag, block in tags.items():
        directory.tagtype[tag] = TiffTags.BYTE if tag == 700 else TiffTags.UNDEFINED
        directory[tag] = block
    rows = max(1, STRIP // (width * channels * array.itemsize))
    strips = [strip(array[top : top + rows]) for top in range(0, height, rows)]
    sizes = [len(each) for each in strips]
    if sum(sizes) > LARGEST:
        raise ValueError("a TIFF of more than 4 GB")
    directory.tagtype[273] = directory.tagtype[279] = TiffTags.LONG
    directory[278], directory[279] = rows, tuple(sizes)
    directory[273] = tuple(np.cumsum([0, *sizes[:-1]]).tolist())  # Pillow adds where the strips begin
    file = io.BytesIO()
    directory.save(file)
    return b"".join([file.getvalue(), *strips])


def strip(rows: Array) -> bytes:
    differences = rows.copy()
    differences[:, 1:] -= rows[:, :-1]
    return zlib.compress(differences.astype(differences.dtype.newbyteorder("<")).tobytes(), 1)


def exif_tags(exif: bytes | None) -> Iterator[tuple[int, Any]]:
    """The tags of an EXIF block, which in a TIFF stand among the others."""
    block = Pillow.Exif()
    if exif is not None:
        block.load(exif)
    for tag, value in block.items():
        if 254 <= tag < 700 and tag not in DESCRIPTIVE:  # how another file stores its pixels
            continue
        if tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            inner = dict(block.get_ifd(tag))
            if ExifTags.IFD.Interop in inner:
                inner[ExifTags.IFD.Interop] = block.get_ifd(ExifTags.IFD.Interop)
            yield tag, inner
        else:
            yield tag, value


def check_strips(file: TiffImageFile, size: int) -> None:
    """Raises ValueError if strips or tiles lie beyond the `size` bytes, or leave some of the picture blank."""
    tags, area = file.tag_v2, file.width * file.height  # 258: BitsPerSample, 259: Compression, 284: PlanarConfiguration
    if tags.get(259, 1) > 1:  # libtiff finds out what is missing, after it has taken the memory
        parts = zip(tags.get(273) or tags.get(324, ()), tags.get(279) or tags.get(325, ()), strict=False)
        whole = all(offset + count <= size for offset, count in parts)
    else:
        planes = tags.get(277, 1) if tags.get(284) == 2 else 1
        boxes = [tile.extents or (0, 0, 0, 0) for tile in file.tile]
        covered = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
        whole = covered >= area * planes and area * sum(tags.get(258, (1,))) <= 8 * size
    if not whole:
        raise ValueError("truncated")


def kind_of(content: bytes) -> str:
    """For people: what samples a TIFF has. Raises whatever Pillow raises of a damaged one."""
    directory = ImageFileDirectory_v2(content[:8])
    file = io.BytesIO(content)
    file.seek(directory.next)
    directory.load(file)
    bits, form = max(directory.get(258, (1,))), max(directory.get(339, (1,)))
    count, light = directory.get(277, 1), directory.get(262)
    return f"a TIFF of {count} channels of {bits}-bit {SAMPLES_ARE.get(form, 'unknown')} samples, photometric {light}"


def levels_of(array: Array) -> Array:
    """Float samples in [0,1] as 16 bits. Raises ValueError for values beyond."""
    made = np.empty(array.shape, np.uint16)
    for rows in bands(len(array)):
        band = array[rows]
        if not (band.min() >= 0 and band.max() <= 1):  # nan is neither
            raise ValueError("float samples beyond 0 .. 1; scale them into that range")
        made[rows] = (band * 65535).round()
    return made
