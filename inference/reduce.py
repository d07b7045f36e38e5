"""Makes an image fit the format of its file: what the format lacks is changed or left out, with a note for each."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from utils.chunks import COLOUR_CHUNKS, COMMENT, TEXT_CHUNKS, keyword, shows_as_srgb
from utils.encode import HOLD_16_BITS, HOLD_ALPHA, SEGMENT, comment_of
from utils.image import Array, Image
from utils.patches import bands

HOLD_IPTC = (".png", ".jpg", ".tif", ".tiff")


def reduce_to(suffix: str, image: Image) -> tuple[Image, list[str]]:
    """The image as a file of the kind that suffix names (.png, .jpg, .webp, .tif) holds it, and a note for every loss.

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
    for field, what in ("exif", "EXIF"), ("xmp", "XMP"), ("iptc", "IPTC"):
        if suffix == ".jpg" and len(getattr(image, field) or b"") > SEGMENT:
            notes.append(f"{suffix} does not hold so much {what}: left out")
            without: dict[str, Any] = {field: None}
            image = replace(image, **without)
    if image.iptc is not None and suffix not in HOLD_IPTC:
        notes.append(f"{suffix} holds no IPTC: left out")
        image = replace(image, iptc=None)
    if suffix != ".png":
        notes += of_png(suffix, image)
    return image, notes


def of_png(suffix: str, image: Image) -> Iterator[str]:
    """A note for each kind of PNG's chunks that another format leaves out."""
    yield from other_colours(suffix, image)
    texts = [keyword(chunk) for chunk in image.chunks if chunk[0] in TEXT_CHUNKS]
    if suffix == ".jpg" and COMMENT in texts:
        if comment_of(image) is None:
            yield f"the comment is damaged or longer than {suffix} holds: left out"
        elif texts.count(COMMENT) > 1:
            yield f"{suffix} holds one comment, here the first that fits: the others are left out"
        texts = [each for each in texts if each != COMMENT]
    if lost := [each.decode("latin-1") for each in dict.fromkeys(texts)]:
        yield f"{suffix} holds no such texts: {', '.join(lost)} left out"


def other_colours(kind: str, image: Image) -> Iterator[str]:
    """A note if what a PNG says of its colours is not held by a file, or an object, of this kind."""
    first = any(name == b"cICP" for name, _ in image.chunks)  # it counts more than a profile
    if (image.icc is None or first) and not shows_as_srgb(image.chunks):
        names = ", ".join(name.decode() for name, _ in image.chunks if name in COLOUR_CHUNKS)
        yield f"{kind} does not hold what a PNG says of its colours ({names}): they may look different"


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
