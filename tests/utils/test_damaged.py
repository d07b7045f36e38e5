"""Files that decoders would take for whole, or work on for long: found by tests/fuzz, made here on purpose."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageFile, _webp

from tests.conftest import ROOT, photo
from tests.utils.test_decode import chunk, png, refused, samples, saved, silence, tiff
from utils.chunks import MUCH, check_pixels
from utils.decode import read_image, stored_size
from utils.errors import InputError
from utils.image import Array

__all__ = ["silence"]


def png_of(width: int, height: int, data: bytes, bits: int = 8, colour_type: int = 2, interlaced: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, interlaced)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("missing", [1, 50])
def test_a_png_whose_pixels_end_early(bits: int, missing: int, tmp_path: Path) -> None:
    rows = (b"\0" + bytes(range(21)) * (bits // 8)) * 5
    (tmp_path / "whole").write_bytes(png_of(7, 5, rows, bits))
    read_image(tmp_path / "whole")
    (tmp_path / "short").write_bytes(png_of(7, 5, rows[:-missing], bits))
    assert "truncated" in refused(tmp_path / "short")


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("row", [0, 2, 4])
def test_a_png_with_a_row_of_an_unknown_filter(bits: int, row: int, tmp_path: Path) -> None:
    """The rows above are taken if asked for."""
    whole, path = png(samples(3, bits), bits, 2), tmp_path / "a"
    rows = [b"\0" + line.astype(">u2" if bits == 16 else "u1").tobytes() for line in samples(3, bits)]
    rows[row] = b"\x05" + rows[row][1:]
    path.write_bytes(with_data(whole, b"".join(rows)))
    assert "unknown filter" in refused(path)
    image = read_image(path, accept_damaged=True)
    np.testing.assert_array_equal(image.pixels[:row], samples(3, bits)[:row])
    assert not image.pixels[row:].any()


def test_a_png_with_more_than_its_pixels(tmp_path: Path) -> None:
    """The pixels are whole, and nothing is said of what follows them, nor of the checksum behind them."""
    whole = png(samples(3, 16), 16, 2)
    place = whole.index(b"IDAT")
    packed = whole[place + 4 : -16]
    rows = zlib.decompress(packed)
    for data in (zlib.compress(rows + bytes(200)), packed + b"more", packed[:-4]):
        (tmp_path / "a").write_bytes(whole[: place - 4] + chunk(b"IDAT", data) + whole[-12:])
        np.testing.assert_array_equal(read_image(tmp_path / "a").pixels, samples(3, 16))


def test_what_follows_the_pixels_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[int] = []
    monkeypatch.setattr("utils.chunks.unknown_filter", lambda part, place, passes: unpacked.append(len(part)))
    assert not check_pixels(with_data(png(samples(3, 8), 8, 2), bytes(50 << 20)))
    assert sum(unpacked) <= MUCH


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (4, 5), (5, 4), (8, 8), (9, 17)])
@pytest.mark.parametrize("bits,colour_type", [(1, 0), (8, 2), (16, 6), (4, 3)])
def test_interlaced_png(size: tuple[int, int], bits: int, colour_type: int, tmp_path: Path) -> None:
    """The bytes that seven passes need, counted row by row."""
    width, height, path = *size, tmp_path / "a.png"
    samples_of, data = {0: 1, 2: 3, 6: 4, 3: 1}[colour_type], b""
    steps = [(0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2)]
    for left, across, top, down in steps:
        columns = len(range(left, width, across))
        for _ in range(top, height, down) if columns else ():
            data += b"\0" + bytes(-(-columns * samples_of * bits // 8))
    content = png_of(width, height, data, bits, colour_type, 1)
    if colour_type == 3:
        content = content[:33] + chunk(b"PLTE", bytes(48)) + content[33:]
    path.write_bytes(content)
    assert read_image(path).pixels.shape == (height, width, 3)
    path.write_bytes(content.replace(zlib.compress(data, 1), zlib.compress(data[:-1], 1)))
    refused(path)


def test_large_images_are_taken_and_absurd_ones_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.decode.decode_8", lambda *_: (np.zeros((1, 1, 3), np.uint8), None))
    path = tmp_path / "a.png"
    path.write_bytes(png_of(32768, 32768, bytes(32768 * 4097), 1, 0))  # one colour
    read_image(path)
    path.write_bytes(png_of(40000, 40000, bytes(1000), 1, 0))
    refused(path)


def webp_canvas(width: int, height: int) -> bytes:
    """An animation of one small frame on a canvas of that size."""
    frames: dict[str, Any] = {"save_all": True, "append_images": [Pillow.fromarray(photo(34, 45, 1))]}
    content = bytearray(saved(photo(34, 45), "WEBP", **frames))
    content[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(content)


def claiming(content: bytes, side: int) -> bytes:
    """A JPEG or BMP that claims to be of side x side pixels."""
    if content.startswith(b"BM"):
        return content[:18] + struct.pack("<ii", side, side) + content[26:]
    place = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2")) + 5
    return content[:place] + struct.pack(">HH", side, side) + content[place + 4 :]


@pytest.mark.parametrize(
    "content",
    [
        png_of(20000, 20000, bytes(1000)),
        png_of(20000, 20000, bytes(1000), 16),
        tiff(samples(3, 8), (256, (20000,)), (257, (20000,))),
        tiff(samples(3, 8), (256, (20000,)), (257, (20000,)), packed=True),
        tiff(samples(3, 16), (256, (20000,)), (257, (20000,))),
        tiff(samples(4, 8), (256, (20000,)), (257, (20000,)), (262, (5,))),
        webp_canvas(45, 2**24 - 1),
        webp_canvas(2**14, 2**14),
        claiming(saved(photo(34, 45), "JPEG"), 20000),
        claiming(saved(photo(34, 45), "JPEG", progressive=True), 20000),
        claiming(saved(photo(34, 45), "BMP"), 20000),
    ],
)
def test_a_size_that_nothing_stands_behind(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before a decoder takes the memory that it asks for."""
    begun = []
    decoders = {_webp: ["WebPAnimDecoder"], cv2: ["imdecode"], ImageFile.ImageFile: ["load"]}
    for owner, name in ((owner, name) for owner, names in decoders.items() for name in names):
        monkeypatch.setattr(owner, name, lambda *_, name=name: begun.append(name))
    path = tmp_path / "a"
    path.write_bytes(content)
    assert "pixels" in refused(path) and stored_size(path) == (0, 0)
    assert not begun


