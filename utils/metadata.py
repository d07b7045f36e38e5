"""The metadata of image files: colour profile, EXIF, XMP, IPTC, resolution, texts; and notes on what is left out.

They are read from a file that Pillow has opened, before or after its pixels are decoded. Damaged ones count as none.
"""

import io
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import ExifTags, ImageCms
from PIL import Image as Pillow
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.TiffTags import lookup

from utils.chunks import COLOUR_CHUNKS, COMMENT, TEXT_CHUNKS, XMP, Chunk, keyword, raw_block, resolution
from utils.image import quiet
from utils.iptc import IPTC, iptc_in_text

ORIENTATION = ExifTags.Base.Orientation
# tags of the size, which are wrong after resizing
SIZE_TAGS = (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)
OUTER_SIZE_TAGS = (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength)
# In a TIFF, tags of EXIF are mixed with those that say how the pixels are stored; these describe the picture.
DESCRIPTIVE = {
    *(ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.Software),
    *(ExifTags.Base.DateTime, ExifTags.Base.Artist, ExifTags.Base.Copyright, ExifTags.Base.HostComputer),
    *(ExifTags.Base.DocumentName, ExifTags.Base.PageName),
    *(ExifTags.Base.XPTitle, ExifTags.Base.XPComment, ExifTags.Base.XPAuthor, ExifTags.Base.XPKeywords),
    *(ExifTags.Base.XPSubject, ExifTags.Base.Rating, ExifTags.Base.RatingPercent),
    *(ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo),
}
MARK_TAG, PROGRAM = ExifTags.Base.ProcessingSoftware, "PCSR "  # the mark of this program, and how it begins
GRAY, RGB, INKS = b"GRAY", b"RGB ", b"CMYK"  # colour spaces as the header of a profile names them
RAW_ICC = b"Raw profile type icc"  # the keyword of a text in which older programs store a colour profile
# segments of a JPEG that are read, or that say how its pixels are stored
SEGMENTS = (
    *(b"JFIF", b"JFXX", b"Exif\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0", b"MPF\0"),
    *(b"Adobe", b"Photoshop"),
)
FOREIGN_SEGMENTS = {b"JP": "content credentials", b"http://ns.adobe.com/xmp/extension/": "extended XMP"}
# chunks of a PNG that are read, that say how its pixels are stored, or that only matter to the program that wrote them
KNOWN = {*COLOUR_CHUNKS, *TEXT_CHUNKS, *b"iCCP eXIf pHYs tRNS tIME sBIT bKGD hIST acTL fcTL fdAT".split()}
# the same for tags of a TIFF: the first ones; tables of JPEG; XMP, IPTC, Photoshop, ICC; one that Windows adds; the
# mark of this program
TAGS = {*range(254, 379), *range(512, 533), 559, 700, 32781, 33723, 34377, 34675, 37724, 59932, *DESCRIPTIVE, MARK_TAG}
TURN = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)(\d)")
STALE = rb"(?:tiff:Image(?:Width|Length)|exif:Pixel[XY]Dimension)"
STALE_SIZES = re.compile(rb"\s" + STALE + rb"\s*=\s*(?:\"[^\"]*\"|'[^']*')|<(" + STALE + rb")>[^<]*</\1>")
SMALLER = "Large Thumbnail"  # in a JPEG of several pictures, the name of small copies of the first


def read_metadata(file: Pillow.Image, own: Sequence[Chunk], gray: bool) -> dict[str, Any]:
    """The metadata of utils.image.Image, except exif, by their names; `gray` is the same as there.

    `own` are the chunks of a PNG; none for other files.
    """
    found: dict[str, Any] = {}
    texts = [chunk for chunk in own if chunk[0] in TEXT_CHUNKS and keyword(chunk) not in (XMP, RAW_ICC)]
    texts = [chunk for chunk in texts if raw_block(chunk) is None and iptc_in_text(chunk) is None]
    if said := file.info.get("comment"):
        texts.append(comment(said))
    for chunk in own:
        if chunk[0] == b"pHYs":
            with suppress(struct.error):  # a damaged chunk
                found["dpi"] = plausible(resolution(chunk))
    if (xmp := read_xmp(file)) is not None:
        found["xmp"] = STALE_SIZES.sub(b"", TURN.sub(rb"\g<1>1", xmp))
    found["chunks"] = tuple([chunk for chunk in own if chunk[0] in COLOUR_CHUNKS] + texts)
    found["iptc"] = iptc(file) or next(filter(None, map(iptc_in_text, own)), None)
    if file.format != "PNG" and says_resolution(file):
        found["dpi"] = plausible(file.info["dpi"])
    found["icc"] = read_profile(file, gray)
    found["notes"] = tuple(notes(file, own, gray))
    return found


