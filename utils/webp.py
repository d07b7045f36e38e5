"""WebP files: the size, the kind of compression, repair."""

import struct

WEBP_PIXELS = b"VP8 ", b"VP8L"
WEBP_KEPT = *WEBP_PIXELS, b"VP8X", b"ICCP", b"ALPH"  # what the pixels need; these chunks come before all others
FRAME_HEADER = 16  # bytes of a frame (ANMF) before its own chunks
WEBP_FLAGS = 0x30  # the flags for a colour profile and for alpha
FOURTEEN_BITS = 1 << 14  # a WebP stores each side of its image in this many bits
MISSING = 64  # if a chunk claims more than this many times the file's size, nearly all of it is missing


def webp_size(start: bytes) -> tuple[int, int]:
    """Width and height, read from the first 30 bytes of a WebP; (0, 0) for another file."""
    if start[8:15] == b"WEBPVP8" and len(start) >= 30:
        if start[15:16] == b"X":
            return 1 + int.from_bytes(start[24:27], "little"), 1 + int.from_bytes(start[27:30], "little")
        if start[15:16] == b"L":
            sides = int.from_bytes(start[21:25], "little")
            return 1 + sides % FOURTEEN_BITS, 1 + (sides >> 14) % FOURTEEN_BITS
        if start[15:16] == b" ":
            sides = int.from_bytes(start[26:30], "little")
            return sides % FOURTEEN_BITS, (sides >> 16) % FOURTEEN_BITS
    return 0, 0


def is_lossy_webp(content: bytes) -> bool:
    """Whether a file is a WebP whose image, or first frame, has lossy colours (VP8, not VP8L)."""
    place, name = 12, b""
    while content[8:12] == b"WEBP" and place + 8 <= len(content) and name not in WEBP_PIXELS:
        name, size = content[place : place + 4], int.from_bytes(content[place + 4 : place + 8], "little")
        place += 8 + (FRAME_HEADER if name == b"ANMF" else size + size % 2)  # a frame has chunks of its own
    return name == WEBP_PIXELS[0]


def mended_webp(webp: bytes, fill: bytes) -> bytes:
    """The still image of a truncated WebP as a whole file, in which the byte `fill` replaces the missing data.

    Raises ValueError if it has no such image, or if nearly all of it is missing.
    """
    kept, place, name = b"", 12, b""
    while place + 8 < len(webp) and name not in WEBP_PIXELS:
        name, size = webp[place : place + 4], int.from_bytes(webp[place + 4 : place + 8], "little")
        if size > MISSING * len(webp):
            raise ValueError("nearly all is missing")
        content = webp[place + 8 : place + 8 + size]
        if len(content) < size:
            size *= 2  # decoders may need more bytes of the filling than of the original data
            content = content.ljust(size, fill)
        if name == b"VP8X":
            content = bytes([content[0] & WEBP_FLAGS]) + content[1:]
        if name in WEBP_KEPT:
            kept += struct.pack("<4sI", name, size) + content + bytes(size % 2)
        place += 8 + size + size % 2
    if name not in WEBP_PIXELS:
        raise ValueError("no still image in it")
    return struct.pack("<4sI4s", b"RIFF", 4 + len(kept), b"WEBP") + kept
