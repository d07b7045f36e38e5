"""TIFF files: writing them with metadata, checking them, and taking damaged ones apart."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import ExifTags, TiffImagePlugin, TiffTags
from PIL import Image as Pillow
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from utils.image import Array, check_claim
from utils.metadata import DESCRIPTIVE
from utils.patches import bands

STRIP = 1 << 20  # bytes of pixels that are compressed together
RESOLUTION_TAGS = 282, 283, 296
LARGEST = (1 << 32) - (1 << 20)  # bytes of all strips: offsets have 32 bits, and metadata need some room
SAMPLES_ARE = {1: "unsigned", 2: "signed", 3: "float", 5: "complex", 6: "complex"}
PLAIN, DEFLATE = 1, (8, 32946)  # kinds of compression
# how the pixels are stored: bits, compression, colours, channels, planes, predictor, palette, alpha, JPEG's tables, ICC
STORED = {258, 259, 262, 266, 277, 284, 292, 293, 317, 320, 338, 339, 347, 530, 531, 532, 34675}

# Pillow opens files of float samples only if they are gray. Others are opened for their metadata; OpenCV decodes them.
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
        if 254 <= tag < 700 and tag not in (*DESCRIPTIVE, *RESOLUTION_TAGS):  # how another file stores its pixels
            continue
        if tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            inner = dict(block.get_ifd(tag))
            if ExifTags.IFD.Interop in inner:
                inner[ExifTags.IFD.Interop] = block.get_ifd(ExifTags.IFD.Interop)
            yield tag, inner
        else:
            yield tag, value


def check_tags(content: bytes) -> None:
    """Raises ValueError if the first directory of a TIFF has a tag twice, of which decoders take either."""
    order, big = "<" if content.startswith(b"II") else ">", content[2:4] in (b"+\0", b"\0+")  # BigTIFF
    head, first, number, entry = (8, "Q", "Q", 20) if big else (4, "I", "H", 12)
    (place,) = struct.unpack_from(order + first, content, head)
    (count,) = struct.unpack_from(order + number, content, place)
    start = place + struct.calcsize(number)
    tags = [content[each : each + 2] for each in range(start, min(start + count * entry, len(content)), entry)]
    if len(set(tags)) < len(tags):
        raise ValueError("a tag stands twice in its directory")


def check_strips(file: TiffImageFile, size: int) -> None:
    """Raises ValueError if strips or tiles lie beyond the `size` bytes, or leave some of the picture blank."""
    tags, area = file.tag_v2, file.width * file.height  # 258: BitsPerSample, 259: Compression, 284: PlanarConfiguration
    if tags.get(259, 1) > 1:  # libtiff notices missing data only after it has taken the memory
        parts = zip(tags.get(273) or tags.get(324, ()), tags.get(279) or tags.get(325, ()), strict=False)
        whole = all(offset + count <= size for offset, count in parts)
    else:
        planes = tags.get(277, 1) if tags.get(284) == 2 else 1
        boxes = [tile.extents or (0, 0, 0, 0) for tile in file.tile]
        covered = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
        whole = covered >= area * planes and area * sum(tags.get(258, (1,))) <= 8 * size
    if not whole:
        raise ValueError("truncated")


def parts(file: TiffImageFile, content: bytes) -> Iterator[tuple[tuple[slice, slice], bytes]]:
    """The place of each strip or tile in the image, and its data, as far as they are there, as a TIFF of its own.

    Raises ValueError for a kind of TIFF that cannot be taken apart.
    """
    tags, marks = file.tag_v2, {b"II": b"*\0", b"MM": b"\0*"}
    if tags.get(284) == 2 and tags.get(277, 1) > 1:
        raise ValueError("colours in separate planes")
    (width, height), tiled = (tags[256], tags[257]), 324 in tags
    across, down = (tags[322], tags[323]) if tiled else (width, min(height, tags.get(278, height)))
    check_claim(across, down, len(content))
    places, counts = (tags[324], tags[325]) if tiled else (tags[273], tags[279])
    for number, (place, count) in enumerate(zip(places, counts, strict=False)):
        row, column = divmod(number, -(-width // across))
        top, left, data = row * down, column * across, content[place : place + count]
        if top >= height or not data:
            continue
        rows = down if tiled else min(down, height - top)
        if len(data) < count:
            data = filled(data, tags.get(259, 1), rows * -(-across * sum(tags.get(258, (1,))) // 8))
        directory = ImageFileDirectory_v2(content[:2] + marks[content[:2]] + bytes(4))
        for tag in STORED.intersection(tags):
            directory.tagtype[tag] = tags.tagtype[tag]
            directory[tag] = tags[tag]
        directory[256], directory[257], directory[278] = across, rows, rows
        directory.tagtype[273] = directory.tagtype[279] = TiffTags.LONG
        directory[273], directory[279] = 0, len(data)
        made = io.BytesIO()
        directory.save(made)
        yield (slice(top, top + rows), slice(left, left + across)), made.getvalue() + data


def filled(data: bytes, compression: int, size: int) -> bytes:
    """A strip or tile that is cut short, with zeros for the missing pixels if its compression allows it."""
    if compression == PLAIN:
        return data.ljust(size, b"\0")
    if compression in DEFLATE:
        return zlib.compress(zlib.decompressobj().decompress(data, size).ljust(size, b"\0"), 1)
    return data


def kind_of(content: bytes) -> str:
    """The reason, for people, why a TIFF is not read. Raises whatever Pillow raises for a damaged one."""
    directory = ImageFileDirectory_v2(content[:8])
    file = io.BytesIO(content)
    file.seek(directory.next)
    directory.load(file)
    if 257 not in directory:  # many programs write it at the end
        return "truncated: its directory is missing, which says where the pixels are"
    bits, form = max(directory.get(258, (1,))), max(directory.get(339, (1,)))
    count, light = directory.get(277, 1), directory.get(262)
    samples = f"{bits}-bit {SAMPLES_ARE.get(form, 'unknown')} samples"
    return f"a TIFF of {count} channels of {samples}, photometric {light}, which is not supported"


def levels_of(array: Array) -> Array:
    """Float samples in [0,1] as 16 bits. Raises ValueError for values beyond."""
    made = np.empty(array.shape, np.uint16)
    for rows in bands(len(array)):
        band = array[rows]
        if not (band.min() >= 0 and band.max() <= 1):  # nan is neither
            raise ValueError("float samples beyond 0 .. 1; scale them into that range")
        made[rows] = (band * 65535).round()
    return made
