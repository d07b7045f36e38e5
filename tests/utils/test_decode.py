"""Reading image files; PNG and TIFF are made here byte by byte, as no one library writes every kind."""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image as Pillow

from utils.decode import read_image
from utils.encode import write_image
from utils.errors import InputError
from utils.image import Array

Chunks = Sequence[tuple[bytes, bytes]]
COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's number for this many channels
# orientation -> whether the upright picture is the stored one mirrored, then its quarter turns to the left
TURNS = {1: (0, 0), 2: (1, 0), 3: (0, 2), 4: (1, 2), 5: (1, 1), 6: (0, 3), 7: (1, 3), 8: (0, 1), 0: (0, 0), 9: (0, 0)}
STRAIGHT = (338, (2,))  # the TIFF tag for alpha that is not premultiplied


@pytest.fixture(autouse=True)
def silence(capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    """Whatever is read or refused, no codec prints or warns."""
    yield
    assert capfd.readouterr().err == "" and not recwarn.list


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(array: Array, bits: int, colour_type: int, before: Chunks = (), after: Chunks = ()) -> bytes:
    """(H,W) or (H,W,C) samples -> PNG, with chunks before and after the pixels."""
    rows = array.reshape(len(array), -1).astype(">u2" if bits == 16 else "u1")
    if bits < 8:
        digits = (rows[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
        rows = np.packbits(digits.reshape(len(array), -1).astype(np.uint8), axis=1)
    header = struct.pack(">IIBBBBB", array.shape[1], len(array), bits, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))  # each row with filter 0
    chunks = [(b"IHDR", header), *before, (b"IDAT", pixels), *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def tiff(array: Array, *more: tuple[int, tuple[int, ...]], order: str = "<", packed: bool = False) -> bytes:
    """(H,W) or (H,W,C) -> TIFF of one strip after the header, with more tags, all SHORT."""
    height, width, channels = np.atleast_3d(array).shape
    strip = (zlib.compress if packed else bytes)(array.astype(order + array.dtype.str[1:]).tobytes())
    tags: dict[int, tuple[int, ...]] = {256: (width,), 257: (height,), 258: (8 * array.itemsize,) * channels}
    tags |= {259: (8 if packed else 1,), 262: (2 if channels >= 3 else 1,), 273: (0,), 277: (channels,)}
    tags |= {278: (height,), 279: (len(strip),), **dict(more)}
    start = 8 + 2 + 12 * len(tags) + 4
    tags[273] = (start + sum(2 * len(values) for values in tags.values() if len(values) > 2),)
    directory, far = struct.pack(order + "IH", 8, len(tags)), b""
    for tag, values in sorted(tags.items()):
        place = block = struct.pack(f"{order}{len(values)}H", *values).ljust(4, b"\0")
        if len(values) > 2:  # more than fits an entry
            place, far = struct.pack(order + "I", start + len(far)), far + block
        directory += struct.pack(order + "HHI", tag, 3, len(values)) + place
    return (b"II*\0" if order == "<" else b"MM\0*") + directory + struct.pack(order + "I", 0) + far + strip


def saved(array: Array, kind: str, mode: str | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(array).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    return b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)


def samples(channels: int, bits: int) -> Array:
    """(5,7) or (5,7,C) noise with both ends of the range, different however it is turned."""
    shape = (5, 7, channels)[: 2 if channels == 1 else 3]
    array = np.random.default_rng(channels).integers(0, 2**bits, shape, np.uint8 if bits == 8 else np.uint16)
    array[0, 0], array[0, 1] = 0, 2**bits - 1
    return array


def check(path: Path, content: bytes, expected: Array) -> None:
    """The file must come back as `expected`: 1 channel gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha."""
    path.write_bytes(content)
    image = read_image(path)
    expected = np.atleast_3d(expected)
    has_alpha = expected.shape[2] in (2, 4)
    colours = expected[:, :, :-1] if has_alpha else expected
    np.testing.assert_array_equal(image.pixels, np.broadcast_to(colours, (*expected.shape[:2], 3)), strict=True)
    assert image.gray == (colours.shape[2] == 1) and image.bits == 8 * expected.itemsize
    assert image.pixels.flags.c_contiguous and image.pixels.flags.writeable
    np.testing.assert_array_equal(image.alpha, expected[:, :, -1] if has_alpha else None, strict=True)


def refused(path: Path, remedy: str = "") -> str:
    """The one line that says why the file is not taken."""
    with pytest.raises(InputError) as caught:
        read_image(path, remedy=remedy)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_and_tiff_are_read_exactly(tmp_path: Path, bits: int, channels: int) -> None:
    array, straight = samples(channels, bits), [STRAIGHT] if channels in (2, 4) else []
    check(tmp_path / "a.png", png(array, bits, COLOUR_TYPE[channels]), array)
    if (bits, channels) != (16, 2):  # no decoder takes this TIFF
        for order, packed in (("<", False), ("<", True), (">", False), (">", True)):
            check(tmp_path / "a.tif", tiff(array, *straight, order=order, packed=packed), array)


def test_other_kinds_are_read_exactly(tmp_path: Path) -> None:
    path, rgb, rgba, black_white = tmp_path / "a", samples(3, 8), samples(4, 8), samples(1, 8) % 2 * 255
    check(path, saved(samples(1, 8), "BMP"), samples(1, 8))
    check(path, saved(rgb, "BMP"), rgb)
    check(path, saved(rgb, "WEBP", lossless=True), rgb)
    check(path, saved(rgba, "WEBP", lossless=True, exact=True), rgba)
    check(path, png(black_white // 255, 1, 0), black_white)
    check(path, saved(black_white, "TIFF", "1"), black_white)
    check(path, tiff(samples(1, 16), (262, (0,))), 65535 - samples(1, 16))  # white is zero
    check(path, tiff(samples(4, 16), (338, (0,))), samples(4, 16)[:, :, :3])  # the fourth channel means nothing


@pytest.mark.parametrize("alphas", [b"", b"\0", b"\xff\0", bytes([0, 50, 100, 255])])
@pytest.mark.parametrize("bits", [2, 8])
def test_palette_with_and_without_transparency(tmp_path: Path, alphas: bytes, bits: int) -> None:
    index = samples(1, 8) % 4
    palette = np.array([[255, 0, 0], [1, 2, 3], [9, 99, 199], [7, 7, 7]], np.uint8)
    table = np.column_stack((palette, np.frombuffer(alphas.ljust(4, b"\xff"), np.uint8))) if alphas else palette
    before = [(b"PLTE", palette.tobytes())] + ([(b"tRNS", alphas)] if alphas else [])
    check(tmp_path / "a.png", png(index, bits, 3, before), table[index])


@pytest.mark.parametrize("bits,channels", [(1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (8, 3), (16, 3)])
def test_one_transparent_colour(tmp_path: Path, bits: int, channels: int) -> None:
    array = samples(channels, max(8, bits)) & (2**bits - 1)
    colour, widened = array[2, 3], max(1, 255 // (2**bits - 1))
    alpha = np.where((np.atleast_3d(array) == colour).all(2), 0, np.iinfo(array.dtype).max).astype(array.dtype)
    before = [(b"tRNS", np.atleast_1d(colour).astype(">u2").tobytes())]
    check(tmp_path / "a.png", png(array, bits, COLOUR_TYPE[channels], before), np.dstack((array * widened, alpha)))


def test_jpeg_gray_colour_and_cmyk(tmp_path: Path) -> None:
    path, flat = tmp_path / "a.jpg", np.full((16, 16, 3), (200, 40, 90), np.uint8)
    check(path, saved(flat[:, :, 0], "JPEG"), flat[:, :, 0])
    write_image(tmp_path / "written.jpg", flat)
    for content in (saved(flat, "JPEG"), saved(flat, "JPEG", "CMYK"), (tmp_path / "written.jpg").read_bytes()):
        path.write_bytes(content)
        assert not read_image(path).gray and read_image(path).alpha is None
        np.testing.assert_allclose(read_image(path).pixels.astype(int), flat, atol=4)


@pytest.mark.parametrize("orientation", TURNS)
def test_orientation_is_applied_once(tmp_path: Path, orientation: int) -> None:
    def turned(array: Array) -> Array:
        mirror, quarters = TURNS[orientation]
        return np.rot90(np.fliplr(array) if mirror else array, quarters)

    block, tag, rgb_8 = [(b"eXIf", exif(orientation))], (274, (orientation,)), samples(3, 8)
    for bits in (8, 16):
        gray, rgb, rgba = (samples(channels, bits) for channels in (1, 3, 4))
        check(tmp_path / "a.png", png(gray, bits, 0, before=block), turned(gray))
        check(tmp_path / "a.png", png(rgb, bits, 2, after=block), turned(rgb))
        check(tmp_path / "a.png", png(rgba, bits, 6, before=block), turned(rgba))
        check(tmp_path / "a.tif", tiff(gray, tag), turned(gray))
        check(tmp_path / "a.tif", tiff(rgba, tag, STRAIGHT), turned(rgba))
    check(tmp_path / "a.webp", saved(rgb_8, "WEBP", lossless=True, exif=exif(orientation)), turned(rgb_8))
    stored = np.array(Pillow.open(io.BytesIO(saved(rgb_8, "JPEG"))))
    check(tmp_path / "a.jpg", saved(rgb_8, "JPEG", exif=b"Exif\0\0" + exif(orientation)), turned(stored))


@pytest.mark.parametrize("kind,channels,bits", [("PNG", 3, 8), ("PNG", 1, 16), ("TIFF", 1, 16), ("WEBP", 3, 8)])
def test_of_several_frames_the_first_is_read(tmp_path: Path, kind: str, channels: int, bits: int) -> None:
    array = samples(channels, bits)
    later = [Pillow.fromarray(array[::-1])]
    (tmp_path / "a").write_bytes(saved(array, kind, save_all=True, append_images=later, lossless=True))
    colours = np.broadcast_to(np.atleast_3d(array), (5, 7, 3))
    np.testing.assert_array_equal(read_image(tmp_path / "a").pixels, colours)


def test_what_is_no_image_or_would_be_misread_is_refused(tmp_path: Path) -> None:
    gray, four, fractions = samples(1, 16), samples(4, 16), (samples(1, 16) / 65535).astype(np.float32)
    kinds = {"16-bit float": tiff(fractions.astype(np.float16), (339, (3,))), "32-bit": tiff(gray.astype(np.uint32))}
    kinds |= {"beyond 0 .. 1": tiff(fractions * 2, (339, (3,))), "Photoshop": b"8BPS" + bytes(30)}
    kinds |= {"range": tiff(np.where(fractions > 0.5, np.float32(np.nan), 0), (339, (3,)))}
    kinds |= {"2 channels of 32-bit float": tiff(np.dstack([fractions] * 2), (339, (3, 3)), (338, (2,)))}
    kinds |= {"HEIC": bytes(4) + b"ftypheic" + bytes(20), "AVIF": bytes(4) + b"ftypavif" + bytes(20)}
    signed = [tiff(gray, (339, (2,))), tiff(samples(1, 8), (339, (2,)))]
    other = [tiff(four, (338, (1,))), tiff(four, (284, (2,))), tiff(four, (262, (5,)))]  # premultiplied, planes, CMYK
    for reason, content in [*kinds.items(), *(("", each) for each in [*signed, *other, b"", b"not a picture\n" * 20])]:
        (tmp_path / "a").write_bytes(content)
        told = refused(tmp_path / "a")
        assert "8 or 16 bits" in told and reason in told
    assert "No such file" in refused(tmp_path / "b")
    assert "directory" in refused(tmp_path)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_float_tiffs_become_16_bits(channels: int, tmp_path: Path) -> None:
    levels = samples(channels, 16)
    extra = [(338, (2,))] if channels == 4 else []
    fractions = (levels / 65535).astype(np.float32)
    (tmp_path / "a.tif").write_bytes(tiff(fractions, (339, (3,) * channels), *extra))
    check(tmp_path / "a.tif", (tmp_path / "a.tif").read_bytes(), levels)


def whole_files() -> dict[str, bytes]:
    rgb, deep = samples(3, 8), samples(3, 16)
    files = {"png": png(rgb, 8, 2), "png_16": png(deep, 16, 2), "tif": tiff(rgb), "tif_16": tiff(deep)}
    files |= {"tif_packed": tiff(rgb, packed=True), "tif_16_packed": tiff(deep, packed=True)}
    files |= {"jpg_progressive": saved(rgb, "JPEG", progressive=True), "webp_exact": saved(rgb, "WEBP", lossless=True)}
    return files | {kind: saved(rgb, kind) for kind in ("JPEG", "WEBP", "BMP", "TIFF")}


@pytest.mark.parametrize("name", whole_files())
def test_every_truncation_is_noticed(tmp_path: Path, name: str) -> None:
    content, path = whole_files()[name], tmp_path / name
    path.write_bytes(content)
    read_image(path)
    needed = len(content) - {"png": 12, "BMP": 3}.get(name[:3], 0)  # without IEND; without the padding of a row
    for length in [*range(0, needed, max(1, needed // 40)), needed - 1]:
        path.write_bytes(content[:length])
        refused(path)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", [b"IDAT", b"tEXt", b"eXIf"])
def test_a_wrong_checksum_is_noticed(tmp_path: Path, bits: int, name: bytes) -> None:
    content = bytearray(png(samples(3, bits), bits, 2, [(b"eXIf", exif(6))], [(b"tEXt", b"Title\0x")]))
    content[content.index(name) + 8] ^= 1
    (tmp_path / "a.png").write_bytes(content)
    refused(tmp_path / "a.png")


def test_odd_metadata_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    odd = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHII", 1, 0x010E, 2, 900, 900)  # text beyond the end
    path.write_bytes(saved(samples(3, 8), "JPEG", exif=odd))
    with pytest.warns(UserWarning), Pillow.open(path) as file:
        file.getexif()
    read_image(path)


def test_16_bits_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("PIL.ImageFile.ImageFile.load")  # what OpenCV decodes, Pillow does not
    check(tmp_path / "a.png", png(samples(3, 16), 16, 2), samples(3, 16))
    check(tmp_path / "a.tif", tiff(samples(3, 16)), samples(3, 16))


def test_refused_memory_is_no_fault_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "a.png", np.zeros((4, 5, 3), np.uint8))
    monkeypatch.setattr("utils.decode.decode_image", Mock(side_effect=MemoryError))
    with pytest.raises(InputError, match=r"\(there is too little memory for it\)$"):
        read_image(tmp_path / "a.png")
