"""Arrays -> image files. Pillow encodes 8 bits, OpenCV 16, which Pillow would cut to 8."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image as Pillow

from utils.errors import InputError
from utils.files import FORMATS, write_atomic
from utils.image import Array, Image
from utils.patches import bands

HOLD_16_BITS = (".png", ".tif", ".tiff")
HOLD_ALPHA = (*HOLD_16_BITS, ".webp")
QUALITY = 95  # of JPEG, where none is asked for
JPEG_EXIF = 65000  # bytes: one segment holds 65533, and the mark of inference/outputs.py takes some


def save_image(path: Path, image: Image, quality: int | None = None) -> None:
    """Write an image with its metadata, as write_image does."""
    pixels = image.pixels[:, :, 0] if image.gray else image.pixels
    write_image(path, pixels, image.alpha, image.icc, image.exif, quality)


def write_image(
    path: Path,
    pixels: Array,
    alpha: Array | None = None,
    icc: bytes | None = None,
    exif: bytes | None = None,
    quality: int | None = None,
) -> None:
    """Write (H,W,3) RGB or (H,W) gray, with alpha (H,W) if given, atomically; the suffix names the format.

    `quality`, 1 .. 100, is JPEG's and WebP's; without one WebP is lossless, as the other kinds always are. Gray of 16
    bits with alpha is stored as RGB with alpha, and TIFF of 16 bits keeps no metadata: OpenCV writes neither.
    Raises InputError if the format cannot hold the image or the place cannot be written.
    """
    suffix = path.suffix.lower()
    assert pixels.dtype in (np.uint8, np.uint16), pixels.dtype
    deep = pixels.dtype == np.uint16
    if suffix not in FORMATS:
        raise InputError(f"cannot write {path}: the name must end in {', '.join(sorted(FORMATS))}")
    if deep and suffix not in HOLD_16_BITS:  # they would be cut to 8
        raise InputError(f"cannot write {path}: {suffix} does not hold 16 bits per channel; use .png")
    if alpha is not None and suffix not in HOLD_ALPHA:
        raise InputError(f"cannot write {path}: {suffix} does not hold alpha; use .png")
    try:
        if deep:
            content = encode_16(suffix, pixels, alpha, icc, exif)
        else:
            content = encode_8(FORMATS[suffix], pixels, alpha, icc, exif, quality)
    except (ValueError, OSError, OverflowError) as error:  # what a codec cannot do
        size = f"{pixels.shape[1]}x{pixels.shape[0]} pixels"
        raise InputError(f"cannot write {path}: {size} are too many for {suffix}, or {error}") from None
    write_atomic(path, content, durable=False)  # pictures can be made again, by the million at times


def encode_8(
    kind: str, pixels: Array, alpha: Array | None, icc: bytes | None, exif: bytes | None, quality: int | None
) -> memoryview:
    array = pixels if alpha is None else np.dstack((pixels, alpha))
    options: dict[str, Any] = {name: value for name, value in (("icc_profile", icc), ("exif", exif)) if value}
    if kind == "JPEG":  # without coarser colours
        options |= {"quality": quality or QUALITY, "subsampling": 0}
    elif kind == "WEBP":  # exact: also the colours where alpha is 0
        options |= {"quality": quality, "exact": True} if quality else {"lossless": True, "exact": True}
    elif kind == "PNG":  # several times sooner and a little larger than by default
        options |= {"compress_level": 1}
    elif kind == "TIFF":
        options |= {"compression": "tiff_lzw"}
    buffer = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(array)).save(buffer, kind, **options)
    return buffer.getbuffer()


def encode_16(suffix: str, pixels: Array, alpha: Array | None, icc: bytes | None, exif: bytes | None) -> memoryview:
    array = pixels[:, :, ::-1] if pixels.ndim == 3 else pixels
    if alpha is not None:
        array = np.dstack((*[array] * (3 if pixels.ndim == 2 else 1), alpha))
    blocks = [(cv2.IMAGE_METADATA_ICCP, icc), (cv2.IMAGE_METADATA_EXIF, exif and exif.removeprefix(b"Exif\0\0"))]
    held = [(kind, np.frombuffer(block, np.uint8)[None]) for kind, block in blocks if block and suffix == ".png"]
    kinds, metadata = [kind for kind, _ in held], [block for _, block in held]
    done, content = cv2.imencodeWithMetadata(suffix, np.ascontiguousarray(array), kinds, metadata)
    if not done:
        raise ValueError("refused by the encoder")
    return content.data


def reduce_to(suffix: str, image: Image) -> tuple[Image, list[str]]:
    """The image as a file of the kind that suffix names (.png, .jpg, .webp) can hold it, and a note for every loss.

    JPEG: laid on white where it is transparent, gray stays gray. JPEG and WebP: 16 bits are rounded to 8.
    A gray profile is left out where gray is stored as RGB.
    """
    notes = []
    if image.bits == 16 and suffix not in HOLD_16_BITS:
        notes.append(f"{suffix} holds 8 bits per channel: rounded")
        alpha = None if image.alpha is None else to_8_bits(image.alpha)
        image = replace(image, pixels=to_8_bits(image.pixels), alpha=alpha)
    if image.alpha is not None and suffix not in HOLD_ALPHA:
        if image.alpha.min() < np.iinfo(image.alpha.dtype).max:
            notes.append(f"{suffix} holds no transparency: laid on white")
        image = replace(image, pixels=on_white(image.pixels, image.alpha), alpha=None)
    as_rgb = suffix == ".webp" or (image.bits == 16 and image.alpha is not None)
    if image.gray and as_rgb:
        if image.icc is not None:
            notes.append(f"gray is stored as RGB in this {suffix}: gray colour profile left out")
        image = replace(image, gray=False, icc=None)
    if image.exif is not None and suffix == ".jpg" and len(image.exif) > JPEG_EXIF:
        notes.append(f"{suffix} does not hold so much EXIF: left out")
        image = replace(image, exif=None)
    return image, notes


def to_8_bits(array: Array) -> Array:
    """uint16 (H,W,...) -> the nearest of 256 levels."""
    reduced = np.empty(array.shape, np.uint8)
    for rows in bands(len(array)):
        reduced[rows] = (array[rows].astype(np.uint32) + 128) // 257
    return reduced


def on_white(pixels: Array, alpha: Array) -> Array:
    """(H,W,3) under alpha (H,W), both uint8, before a white ground."""
    laid = np.empty(pixels.shape, np.uint8)
    for rows in bands(len(pixels)):
        share = alpha[rows, :, None].astype(np.float32) / 255
        laid[rows] = (pixels[rows] * share + 255 * (1 - share)).round()
    return laid
