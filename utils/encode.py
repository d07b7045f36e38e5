"""Arrays -> image files. Pillow encodes 8 bits, OpenCV 16, which Pillow would cut to 8."""

import io
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image as Pillow

from utils.chunks import COMMENT, LIBPNG_SIDE, XMP, Chunk, keyword, resolution_chunk, text_of, with_chunks
from utils.errors import InputError
from utils.files import FORMATS, write_atomic
from utils.image import Array, Image
from utils.iptc import iptc_segment, iptc_text
from utils.metadata import with_resolution
from utils.tiff import encode_tiff

HOLD_16_BITS = (".png", ".tif", ".tiff")
HOLD_ALPHA = (*HOLD_16_BITS, ".webp")
MOST_SIDE = {".webp": 16383, ".jpg": 65535, ".jpeg": 65535}  # pixels
QUALITY = 95  # JPEG quality, unless the user gives one
SEGMENT = 65000  # bytes of a JPEG's block: it holds 65533, and the mark of inference/outputs.py takes some


def write_image(path: Path, pixels: Array, alpha: Array | None = None) -> None:
    """Write (H,W,3) RGB or (H,W) gray, with alpha (H,W) if given, as save_image does."""
    gray = pixels.ndim == 2
    repeated = np.broadcast_to(pixels[:, :, None], (*pixels.shape, 3)) if gray else pixels
    save_image(path, Image(repeated, alpha, gray))


def save_image(path: Path, image: Image, quality: int | None = None) -> None:
    """Write an image atomically, with as much of its metadata as the format holds; the suffix names the format.

    `quality`, 1 .. 100, is for JPEG and WebP; without it WebP is lossless, as the other formats always are. Gray of 16
    bits with alpha is stored as RGB with alpha, because OpenCV cannot write gray with alpha. Raises InputError if the
    format cannot hold the image or the place cannot be written.
    """
    suffix, deep = path.suffix.lower(), image.pixels.dtype == np.uint16
    assert image.pixels.dtype in (np.uint8, np.uint16), image.pixels.dtype
    if suffix not in FORMATS:
        raise InputError(f"cannot write {path}: the name must end in {', '.join(sorted(FORMATS))}")
    if deep and suffix not in HOLD_16_BITS:  # they would be cut to 8
        raise InputError(f"cannot write {path}: {suffix} does not hold 16 bits per channel; use .png")
    if image.alpha is not None and suffix not in HOLD_ALPHA:
        raise InputError(f"cannot write {path}: {suffix} does not hold alpha; use .png")
    check_limits(path, (image.pixels.shape[0], image.pixels.shape[1]), image.bits)
    single = image.gray and not (deep and image.alpha is not None)
    pixels = image.pixels[:, :, 0] if single else image.pixels
    array = np.ascontiguousarray(pixels if image.alpha is None else np.dstack((pixels, image.alpha)))
    try:
        content = encode(FORMATS[suffix], array, image, quality)
    except (ValueError, OSError, OverflowError) as error:  # the codec cannot do it
        size = f"{pixels.shape[1]}x{pixels.shape[0]} pixels"
        raise InputError(f"cannot write {path}: {size} are too many for {suffix}, or {error}") from None
    # not durable: pictures can be made again, and there may be millions of them
    write_atomic(path, content, durable=False)


def check_limits(path: Path, size: tuple[int, int], bits: int) -> None:
    """Raises InputError if an image of this size (H, W) is too high or wide for the format that the suffix names.

    bits: per channel, 8 or 16.
    """
    suffix = path.suffix.lower()
    most = LIBPNG_SIDE if suffix == ".png" and bits == 16 else MOST_SIDE.get(suffix)
    if most is not None and max(size) > most:
        other = ".tif" if suffix == ".png" else ".png"
        limit = f"{size[1]}x{size[0]} pixels, but a side of a {path.suffix} has at most {most}; use {other}"
        raise InputError(f"cannot write {path}: {limit}")


def encode(kind: str, array: Array, about: Image, quality: int | None) -> bytes | memoryview:
    """The content of a file of (H,W) or (H,W,C), with the metadata of `about`. Raises whatever the encoders raise."""
    if kind == "TIFF":
        blocks = {34675: about.icc, 700: about.xmp, 33723: about.iptc}
        return encode_tiff(array, {tag: block for tag, block in blocks.items() if block}, about.exif, about.dpi)
    if kind == "PNG":
        # level 1 is several times faster than the default, and the file a little larger
        png = encode_16(array) if array.dtype == np.uint16 else encode_8(kind, array, compress_level=1)
        return with_chunks(png, png_chunks(about))
    options: dict[str, Any] = {"icc_profile": about.icc, "exif": about.exif, "xmp": about.xmp}
    if kind == "JPEG":
        # subsampling 0: the colours are as fine as the luma
        options |= {"quality": quality or QUALITY, "subsampling": 0, "dpi": about.dpi and tuple(map(round, about.dpi))}
        options |= {"comment": comment_of(about), "extra": about.iptc and iptc_segment(about.iptc)}
    elif kind == "WEBP":
        # exact: also the colours where alpha is 0
        options |= {"quality": quality, "exact": True} if quality else {"lossless": True, "exact": True}
        options["exif"] = about.exif if about.dpi is None else with_resolution(about.exif, about.dpi)
    return encode_8(kind, array, **{name: value for name, value in options.items() if value is not None})


def encode_8(kind: str, array: Array, **options: Any) -> memoryview:
    buffer = io.BytesIO()
    Pillow.fromarray(array).save(buffer, kind, **options)
    return buffer.getbuffer()


def encode_16(array: Array) -> memoryview:
    """A PNG of (H,W), (H,W,3) or (H,W,4)."""
    code = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}.get(array.shape[-1] if array.ndim == 3 else 1)
    done, content = cv2.imencode(".png", array if code is None else cv2.cvtColor(array, code))
    if not done:
        raise ValueError("refused by the encoder")
    return content.data


def png_chunks(about: Image) -> list[Chunk]:
    """All metadata of an image, as chunks of a PNG."""
    made = [chunk for chunk in about.chunks if not (about.icc and chunk[0] == b"sRGB")]  # a PNG has one of the two
    if about.icc:
        made.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(about.icc)))
    if about.dpi:
        made.append(resolution_chunk(about.dpi))
    if about.exif:
        made.append((b"eXIf", about.exif.removeprefix(b"Exif\0\0")))
    if about.xmp:
        made.append((b"iTXt", XMP + bytes(5) + about.xmp))
    if about.iptc:
        made.append(iptc_text(about.iptc))
    return made


def comment_of(about: Image) -> bytes | None:
    """The comment for a JPEG: the first that is not damaged and fits into a block; None if the image has none."""
    for chunk in about.chunks:
        if keyword(chunk) == COMMENT:
            with suppress(ValueError, IndexError, zlib.error):
                said = text_of(chunk)
                if len(said) <= SEGMENT:
                    return said
    return None
