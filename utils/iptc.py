"""IPTC records as the formats store them: JPEG among resources of Photoshop, PNG as a text of those, by convention."""

import zlib

from utils.chunks import TEXT_CHUNKS, Chunk, keyword, unhexed

IPTC = 0x0404  # its number among the resources
ALONE = b"\x1c"  # with which a record begins that stands alone
RAW_IPTC = b"Raw profile type iptc"  # the keyword of the text


def resource(iptc: bytes) -> bytes:
    """A record as a resource of Photoshop."""
    return b"8BIM" + IPTC.to_bytes(2) + bytes(2) + len(iptc).to_bytes(4) + iptc + bytes(len(iptc) % 2)


def iptc_segment(iptc: bytes) -> bytes:
    """The same as a segment of a JPEG."""
    block = b"Photoshop 3.0\0" + resource(iptc)
    return b"\xff\xed" + (2 + len(block)).to_bytes(2) + block


def iptc_text(iptc: bytes) -> Chunk:
    """The same as a text of a PNG, as ImageMagick and ExifTool write it."""
    content = resource(iptc)
    text = f"\niptc\n{len(content):8d}\n{content.hex()}\n".encode()
    return b"zTXt", RAW_IPTC + b"\0\0" + zlib.compress(text)


def iptc_in_text(chunk: Chunk) -> bytes | None:
    """The record that a text of a PNG holds; None for other and damaged texts."""
    if chunk[0] not in TEXT_CHUNKS or keyword(chunk) != RAW_IPTC or (content := unhexed(chunk)) is None:
        return None
    if content.startswith(ALONE):
        return content
    at = 0
    while content[at : at + 4] == b"8BIM":
        number, name = int.from_bytes(content[at + 4 : at + 6]), int.from_bytes(content[at + 6 : at + 7])
        start = at + 7 + name + (1 + name) % 2  # a name and its length take an even number of bytes
        size = int.from_bytes(content[start : start + 4])
        if number == IPTC:
            return content[start + 4 : start + 4 + size] or None
        at = start + 4 + size + size % 2
    return None
