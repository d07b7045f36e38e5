"""What an image file says beside its pixels: colour profile, EXIF, and in that what made the picture.

Damaged metadata counts as none. utils/about.py reads what else there is.
"""

import io
from pathlib import Path

from PIL import ExifTags, ImageCms
from PIL import Image as Pillow
from PIL.TiffImagePlugin import TiffImageFile

from utils.image import quiet

ORIENTATION = ExifTags.Base.Orientation
# of another picture, once it is resized
SIZE_TAGS = (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)
OUTER_SIZE_TAGS = (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength)
# In a TIFF the tags of EXIF stand among those that say how the pixels are stored; these describe the picture.
DESCRIPTIVE = {
    *(ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.Software),
    *(ExifTags.Base.DateTime, ExifTags.Base.Artist, ExifTags.Base.Copyright),
    *(ExifTags.Base.XPTitle, ExifTags.Base.XPComment, ExifTags.Base.XPAuthor, ExifTags.Base.XPKeywords),
    *(ExifTags.Base.XPSubject, ExifTags.Base.Rating, ExifTags.Base.RatingPercent),
    *(ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo),
}
MARK_TAG = ExifTags.Base.ProcessingSoftware
GRAY, RGB = b"GRAY", b"RGB "  # a profile's colour space, as its header says it


def read_orientation(file: Pillow.Image) -> int:
    """How a decoded file is to be turned, by EXIF, else by XMP: 1 .. 8, where 1 is upright."""
    try:
        return int(file.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow trips over damaged blocks anywhere
        return 1


def damaged_exif(file: Pillow.Image) -> bool:
    """Whether a file has an EXIF block of which nothing can be read."""
    try:
        Pillow.Exif().load(file.info.get("exif", b""))
    except Exception:  # as above
        return True
    return False


def read_exif(file: Pillow.Image) -> bytes | None:
    """The EXIF block of a decoded file, without orientation, thumbnail and the picture's size; None if that is all."""
    try:
        exif = file.getexif()
        details = exif.get_ifd(ExifTags.IFD.Exif)
        for size in SIZE_TAGS:
            details.pop(size, None)
        for tag in [*exif]:
            unwanted = isinstance(file, TiffImageFile) and tag not in DESCRIPTIVE
            if unwanted or tag in (ORIENTATION, *OUTER_SIZE_TAGS):
                del exif[tag]
        exif.bigtiff = False  # as a block of EXIF always is
        return exif.tobytes() if len(exif) else None
    except Exception:  # as above
        return None


def space(icc: bytes) -> bytes | None:
    """The colour space of a profile, four letters; None if the profile is damaged."""
    try:
        ImageCms.ImageCmsProfile(io.BytesIO(icc))
    except (OSError, ImageCms.PyCMSError):
        return None
    return icc[16:20] if len(icc) == int.from_bytes(icc[:4]) else None


def read_profile(file: Pillow.Image, gray: bool) -> bytes | None:
    """The file's colour profile, if it is one for the pixels as they are decoded: gray or RGB."""
    icc = file.info.get("icc_profile")
    if file.mode == "CMYK":  # see cmyk_to_rgb
        return None
    return icc if icc and space(icc) == (GRAY if gray else RGB) else None


def cmyk_to_rgb(file: Pillow.Image) -> Pillow.Image:
    """A CMYK image as sRGB, by its profile if it has one: the inks' colours are known from there alone."""
    icc = file.info.get("icc_profile")
    if not icc or space(icc) != b"CMYK":
        return file.convert("RGB")
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    inks = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    try:
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        made = ImageCms.profileToProfile(file, inks, ImageCms.createProfile("sRGB"), intent, "RGB", flags=flags)
    except ImageCms.PyCMSError:  # a profile without the tables for this direction
        made = None
    return made or file.convert("RGB")


def read_mark(path: Path) -> str | None:
    """The line that mark_exif left in an image file; None for any other file."""
    try:
        with quiet(), Pillow.open(path) as file:
            text = file.getexif().get(MARK_TAG)
    except Exception:  # no image, or a damaged one
        return None
    return text if isinstance(text, str) else None


def with_resolution(exif: bytes | None, dpi: tuple[float, float]) -> bytes:
    """An EXIF block, or a new one, that says the pixels per inch."""
    block = Pillow.Exif()
    if exif is not None:
        block.load(exif)
    block[ExifTags.Base.XResolution], block[ExifTags.Base.YResolution] = dpi
    block[ExifTags.Base.ResolutionUnit] = 2
    return block.tobytes()


def mark_exif(exif: bytes | None, text: str) -> bytes:
    """An EXIF block, or a new one, that names what made the picture by a line of ASCII."""
    block = Pillow.Exif()
    if exif is not None:
        block.load(exif)
    block[MARK_TAG] = text
    return block.tobytes()
