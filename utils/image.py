"""An image in memory: its pixels as arrays and tensors, and its metadata."""

import ctypes
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import _imaging
from torch import Tensor

Array = NDArray[Any]  # of any type; an image has uint8 or uint16

MAX_PIXELS = 2**30  # an image that is read or made has no more; OpenCV has the same limit
HARMLESS = 2**25  # images of no more pixels are not checked, as they cannot fill the memory
# Pixels per byte of file that are believed. A PNG of one bit and one colour reaches 8256; only a lossless WebP or a fax
# (TIFF G4) of nearly one colour has more, and is refused if it is larger than HARMLESS.
PACKED = 2**14

# OpenCV, Pillow and Pillow's libtiff print errors that they also return or raise; here they are silenced.
# OpenCV's libpng cannot be silenced, and only gets data that cause no message, see utils.chunks.bare.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
logging.getLogger("PIL").addHandler(logging.NullHandler())  # handlers that a program has set up still get the messages
with suppress(AttributeError, OSError):  # a Pillow without libtiff, or one that does not show its functions
    for _setter in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        getattr(ctypes.CDLL(_imaging.__file__), _setter)(None)
QUIET = threading.RLock()  # the filters of warnings belong to the whole process


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings: real damage is raised as an exception anyway."""
    with QUIET, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def check_claim(width: int, height: int, size: int) -> None:
    """Raises ValueError if a file of `size` bytes cannot hold that many pixels, before memory is taken for them."""
    if width * height > MAX_PIXELS or HARMLESS < width * height > PACKED * size:
        raise ValueError(f"claims {width}x{height} pixels, which {size} bytes do not hold")


class Lossy(NamedTuple):
    """The lossy compression of a file, which changed its pixels."""

    format: str  # JPEG or WebP
    quality: int | None = None  # 1 .. 100, estimated from the quantisation tables of a JPEG; None if that is unknown

    def __str__(self) -> str:
        return f"lossy {self.format}" if self.quality is None else f"{self.format} of quality about {self.quality}"


@dataclass(frozen=True)
class Image:
    """A decoded image, upright."""

    pixels: Array  # (H,W,3) RGB, uint8 or uint16
    alpha: Array | None  # (H,W), same type, not premultiplied
    gray: bool  # the file has a single colour channel; `pixels` repeats it
    icc: bytes | None = None  # colour profile of the pixels, gray or RGB as they are
    exif: bytes | None = None  # without orientation
    xmp: bytes | None = None  # the same
    iptc: bytes | None = None
    dpi: tuple[float, float] | None = None  # pixels per inch of the print, across and down
    chunks: tuple[tuple[bytes, bytes], ...] = ()  # chunks of a PNG: texts, and the meaning of the values as colours
    notes: tuple[str, ...] = ()  # for people: things that were left out or changed in reading the file
    lossy: Lossy | None = None  # how the file was compressed; None if it is no JPEG and no lossy WebP

    @property
    def bits(self) -> int:
        return 8 * self.pixels.dtype.itemsize


def fill_transparent(pixels: Array, alpha: Array) -> Array:
    """Colours (H,W,3) in which fully transparent pixels, alpha (H,W) = 0, take the colour of the nearest visible one.

    Otherwise the hidden colours would bleed into the edges when the image is resized.
    """
    hidden = (alpha == 0).astype(np.uint8)
    if not hidden.any() or hidden.all():
        return pixels
    _, labels = cv2.distanceTransformWithLabels(hidden, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    colours = np.zeros((int(labels.max()) + 1, 3), pixels.dtype)  # by label, one per visible pixel
    visible = hidden == 0
    colours[labels[visible]] = pixels[visible]
    return colours[labels]


def to_tensor(pixels: Array) -> Tensor:
    """(H,W,3) or (H,W) of 8 or 16 bit -> float32 (1,3,H,W) or (1,1,H,W) in [0,1]."""
    peak = float(np.iinfo(pixels.dtype).max)
    planes = np.atleast_3d(pixels).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(planes, dtype=np.float32)).div_(peak)[None]


def to_pixels(image: Tensor, bits: int = 8) -> Array:
    """(1,3,H,W) or (1,1,H,W) -> (H,W,3) or (H,W), clamped to [0,1] and rounded to `bits`, 8 or 16."""
    levels = image.detach()[0].float().clamp(0, 1).mul(2**bits - 1).round().permute(1, 2, 0).cpu().numpy()
    array = levels.astype(np.uint8 if bits == 8 else np.uint16, order="C")
    return array[:, :, 0] if array.shape[2] == 1 else array
