"""Image files -> arrays: PNG, JPEG, WebP, TIFF, BMP, GIF; 8 and 16 bit; gray, RGB, palette, alpha; EXIF orientation.

Pillow identifies every file and decodes 8 bits; OpenCV decodes 16, which Pillow would cut to 8, and float samples.
Colour profiles are kept and not applied: the values are those of the file. Only CMYK becomes sRGB, by its profile.
"""

import contextlib
import io
import struct
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL import ImageFile, PngImagePlugin, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from utils.chunks import (
    LONGEST_TEXT,
    TIFF_STARTS,
    Chunk,
    bare,
    check_pixels,
    chunks,
    exif_and_xmp,
    mended,
    without_texts,
)
from utils.errors import InputError, refused_memory
from utils.files import FORMATS, READ_ONLY, read_bytes
from utils.image import MAX_PIXELS, Array, Image, Lossy, check_claim, quiet
from utils.jpeg import JPEG, check_scans, jpeg_quality
from utils.metadata import ORIENTATION, cmyk_to_rgb, read_exif, read_metadata, read_orientation, read_xmp
from utils.tiff import check_strips, check_tags, kind_of, levels_of, parts
from utils.webp import is_lossy_webp, mended_webp, webp_size

KINDS = tuple(dict.fromkeys((FORMATS | READ_ONLY).values()))  # Pillow may only try these
PNG, WEBP = b"\x89PNG", b"WEBP"
WEBP_REACH = 8  # rows above the first damaged one that may be wrong too, because blocks are smoothed at their edges
# bytes that are found at the beginning of files of other kinds
UNREAD_KINDS = {b"ftyphei": "HEIC", b"ftypmif1": "HEIC", b"ftypavif": "AVIF", b"8BPS": "Photoshop's own format"}
UNREAD_KINDS |= {b"ftypcrx": "a raw file of a camera", b"FUJIFILM": "a raw file of a camera", b"jP  ": "JPEG 2000"}
UNREAD_KINDS |= {b"JXL ": "JPEG XL", b"<svg": "SVG", b"\x76\x2f\x31\x01": "OpenEXR"}
Pillow.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # a global is the only way to say it, and Pillow refuses from twice its value
PngImagePlugin.MAX_TEXT_CHUNK = LONGEST_TEXT  # the same; a file with a longer compressed text counts as damaged


def read_image(path: str | Path, accept_damaged: bool = False, remedy: str = "") -> Image:
    """Decode a file; of several frames or pages, the first. Its notes tell what was left out or is damaged.

    With accept_damaged, a damaged file is decoded as far as possible. `remedy` ends the error for a file of which that
    would decode something: callers that offer it say how to ask for it. Raises InputError if the file is missing, of a
    kind that is not supported, or damaged in any way that its format reveals.
    """
    content = read_bytes(Path(path))
    with quiet():
        try:
            return decode_image(content)
        except Exception as error:  # Pillow may raise anything: KeyError, struct.error, MemoryError, ...
            unknown = isinstance(error, UnidentifiedImageError)
            said = "there is too little memory for it" if refused_memory(error) else " ".join(str(error).split())
            reason = unread_kind(content) if unknown else said
            image = decode_damaged(content) if accept_damaged or remedy else None
            if accept_damaged and image:
                note = f"damaged ({reason}): what can be decoded is taken, and one colour stands for the rest"
                return replace(image, notes=(note, *image.notes))
            advice = f"; {remedy}" if image and remedy else ""
            kinds = "PNG, JPEG, WebP, TIFF, BMP or GIF of 8 or 16 bits per channel"
            raise InputError(f"{path}: not a readable {kinds} ({reason}){advice}") from error


def unread_kind(content: bytes) -> str:
    """The name of an unsupported kind of file, for the error message."""
    if not content:
        return "the file is empty"
    try:
        if content.startswith(TIFF_STARTS):
            return kind_of(content)
    except Exception:  # no TIFF after all, or a damaged one
        return "damaged or of another kind"
    names = [name for mark, name in UNREAD_KINDS.items() if mark in content[:16]]
    return f"{names[0]}: save it as TIFF, PNG or JPEG first" if names else "damaged or of another kind"


