"""What the tables and segments of a JPEG tell: its quality, and whether it would keep a decoder busy for very long."""

import re

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

JPEG = b"\xff\xd8"  # with which a file begins
MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")  # the end, or a segment that begins with its length
# A JPEG usually has about ten scans. Each may take few bytes in the file, but the decoder passes over all pixels for
# it, so that a small file with very many scans would keep it busy for very long.
SCANS = 100
# the quantisation table of luma in Annex K of the JPEG standard, and how libjpeg scales it for each quality, 1 .. 100
LUMA = np.array(
    [
        *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
        *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
        *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
        *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
    ]
)
PERCENT = [5000 // quality if quality < 50 else 200 - 2 * quality for quality in range(1, 101)]
LUMA_OF_QUALITY = np.stack([((LUMA * percent + 50) // 100).clip(1, 255) for percent in PERCENT])  # (100,64)


def jpeg_quality(file: JpegImageFile) -> int | None:
    """The quality, 1 .. 100, at which libjpeg would have the most similar quantisation table of luma.

    It is exact for files of libjpeg; cameras and other programs have tables of their own. None without any table.
    """
    if not file.quantization:
        return None
    table = np.array(file.quantization[min(file.quantization)])  # the first is that of luma
    return 1 + int(np.abs(LUMA_OF_QUALITY - table).sum(axis=1).argmin())


def check_scans(content: bytes) -> None:
    """Raises ValueError if a JPEG has more than SCANS scans."""
    scans, place = 0, len(JPEG)
    while (found := MARKER.search(content, place)) and found[1] != b"\xd9":  # which ends the picture
        scans += found[1] == b"\xda"
        place = found.end() + int.from_bytes(content[found.end() : found.end() + 2])
    if scans > SCANS:
        raise ValueError(f"more than {SCANS} scans")