def comment(said: bytes) -> Chunk:
    """A text chunk for the comment of another kind of file."""
    try:
        text = said.decode()
    except UnicodeDecodeError:
        text = said.decode("latin-1")
    return b"iTXt", COMMENT + bytes(5) + text.rstrip("\0").encode()


def says_resolution(file: Pillow.Image) -> bool:
    """Whether the file itself states a resolution: for a JPEG without one Pillow says 72 dots per inch."""
    try:
        own = file.format not in ("JPEG", "MPO") or file.info.get("jfif_unit") in (1, 2)
        return "dpi" in file.info and (own or ExifTags.Base.XResolution in file.getexif())
    except Exception:  # Pillow trips over damaged blocks anywhere
        return False


def plausible(dpi: Any) -> tuple[float, float] | None:
    """The resolution that a file states, if it is possible: programs that know none write 0 or 1."""
    try:
        across, down = (float(each) for each in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if min(across, down) > 1 and max(across, down) < 65535 else None


def iptc(file: Pillow.Image) -> bytes | None:
    """The IPTC record of a JPEG or TIFF."""
    block = file.tag_v2.get(33723) if isinstance(file, TiffImageFile) else file.info.get("photoshop", {}).get(IPTC)
    return block if isinstance(block, bytes) and block else None


def notes(file: Pillow.Image, own: Sequence[Chunk], gray: bool) -> Iterator[str]:
    """A line for each thing that is left out."""
    if has_profile(file, own) and space(profile_in(file)) != colour_space(file, gray):
        yield "its colour profile is damaged, or one for other pixels: left out"
    if damaged_exif(file):
        yield "its EXIF block is damaged: left out"
    try:
        if (count := pictures(file)) > 1:
            kind = "pages" if file.format == "TIFF" else "pictures" if file.format == "MPO" else "frames"
            yield f"the first of {count} {kind} is taken, the others are left out"
        if b"hdrgm:Version" in file.info.get("xmp", b""):
            yield "its brighter version for HDR screens (a gain map) is left out"
        if lost := list(dict.fromkeys(unread(file, own))):
            yield f"left out: {', '.join(lost)}"
        across, down = (
            file.info.get("aspect") or (file.info.get("jfif_unit") == 0 and file.info["jfif_density"]) or (1, 1)
        )
        if across != down:
            yield "its pixels are not square, which the result does not say"
    except Exception:  # Pillow trips over damaged blocks anywhere
        return


def pictures(file: Pillow.Image) -> int:
    """How many pictures a file holds, without the smaller copies of the first."""
    count = int(getattr(file, "n_frames", 1))
    if file.format == "MPO":
        entries = file.mpinfo[0xB002]  # type: ignore[attr-defined]
        return sum(SMALLER not in entry["Attribute"]["MPType"] for entry in entries)
    if isinstance(file, TiffImageFile) and count > 1:
        pages = 0
        for index in range(count):
            file.seek(index)
            pages += not file.tag_v2.get(254, 0) & 1
        file.seek(0)
        return pages
    return count


def unread(file: Pillow.Image, own: Sequence[Chunk]) -> Iterator[str]:
    """The names of metadata that are not read."""
    for name, _ in own:
        if name[:1].islower() and name not in KNOWN:
            yield "content credentials" if name == b"caBX" else f"chunk {name.decode('latin-1')}"
    if isinstance(file, TiffImageFile):
        names = {tag: lookup(tag).name for tag in file.tag_v2 if tag not in TAGS}
        yield from (f"tag {tag}" if name == "unknown" else name for tag, name in names.items())
    elif isinstance(file, JpegImageFile):
        if [segment for segment, _ in file.applist].count("COM") > 1:
            yield "all comments but the last"
        for segment, block in file.applist:
            if segment.startswith("APP") and not block.startswith(SEGMENTS):
                yield next(
                    (told for start, told in FOREIGN_SEGMENTS.items() if block.startswith(start)), f"block {segment}"
                )


def read_xmp(file: Pillow.Image) -> bytes | None:
    """The block of XMP as it stands in the file."""
    found = file.info.get("xmp")
    return found if isinstance(found, bytes) else None


def read_orientation(file: Pillow.Image, xmp: bytes | None) -> int:
    """How the image must be turned, by EXIF or else by XMP: 1 .. 8, where 1 is upright."""
    with suppress(Exception):  # Pillow trips over damaged blocks anywhere
        if (turn := file.getexif().get(ORIENTATION)) is not None:
            return int(turn)
    said = TURN.search(xmp or b"")
    return int(said[2]) if said else 1


def damaged_exif(file: Pillow.Image) -> bool:
    """Whether a file has an EXIF block of which nothing can be read."""
    try:
        Pillow.Exif().load(file.info.get("exif", b""))
    except Exception:  # Pillow trips over damaged blocks
        return True
    return False


def read_exif(file: Pillow.Image) -> bytes | None:
    """The EXIF block of a decoded file, without orientation, thumbnail, size and this program's mark of another result.

    None if nothing else is in it.
    """
    try:
        exif = file.getexif()
        details = exif.get_ifd(ExifTags.IFD.Exif)
        for size in SIZE_TAGS:
            details.pop(size, None)
        for tag in [*exif]:
            unwanted = isinstance(file, TiffImageFile) and tag not in DESCRIPTIVE
            marked = tag == MARK_TAG and str(exif[tag]).startswith(PROGRAM)
            if unwanted or marked or tag in (ORIENTATION, *OUTER_SIZE_TAGS):
                del exif[tag]
        exif.bigtiff = False  # as a block of EXIF always is
        return exif.tobytes() if len(exif) else None
    except Exception:  # Pillow trips over damaged blocks
        return None


def space(icc: bytes) -> bytes | None:
    """The colour space of a profile, four letters; None if the profile is damaged."""
    try:
        ImageCms.ImageCmsProfile(io.BytesIO(icc))
    except (OSError, ImageCms.PyCMSError):
        return None
    return icc[16:20] if len(icc) == int.from_bytes(icc[:4]) else None


def profile_in(file: Pillow.Image) -> bytes:
    """The file's colour profile, without bytes that follow its end; empty if there is none."""
    icc = file.info.get("icc_profile")
    return icc[: int.from_bytes(icc[:4])] if isinstance(icc, bytes) else b""


def has_profile(file: Pillow.Image, own: Sequence[Chunk]) -> bool:
    """Whether a file has a colour profile, which may be damaged; `own` are the chunks of a PNG."""
    blocks = [block for _, block in file.applist] if isinstance(file, JpegImageFile) else []
    stored = any(block.startswith(b"ICC_PROFILE\0") for block in blocks)
    stored |= any(chunk[0] == b"iCCP" or keyword(chunk) == RAW_ICC for chunk in own)
    return stored or bool(file.info.get("icc_profile"))


def colour_space(file: Pillow.Image, gray: bool) -> bytes:
    """The colour space that a profile of the file's pixels has."""
    return INKS if file.mode == "CMYK" else GRAY if gray else RGB


def read_profile(file: Pillow.Image, gray: bool) -> bytes | None:
    """The file's colour profile, if it is one for the pixels as they are decoded: gray or RGB."""
    icc = profile_in(file)
    if file.mode == "CMYK":  # see cmyk_to_rgb
        return None
    return icc if space(icc) == colour_space(file, gray) else None


def cmyk_to_rgb(file: Pillow.Image) -> Pillow.Image:
    """A CMYK image as sRGB, by its profile if it has one, as only the profile knows the colours of the inks."""
    icc = profile_in(file)
    if space(icc) != INKS:
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
    """An EXIF block with the resolution in pixels per inch; a new one if there is none."""
    names = ExifTags.Base.XResolution, ExifTags.Base.YResolution, ExifTags.Base.ResolutionUnit
    return with_tags(exif, dict(zip(names, (*dpi, 2), strict=True)))


def mark_exif(exif: bytes | None, text: str) -> bytes:
    """An EXIF block with a line of ASCII that names the program and settings; a new one if there is none."""
    return with_tags(exif, {MARK_TAG: text})


def with_tags(exif: bytes | None, tags: Mapping[int, Any]) -> bytes:
    block = Pillow.Exif()
    block.load(exif or b"")
    block.update(tags)
    return block.tobytes()
