"""An image reduced to what a file format holds, saying what is lost."""

from dataclasses import replace

import numpy as np

from utils.encode import HOLD_16_BITS, HOLD_ALPHA
from utils.image import Array, Image

ROWS = 256  # reduced together: floating-point copies of a whole large image would not fit into memory
JPEG_EXIF = 65000  # bytes: one segment holds 65533, and the mark of inference/outputs.py takes some


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
    made = np.empty(array.shape, np.uint8)
    for top in range(0, len(array), ROWS):
        made[top : top + ROWS] = (array[top : top + ROWS].astype(np.uint32) + 128) // 257
    return made


def on_white(pixels: Array, alpha: Array) -> Array:
    """(H,W,3) under alpha (H,W), both uint8, before a white ground."""
    made = np.empty(pixels.shape, np.uint8)
    for top in range(0, len(pixels), ROWS):
        rows = slice(top, top + ROWS)
        share = alpha[rows, :, None].astype(np.float32) / 255
        made[rows] = (pixels[rows] * share + 255 * (1 - share)).round()
    return made