def decode_damaged(content: bytes) -> Image | None:
    """A damaged file, decoded as far as possible; None if nothing can be decoded."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True  # Pillow knows no other way
    try:
        if content[8:12] == WEBP:
            return decode_cut_webp(content)
        return decode_image(mended(content) if content.startswith(PNG) else content, damaged=True)
    except Exception:  # as in read_image
        return None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def decode_cut_webp(content: bytes) -> Image:
    """A truncated WebP, decoded down to the first row that depends on the missing data.

    Libraries decode only whole files, so the missing data are filled in with two different bytes and the results are
    compared: rows that differ depend on them.
    """
    image, other = (decode_image(mended_webp(content, fill)) for fill in (b"\0", b"\x55"))
    rows = (image.pixels != other.pixels).any(axis=(1, 2))
    if image.alpha is not None and other.alpha is not None:
        rows |= (image.alpha != other.alpha).any(axis=1)
    if rows.any():
        start = int(rows.argmax()) - WEBP_REACH
        if start <= 0:
            raise ValueError("nothing can be decoded")
        for array in (image.pixels, image.alpha):
            if array is not None:
                array[start:] = 0
    return image


def stored_size(path: str | Path) -> tuple[int, int]:
    """Width and height that a file claims, not decoded or turned upright; (0, 0) if they cannot be read."""
    try:
        with quiet(), Path(path).open("rb") as stream:
            try:
                return opened(stream).size
            except OSError:  # Pillow does not open a truncated WebP
                stream.seek(0)
                return webp_size(stream.read(30))
    except Exception:  # as in read_image
        return 0, 0


def stored_lossy(path: str | Path) -> Lossy | None:
    """`lossy` of the image in a file, which is not decoded; None also if it cannot be read."""
    try:
        with quiet():
            return lossy_of(read_bytes(Path(path)))
    except Exception:  # as in read_image
        return None


def lossy_of(content: bytes) -> Lossy | None:
    """How the content of a file was compressed; None if it is no JPEG and no lossy WebP."""
    if content.startswith(JPEG):
        file = opened(io.BytesIO(content))
        return Lossy("JPEG", jpeg_quality(file)) if isinstance(file, JpegImageFile) else None
    return Lossy("WebP") if is_lossy_webp(content) else None


def opened(stream: BinaryIO) -> Pillow.Image:
    """A file that is opened but not decoded. Raises whatever Pillow raises, and ValueError for an absurd size."""
    start, size = stream.read(30), stream.seek(0, io.SEEK_END)
    check_claim(*webp_size(start), size)  # Pillow makes the canvas of a WebP as it opens it
    stream.seek(0)
    file = Pillow.open(stream, formats=KINDS)
    check_claim(*file.size, size)
    if file.format == "PNG" and struct.unpack(">II", start[16:24]) != file.size:  # decoders take either
        raise ValueError("two headers of different sizes")
    return file


def is_whole(path: Path) -> bool:
    """Whether a PNG file is whole, by its checksums; it is not decoded or held in memory."""
    try:
        with quiet(), Pillow.open(path, formats=("PNG",)) as file:
            file.verify()
    except Exception:  # as in read_image
        return False
    return True


def decode_image(content: bytes, damaged: bool = False) -> Image:
    """Decode the content of a file; with `damaged`, a TIFF as far as possible. Raises whatever the decoders raise."""
    if content[8:12] == WEBP and 8 + int.from_bytes(content[4:8], "little") > len(content):
        raise ValueError("truncated")
    file, own = opened(io.BytesIO(content)), list[Chunk]()
    turned, bits, gray = False, 8, file.mode in ("1", "L", "LA") or file.mode.startswith(("I;16", "F"))
    if file.format == "PNG":
        file.verify()  # the checksums, which decoding ignores; afterwards the file must be opened again
        if not check_pixels(content):
            content = mended(content)
        # Pillow mixes the texts with what it knows of the image: one of the keyword "transparency" would replace tRNS
        file = opened(io.BytesIO(without_texts(content)))
        bits, gray = content[24], content[25] in (0, 4)  # IHDR: depth, colour type
        own = list(chunks(content))
        file.info.update(**exif_and_xmp(own))
    elif isinstance(file, TiffImageFile):
        if not damaged:
            check_tags(content)
            check_strips(file, len(content))
        bits = tiff_bits(file)
        # the decoder turns it: OpenCV by the tag, Pillow also by what it understands of the XMP
        turned = not damaged and ORIENTATION in (file.tag_v2 if bits == 16 else file.getexif())
    elif isinstance(file, JpegImageFile):
        check_scans(content)
    stored = read_orientation(file, read_xmp(file))  # before a decoder that turns the picture forgets it
    orientation = 1 if turned else stored
    if damaged and isinstance(file, TiffImageFile):
        pixels, alpha = decode_parts(file, content, bits)
    else:
        pixels, alpha = decode_pixels(file, content, bits)
    exif = read_exif(file)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    alpha = None if alpha is None else upright(alpha, orientation)
    found = {**read_metadata(file, own, gray), "lossy": lossy_of(content)}
    if found.get("dpi") and stored in (5, 6, 7, 8):
        found["dpi"] = found["dpi"][::-1]
    return Image(upright(pixels, orientation), alpha, gray, exif=exif, **found)


def decode_pixels(file: Pillow.Image, content: bytes, bits: int) -> tuple[Array, Array | None]:
    return decode_16(file, content) if bits == 16 else decode_8(file, bits)


def decode_parts(file: TiffImageFile, content: bytes, bits: int) -> tuple[Array, Array | None]:
    """Pixels and alpha of a TIFF, with zeros for the strips or tiles that cannot be decoded."""
    size = file.tag_v2[257], file.tag_v2[256]
    made: list[Array] = []
    for place, part in parts(file, content):
        with contextlib.suppress(Exception):  # as in read_image
            found = [each for each in decode_pixels(opened(io.BytesIO(part)), part, bits) if each is not None]
            made = made or [np.zeros((*size, *each.shape[2:]), each.dtype) for each in found]
            for whole, each in zip(made, found, strict=True):
                target = whole[place]
                target[:] = each[: len(target), : target.shape[1]]
    if not made:
        raise ValueError("nothing can be decoded")
    return made[0], made[1] if len(made) > 1 else None


def tiff_bits(file: TiffImageFile) -> int:
    """Bits per channel of a TIFF. Raises ValueError for kinds that the decoders would misread."""
    tags = file.tag_v2
    bits = max(tags.get(258, (1,)))  # BitsPerSample; 339: SampleFormat, 338: ExtraSamples, 284: PlanarConfiguration
    floats = set(tags.get(339, (1,))) == {3} and bits == 32
    if not floats and (max(tags.get(339, (1,))) > 1 or (bits > 8 and bits != 16)):
        raise ValueError(f"signed, float or {bits}-bit samples")
    if floats:
        bits = 16  # they are converted to 16 bits
    if bits == 16 and (1 in tags.get(338, ()) or (tags.get(284) == 2 and tags.get(277, 1) > 1)):
        raise ValueError("16 bits with premultiplied alpha or colours in separate planes")
    return int(bits)


def decode_8(file: Pillow.Image, bits: int) -> tuple[Array, Array | None]:
    """Pixels (H,W) or (H,W,3) and alpha (H,W), uint8, of a file of up to 8 bits."""
    if file.format == "PNG" and file.mode == "L" and "transparency" in file.info:
        file.info["transparency"] *= 255 // (2**bits - 1)  # Pillow widens 2 and 4 bits to 8, but not this gray level
    if file.mode == "CMYK":
        return np.array(cmyk_to_rgb(file)), None
    mode = "RGBA" if file.has_transparency_data else "L" if file.mode in ("1", "L") else "RGB"
    array = np.array(file if file.mode == mode else file.convert(mode))
    return (array[:, :, :3], array[:, :, 3]) if mode == "RGBA" else (array, None)


def decode_16(file: Pillow.Image, content: bytes) -> tuple[Array, Array | None]:
    """Pixels (H,W) or (H,W,3) and alpha (H,W), uint16; Pillow's `file` is not decoded."""
    alone = bare(content) if file.format == "PNG" else content
    array = cv2.imdecode(np.frombuffer(alone, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is not None and array.dtype == np.float32:
        array = levels_of(array)
    if array is None or array.dtype != np.uint16:
        raise ValueError(f"damaged, or a kind of 16-bit {file.mode} that is not supported")
    if sorted(array.shape[:2]) != sorted(file.size):  # a damaged TIFF may state two sizes, and libraries differ
        raise ValueError(f"claims to be {file.width}x{file.height}, but holds {array.shape[1]}x{array.shape[0]}")
    if array.ndim == 3:  # BGR or BGRA, the latter also where the fourth channel of a TIFF means nothing
        return array[:, :, 2::-1], array[:, :, 3] if file.has_transparency_data else None
    if isinstance(file, TiffImageFile) and file.tag_v2.get(262) == 0:
        array = 65535 - array  # white is zero
    level = file.info.get("transparency")
    return array, None if level is None else np.where(array == level, np.uint16(0), np.uint16(65535))


def upright(array: Array, orientation: int) -> Array:
    """Apply an EXIF orientation, 1 .. 8, to (H,W,...); any other changes nothing. The result is contiguous."""
    if orientation in (5, 6, 7, 8):
        array = np.swapaxes(array, 0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)
