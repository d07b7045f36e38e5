"""Chunks of PNG files: metadata, checks, repair."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress

from utils.image import check_claim

Chunk = tuple[bytes, bytes]  # name, content
SIGNATURE, HEADER = 8, 33  # bytes: the signature; the signature with the first chunk, IHDR
LONGEST_TEXT = 1 << 24  # bytes: a longer text is only read so far
XMP = b"XML:com.adobe.xmp"
# keywords of texts in which older programs store EXIF and XMP; today these have chunks of their own
RAW_XMP, RAW_APP1 = b"Raw profile type xmp", b"Raw profile type APP1"
RAW = b"Raw profile type exif", RAW_XMP, RAW_APP1
TIFF_STARTS = b"II*\0", b"MM\0*"  # EXIF has the form of a TIFF
EXIF_HEADER, XMP_HEADER = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"  # with which such a text of APP1 begins
# gamma and primaries of sRGB as libpng writes them: a program that ignores them shows the same colours
PRIMARIES = 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000  # x and y of sRGB's white, red, green and blue
SRGB = {b"gAMA": struct.pack(">I", 45455), b"cHRM": struct.pack(">8I", *PRIMARIES)}
WHOLE = ((0, 0, 1, 1),)  # the passes of an image: left, top, and the steps across and down
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
FILTERS = 5  # the filters of a row are numbered from 0 to 4
CLEAR_COLOUR = {0: 2, 2: 6}  # colour type -> bytes of tRNS, which holds the transparent colour
LIBPNG_SIDE = 10**6  # pixels: the widest and highest image that libpng takes
MUCH = 1 << 20  # bytes that are unpacked at a time
LITTLE = 64  # bytes of input per call for damaged files; a call that meets the damage loses all its output
COLOUR_CHUNKS = b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI"  # the meaning of the values as colours
COMMENT = b"Comment"  # keyword of the text for which JPEG and GIF have a place of their own
TEXT_CHUNKS = b"tEXt", b"zTXt", b"iTXt"


def chunks(content: bytes, cut: bool = False) -> Iterator[Chunk]:
    """The chunks of a PNG in order. If the file ends early, only whole ones; with `cut` also part of the last."""
    place = SIGNATURE
    while place + 8 < len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4])
        if end + 4 > len(content) and not cut:
            return
        yield content[place + 4 : place + 8], content[place + 8 : end]
        place = end + 4


def packed(name: bytes, content: bytes) -> bytes:
    """One chunk as it stands in a file."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def with_chunks(png: bytes | memoryview, added: Sequence[Chunk]) -> bytes:
    """A PNG with more chunks, right after its header."""
    return b"".join([png[:HEADER], *(packed(*chunk) for chunk in added), png[HEADER:]])


def keyword(chunk: Chunk) -> bytes:
    """The keyword of a text chunk."""
    return chunk[1].partition(b"\0")[0]


def without_texts(png: bytes) -> bytes:
    own = list(chunks(png))
    left = [chunk for chunk in own if chunk[0] not in TEXT_CHUNKS]
    return png if len(left) == len(own) else png[:SIGNATURE] + b"".join(packed(*chunk) for chunk in left)


def text_of(chunk: Chunk) -> bytes:
    """The text of a text chunk, in UTF-8. Raises ValueError, IndexError or zlib.error if it is damaged."""
    name, (_, rest) = chunk[0], chunk[1].split(b"\0", 1)
    if name == b"tEXt":
        return rest.decode("latin-1").encode()
    if name == b"zTXt":
        return unpacked_text(rest[1:]).decode("latin-1").encode()
    compressed, (_, _, said) = rest[0], rest[2:].split(b"\0", 2)  # language, translated keyword
    return unpacked_text(said) if compressed else said


def unpacked_text(packed_text: bytes) -> bytes:
    return zlib.decompressobj().decompress(packed_text, LONGEST_TEXT)


def unhexed(chunk: Chunk) -> bytes | None:
    """What a text chunk holds in hexadecimal digits, after a name and their number; None if it is damaged."""
    try:
        _, _, digits = text_of(chunk).split(maxsplit=2)
        return bytes.fromhex(digits.decode())
    except (ValueError, IndexError, zlib.error):
        return None


def raw_block(chunk: Chunk) -> Chunk | None:
    """EXIF or XMP that is stored as a text, as the chunk that it would be today; None for other and damaged texts.

    APP1 is the segment of a JPEG that holds EXIF or XMP; a few cameras store other things in it.
    """
    if chunk[0] not in TEXT_CHUNKS or keyword(chunk) not in RAW or (block := unhexed(chunk)) is None:
        return None
    if keyword(chunk) == RAW_XMP or block.startswith(XMP_HEADER):
        return b"iTXt", XMP + bytes(5) + block.removeprefix(XMP_HEADER)
    block = block.removeprefix(EXIF_HEADER)
    return (b"eXIf", block) if block.startswith(TIFF_STARTS) else None


def exif_and_xmp(own: Sequence[Chunk]) -> dict[str, bytes]:
    """EXIF (empty if there is none) and XMP of the chunks of a PNG, by the names that Pillow has for them.

    Their own chunks go before texts that hold them.
    """
    found = {"exif": b""}
    for chunk in [*filter(None, map(raw_block, own)), *own]:
        if chunk[0] == b"eXIf":
            found["exif"] = chunk[1]
        elif chunk[0] in TEXT_CHUNKS and keyword(chunk) == XMP:
            with suppress(ValueError, IndexError, zlib.error):  # a damaged chunk
                found["xmp"] = text_of(chunk)
    return found


