"""Image files <-> arrays: PNG, JPEG, WebP, TIFF, BMP; 8 and 16 bit; gray, RGB, palette, alpha; EXIF orientation.

Pillow decodes what has 8 bits and checks every file to its end; OpenCV decodes 16 bits, which Pillow would cut to 8.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps
from torch import Tensor

from utils.errors import InputError
from utils.files import write_atomic

Array = NDArray[Any]  # uint8 or uint16
Pillow.MAX_IMAGE_PIXELS = None  # large images are what this project is for
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I")  # Pillow's names for 16-bit gray


@dataclass(frozen=True)
class Image:
    """A decoded image, upright."""

    pixels: Array  # (H,W,3) RGB, uint8 or uint16
    alpha: Array | None  # (H,W), same type
    gray: bool  # the file had a single colour channel; `pixels` repeats it

    @property
    def bits(self) -> int:
        return 8 * self.pixels.dtype.itemsize


def read_image(path: str | Path) -> Image:
    """Decode a file. Raises InputError if it is missing, empty, truncated, or no image this project takes."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    try:
        with Pillow.open(io.BytesIO(content)) as file:
            depth = bit_depth(file, content)
            file.load()  # decodes to the end: a truncated file raises here
            orientation = file.getexif().get(0x0112, 1)
            if depth == 8:
                upright = ImageOps.exif_transpose(file)
                return from_pillow(upright)
            mode = file.mode
    except (OSError, SyntaxError, ValueError, EOFError, Pillow.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable image ({error}); give a PNG, JPEG, WebP, TIFF or BMP") from None
    if depth != 16:
        raise InputError(f"{path}: {depth} bits per channel; 8 and 16 are supported")
    array = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16:
        raise InputError(f"{path}: a 16-bit {mode} image of a kind that is not supported; save it as PNG")
    return from_opencv(rotate(array, orientation))


def bit_depth(file: Pillow.Image, content: bytes) -> int:
    """Bits per channel as stored."""
    if file.format == "PNG":
        return 16 if content[24] == 16 else 8  # IHDR: depths below 8 are expanded by the decoder
    if file.format == "TIFF":
        bits = file.tag_v2.get(258, (8,))  # type: ignore[attr-defined]  # BitsPerSample
        return max(8, max(bits) if isinstance(bits, tuple) else bits)
    return 16 if file.mode in DEEP_MODES else 8


def from_pillow(file: Pillow.Image) -> Image:
    has_alpha = "A" in file.getbands() or "a" in file.getbands() or "transparency" in file.info
    gray = file.mode in ("1", "L", "LA", "La")
    alpha = np.array(file.convert("RGBA").getchannel("A")) if has_alpha else None
    rgb = file.convert("RGBA").convert("RGB") if has_alpha else file.convert("RGB")
    return Image(np.array(rgb), alpha, gray)


def from_opencv(array: Array) -> Image:
    """(H,W), (H,W,3) BGR or (H,W,4) BGRA."""
    if array.ndim == 2:
        return Image(np.repeat(array[:, :, None], 3, axis=2), None, True)
    alpha = np.ascontiguousarray(array[:, :, 3]) if array.shape[2] == 4 else None
    pixels = np.ascontiguousarray(array[:, :, 2::-1])
    gray = alpha is not None and bool((pixels == pixels[:, :, :1]).all())  # gray+alpha arrives as BGRA
    return Image(pixels, alpha, gray)


def rotate(array: Array, orientation: int) -> Array:
    """Apply an EXIF orientation (1 .. 8)."""
    if orientation >= 5:
        array = np.swapaxes(array, 0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def to_tensor(pixels: Array) -> Tensor:
    """(H,W,3) or (H,W) of 8 or 16 bit -> float32 (1,3,H,W) or (1,1,H,W) in [0,1]."""
    peak = float(np.iinfo(pixels.dtype).max)
    planes = np.atleast_3d(pixels).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(planes, dtype=np.float32)).div_(peak)[None]


def to_pixels(image: Tensor, bits: int = 8) -> Array:
    """(1,3,H,W) or (1,1,H,W) -> (H,W,3) or (H,W), clamped to [0,1] and rounded to `bits`."""
    levels = image.detach()[0].cpu().clamp(0, 1).mul(2**bits - 1).round().permute(1, 2, 0).numpy()
    array = levels.astype(np.uint8) if bits == 8 else levels.astype(np.uint16)
    return array[:, :, 0] if array.shape[2] == 1 else array


def write_image(path: str | Path, pixels: Array, alpha: Array | None = None) -> None:
    """Write (H,W,3) RGB or (H,W) gray, with alpha if given, atomically; the suffix names the format.

    Raises InputError if the format cannot hold the image or the place cannot be written.
    """
    path = Path(path)
    channels = [pixels] if pixels.ndim == 2 else [pixels[:, :, 2], pixels[:, :, 1], pixels[:, :, 0]]
    if alpha is not None:
        channels = [*(channels * 3 if pixels.ndim == 2 else channels), alpha]
    array = channels[0] if len(channels) == 1 else np.stack(channels, axis=2)
    try:
        done, content = cv2.imencode(path.suffix, array)
    except cv2.error as error:
        raise InputError(f"cannot write {path} in this format ({error.err}); use .png") from None
    if not done:
        raise InputError(f"cannot write {path} in this format; use .png")
    write_atomic(path, content.tobytes())