@pytest.mark.parametrize("form", ["plain", "an end in a comment", "a byte that fills", "several pictures"])
def test_a_jpeg_of_thousands_of_scans(form: str, tmp_path: Path) -> None:
    frames: dict[str, Any] = {"save_all": True, "append_images": [Pillow.fromarray(photo(9, 9))]}
    kind, options = ("MPO", frames) if form == "several pictures" else ("JPEG", {})
    content, path = saved(photo(200, 300), kind, progressive=True, **options), tmp_path / "a.jpg"
    end = content.index(b"\xff\xd9")
    assert content.count(b"\xff\xda", 0, end) > 5
    last = content[content.rindex(b"\xff\xda", 0, end) : end]
    start = content[:2] + b"\xff" * (form == "a byte that fills") + content[2:end]
    start += b"\xff\xfe\0\4\xff\xd9" * (form == "an end in a comment")
    for times, outcome in ((0, read_image), (50, read_image), (5000, refused)):
        path.write_bytes(start + last * times + content[end:])
        outcome(path)


def test_a_png_of_two_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders differ in which one they take, so that a limit of pixels would look at the smaller."""
    begun: list[str] = []
    monkeypatch.setattr(cv2, "imdecode", lambda *_: begun.append("imdecode"))
    content, path = png_of(300, 300, bytes(300 * (1 + 6 * 300)), 16), tmp_path / "a.png"
    second = png_of(10, 10, b"", 16)[8:33]
    path.write_bytes(content[:33] + second + content[33:])
    assert "two headers" in refused(path) and stored_size(path) == (0, 0) and not begun


def strips(array: Array, kept: int, **options: Any) -> bytes:
    """A TIFF of one strip for each row, of which only the first `kept` are there."""
    buffer = io.BytesIO()
    Pillow.fromarray(array).save(buffer, "TIFF", tiffinfo={278: 1}, **options)
    content = bytearray(buffer.getvalue())
    place = int.from_bytes(content[4:8], "little") + 2
    for start in range(place, place + 12 * int.from_bytes(content[place - 2 : place], "little"), 12):
        if int.from_bytes(content[start : start + 2], "little") in (273, 279):
            content[start + 4 : start + 8] = kept.to_bytes(4, "little")
    return bytes(content)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "packbits"])
def test_a_tiff_without_its_last_strips(compression: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(strips(photo(34, 45), 34, compression=compression))
    read_image(path)
    path.write_bytes(strips(photo(34, 45), 30, compression=compression))
    refused(path)


def test_a_tiff_of_two_sizes(tmp_path: Path) -> None:
    """The size stands in it twice; one library takes the first, the other the last."""
    content = tiff(samples(3, 16), (254, (2,)))
    (tmp_path / "a.tif").write_bytes(content)
    read_image(tmp_path / "a.tif")
    (tmp_path / "a.tif").write_bytes(content.replace(struct.pack("<HHI", 254, 3, 1), struct.pack("<HHI", 256, 3, 1)))
    assert "stands twice" in refused(tmp_path / "a.tif")


def with_data(content: bytes, data: bytes) -> bytes:
    """A PNG with other pixels, which are unpacked here."""
    place = content.index(b"IDAT") - 4
    size = 12 + int.from_bytes(content[place : place + 4])
    return content[:place] + chunk(b"IDAT", zlib.compress(data)) + content[place + size :]


def of_which_codecs_print() -> dict[str, bytes]:
    """Damaged files; codecs that nobody silences print a line for each."""
    deep = png(samples(3, 16), 16, 2)
    row = b"\0" + bytes(6 * 7)
    files = {
        "filter": with_data(deep, row * 4 + b"\x09" + row[1:]),
        "IDAT": with_data(deep, row * 5 + b"more"),
        "chunk": deep[:33] + chunk(b"E\1II", b"") + deep[33:],
        "profile": deep[:33] + chunk(b"iCCP", b"a\0\0damaged") + deep[33:],
        "channels": tiff(samples(3, 8), (277, (99,))),
    }
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "zstd", "lzma", "group4"):
        mode = "1" if compression == "group4" else None
        broken = bytearray(saved(photo(34, 45), "TIFF", mode, compression=compression))
        broken[40:80] = bytes(40)
        files[compression] = bytes(broken)
    return files


def test_codecs_print_nothing(tmp_path: Path) -> None:
    """The fixture sees it, and so does who runs a command."""
    files, lines = of_which_codecs_print(), []
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        for accept_damaged in (True, False):
            try:
                read_image(tmp_path / name, accept_damaged)
            except InputError as error:
                lines += [f"error: {error}"] * (not accept_damaged)
    assert len(lines) > len(files) // 2
    program = "import sys\nfrom utils.cli import print_error\nfrom utils.errors import InputError\n"
    program += "from utils.decode import read_image\n"
    program += "for name in sys.argv[1:]:\n try: read_image(name, False)\n except InputError as e: print_error(str(e))"
    command = [sys.executable, "-c", program, *(str(tmp_path / name) for name in files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == lines
