"""Arrays -> the content of an image file. Pillow encodes 8 bits, OpenCV 16, which Pillow would cut to 8."""

import io
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
FORMATS |= {".tif": "TIFF", ".tiff": "TIFF"}
HOLD_16_BITS = (".png", ".tif", ".tiff")
HOLD_ALPHA = (*HOLD_16_BITS, ".webp")
LOSSY = (".jpg", ".jpeg", ".webp")
QUALITY = 95  # of JPEG, where none is asked for


def encode(
    suffix: str,
    pixels: NDArray[Any],
    alpha: NDArray[Any] | None = None,
    icc: bytes | None = None,
    exif: bytes | None = None,
    quality: int | None = None,
) -> bytes | memoryview:
    """(H,W,3) RGB or (H,W) gray of 8 or 16 bits, with alpha (H,W) if given -> a file of the kind that suffix names.

    `quality`, 1 .. 100, is JPEG's and WebP's; without one WebP is lossless, as the other kinds always are. TIFF of 16
    bits keeps no metadata and gray of 16 bits with alpha is stored as RGB: OpenCV writes neither.
    Raises ValueError if the format cannot hold the image.
    """
    if pixels.dtype == np.uint16:
        return encode_16(suffix, pixels, alpha, icc, exif)
    array = pixels if alpha is None else np.dstack((pixels, alpha))
    metadata = {name: value for name, value in (("icc_profile", icc), ("exif", exif)) if value}
    buffer = io.BytesIO()
    kind = FORMATS[suffix]
    try:
        Pillow.fromarray(np.ascontiguousarray(array)).save(buffer, kind, **options(kind, quality), **metadata)
    except (OSError, OverflowError) as error:  # what a codec cannot do
        raise ValueError(str(error)) from None
    return buffer.getbuffer()


def options(kind: str, quality: int | None) -> dict[str, Any]:
    """Pillow's options: JPEG without coarser colours, PNG several times sooner and a little larger than by default."""
    if kind == "JPEG":
        return {"quality": quality or QUALITY, "subsampling": 0}
    if kind == "WEBP":  # exact: also the colours where alpha is 0
        return {"quality": quality, "exact": True} if quality else {"lossless": True, "exact": True}
    if kind == "PNG":
        return {"compress_level": 1}
    return {"compression": "tiff_lzw"} if kind == "TIFF" else {}


def encode_16(
    suffix: str, pixels: NDArray[Any], alpha: NDArray[Any] | None, icc: bytes | None, exif: bytes | None
) -> memoryview:
    """PNG or TIFF of 16 bits."""
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