def resolution(chunk: Chunk) -> tuple[float, float] | None:
    """Pixels per inch of a pHYs chunk; None if it only gives the shape of a pixel."""
    across, down, unit = struct.unpack(">IIB", chunk[1])
    return (across * 0.0254, down * 0.0254) if unit == 1 else None


def resolution_chunk(dpi: tuple[float, float]) -> Chunk:
    return b"pHYs", struct.pack(">IIB", *(round(each / 0.0254) for each in dpi), 1)


def shows_as_srgb(found: Sequence[Chunk]) -> bool:
    """Whether a file without these chunks would be shown in the same colours, which is as sRGB."""
    colours = dict(chunk for chunk in found if chunk[0] in COLOUR_CHUNKS)
    if b"sRGB" in colours and b"cICP" not in colours:  # the latter counts first
        return True
    return all(near(content, SRGB.get(name)) for name, content in colours.items())


def near(content: bytes, wanted: bytes | None) -> bool:
    """Whether two chunks of whole numbers are equal, except for rounding."""
    if wanted is None or len(content) != len(wanted):
        return False
    numbers = f">{len(wanted) // 4}I"
    pairs = zip(struct.unpack(numbers, content), struct.unpack(numbers, wanted), strict=True)
    return all(abs(one - other) <= 100 for one, other in pairs)


def passes_of(png: bytes) -> list[tuple[int, int]]:
    """The rows that IDAT unpacks to, computed from the header: (rows, bytes of a row) of each pass, of one or seven.

    A row is the number of a filter, then pixels. Raises ValueError for a header that no PNG has.
    """
    width, height, depth, colour, packing, filtering, interlaced = struct.unpack(">IIBBBBB", png[16:29])
    if packing or filtering or interlaced > 1:
        raise ValueError("packed, filtered or interlaced in an unknown way")
    pixel, passes = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 0), []
    check_claim(width, height, len(png))
    for left, top, across, down in ADAM7 if interlaced else WHOLE:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0:
            passes.append((rows, 1 + -(-columns * pixel // 8)))
    return passes


def unknown_filter(unpacked: bytes | bytearray, place: int, passes: list[tuple[int, int]]) -> int | None:
    """Where the first row with an unknown filter begins; None if there is none.

    `unpacked` are the bytes from `place` on; only rows that begin in them are looked at.
    """
    start = 0
    for rows, length in passes:
        first, end = start + max(0, -((start - place) // length)) * length, start + rows * length
        for number, kind in enumerate(unpacked[first - place : max(0, end - place) : length]):
            if kind >= FILTERS:
                return first + number * length
        start = end
    return None


def check_pixels(png: bytes) -> bool:
    """Whether IDAT holds the pixels and nothing else.

    Raises ValueError if they end early, which decoders do not report, and ValueError or zlib.error if they are damaged.
    """
    stream, found, passes, beyond = zlib.decompressobj(), 0, passes_of(png), b""
    needed = sum(rows * length for rows, length in passes)
    for name, content in chunks(png):
        if name != b"IDAT":
            continue
        while content and not stream.eof and found <= needed:
            unpacked = stream.decompress(content, MUCH)
            if unknown_filter(unpacked, found, passes) is not None:
                raise ValueError("a row with an unknown filter")
            found, content = found + len(unpacked), stream.unconsumed_tail  # noqa: PLW2901
        beyond += content
    if found > needed:  # there may be gigabytes more in it
        return False
    found += len(stream.flush())
    if found < needed:
        raise ValueError("truncated")
    return stream.eof and found == needed and not beyond + stream.unused_data


def bare(png: bytes) -> bytes:
    """A PNG of 16 bits with only its header, pixels and tRNS, because libpng prints messages about faults in others.

    Raises ValueError for an image that libpng refuses.
    """
    width, height, _, colour = struct.unpack(">IIBB", png[16:26])
    if max(width, height) > LIBPNG_SIDE:
        raise ValueError(f"wider or higher than {LIBPNG_SIDE} pixels")
    own = list(chunks(png))
    names = [name for name, _ in own]
    clear = dict(own[: names.index(b"IDAT")]).get(b"tRNS", b"")[: CLEAR_COLOUR.get(colour, 0)]
    kept = [chunk for chunk in own if chunk[0] == b"IDAT"]
    return with_chunks(png[:HEADER], [(b"tRNS", clear)] * bool(clear) + [*kept, (b"IEND", b"")])


def mended(png: bytes) -> bytes:
    """A damaged or truncated PNG as a whole one, with zeros for the pixels that cannot be unpacked.

    Raises ValueError or struct.error if no pixel can be unpacked.
    """
    passes = passes_of(png)
    needed = sum(rows * length for rows, length in passes)
    kept, pixels = [], bytearray()
    stream = zlib.decompressobj()
    for name, content in chunks(png, cut=True):
        if name != b"IDAT":
            kept.append((name, content))
            continue
        for place in range(0, len(content), LITTLE):
            if len(pixels) >= needed:
                break
            try:
                pixels += stream.decompress(content[place : place + LITTLE])
            except zlib.error:  # from here on nothing can be unpacked
                break
    if not pixels:
        raise ValueError("nothing can be decoded")
    wrong = unknown_filter(pixels, 0, passes)
    del pixels[needed if wrong is None else wrong :]  # in place, as there may be gigabytes
    pixels.extend(bytes(needed - len(pixels)))
    ends = [(b"IDAT", zlib.compress(pixels, 1)), (b"IEND", b"")]
    before = [chunk for chunk in kept if chunk[0] != b"IEND"]
    return png[:SIGNATURE] + b"".join(packed(*chunk) for chunk in [*before, *ends])
