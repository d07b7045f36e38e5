"""What an image file says about itself beside colour profile and EXIF, and what of it is left out, for people.

It is read from a file that Pillow has opened, before or after its pixels are. Damaged blocks count as none.
"""

import re
from collections.abc import Iterator
from typing import Any

from PIL import Image as Pillow
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.TiffTags import lookup

from utils.chunks import COLOUR_CHUNKS, TEXT_CHUNKS, XMP, Chunk, chunks, comment, key, resolution, value
from utils.metadata import DESCRIPTIVE, damaged_exif

X_RESOLUTION = 282  # a tag of EXIF
IPTC = 0x0404  # among the resources of Photoshop, in which a JPEG has it
# keywords of text chunks, in which older programs keep what has chunks of its own by now
RAW = b"Raw profile type exif", b"Raw profile type APP1", b"Raw profile type xmp", b"Raw profile type icc"
RAW_IPTC = b"Raw profile type iptc"
# segments of a JPEG that are read, or say how its pixels are stored
SEGMENTS = (
    b"JFIF",
    b"JFXX",
    b"Exif\0",
    b"http://ns.adobe.com/xap/1.0/\0",
    b"ICC_PROFILE\0",
    b"MPF\0",
    b"Adobe",
    b"Photoshop",
)
FOREIGN_SEGMENTS = {b"JP": "content credentials", b"http://ns.adobe.com/xmp/extension/": "extended XMP"}
# PNG's chunks that are read, or say how its pixels are stored, or only matter to the program that wrote them
KNOWN = {
    *COLOUR_CHUNKS,
    *TEXT_CHUNKS,
    b"iCCP",
    b"eXIf",
    b"pHYs",
    b"tRNS",
    b"tIME",
    b"sBIT",
    b"bKGD",
    b"hIST",
    b"acTL",
    b"fcTL",
    b"fdAT",
}
# TIFF's tags of the same sort: the first ones; tables of JPEG within; XMP, IPTC, Photoshop's, ICC; what Windows adds
TAGS = {*range(254, 379), *range(512, 533), 559, 700, 32781, 33723, 34377, 34675, 37724, 59932, *DESCRIPTIVE}
TURN = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)\d")
STALE = rb"(?:tiff:Image(?:Width|Length)|exif:Pixel[XY]Dimension)"
STALE_SIZES = re.compile(rb"\s" + STALE + rb"\s*=\s*(?:\"[^\"]*\"|'[^']*')|<(" + STALE + rb")>[^<]*</\1>")
SMALLER = "Large Thumbnail"  # how a JPEG of several pictures calls small copies of the first


def about(file: Pillow.Image, content: bytes) -> dict[str, Any]:
    """The fields of utils.image.Image beside pixels, alpha, gray, icc and exif."""
    found: dict[str, Any] = {}
    xmp = file.info.get("xmp")
    own = list(chunks(content)) if file.format == "PNG" else []
    texts = [chunk for chunk in own if chunk[0] in TEXT_CHUNKS and key(chunk) not in (XMP, *RAW)]
    if said := file.info.get("comment"):
        texts.append(comment(said))
    for chunk in own:
        try:
            if chunk[0] == b"pHYs":
                found["dpi"] = resolution(chunk)
            elif chunk[0] == b"iTXt" and key(chunk) == XMP:
                xmp = value(chunk)
        except Exception:  # a damaged chunk
            continue
    if isinstance(xmp, bytes):
        found["xmp"] = STALE_SIZES.sub(b"", TURN.sub(rb"\g<1>1", xmp))
    found["chunks"] = tuple([chunk for chunk in own if chunk[0] in COLOUR_CHUNKS] + texts)
    found["iptc"] = iptc(file)
    if file.format != "PNG" and says_resolution(file):
        found["dpi"] = plausible(file.info["dpi"])
    found["notes"] = tuple(notes(file, own))
    return found


def says_resolution(file: Pillow.Image) -> bool:
    """Whether a resolution is the file's own: of a JPEG without one Pillow says 72 dots per inch."""
    try:
        own = file.format not in ("JPEG", "MPO") or file.info.get("jfif_unit") in (1, 2)
        return "dpi" in file.info and (own or X_RESOLUTION in file.getexif())
    except Exception:  # Pillow trips over damaged blocks anywhere
        return False


def plausible(dpi: Any) -> tuple[float, float] | None:
    """What a file says of its resolution, if that can be: programs that know none write 0 or 1."""
    try:
        across, down = (float(each) for each in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if min(across, down) > 1 and max(across, down) < 65535 else None


def iptc(file: Pillow.Image) -> bytes | None:
    """The IPTC record of a JPEG or TIFF."""
    block = file.tag_v2.get(33723) if isinstance(file, TiffImageFile) else file.info.get("photoshop", {}).get(IPTC)
    return block if isinstance(block, bytes) and block else None


def notes(file: Pillow.Image, own: list[Chunk]) -> Iterator[str]:
    """A line for everything that is left out."""
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
    """How many pictures are in a file, without the smaller copies of the first."""
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


def unread(file: Pillow.Image, own: list[Chunk]) -> Iterator[str]:
    """Names of what else a file holds."""
    for name, _ in own:
        if name[:1].islower() and name not in KNOWN:
            yield "content credentials" if name == b"caBX" else f"chunk {name.decode('latin-1')}"
    if isinstance(file, TiffImageFile):
        yield from (lookup(tag).name for tag in file.tag_v2 if tag not in TAGS)
    elif isinstance(file, JpegImageFile):
        for segment, block in file.applist:
            if segment.startswith("APP") and not block.startswith(SEGMENTS):
                yield next(
                    (told for start, told in FOREIGN_SEGMENTS.items() if block.startswith(start)), f"block {segment}"
                )
