"""What a file says beside its pixels, profile and EXIF: it comes through, or a note says that it is lost."""

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import PngImagePlugin, TiffImagePlugin

from inference.reduce import reduce_to
from tests.conftest import photo
from tests.utils.test_decode import png, samples
from tests.utils.test_metadata import SRGB, exif
from utils.chunks import SRGB as NUMBERS
from utils.decode import read_image
from utils.encode import save_image
from utils.image import Image
from utils.metadata import mark_exif

XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6" exif:PixelXDimension="20" dc:title="Sea"/></x:xmpmeta>'
UPRIGHT = b'<x:xmpmeta><rdf:Description tiff:Orientation="1" dc:title="Sea"/></x:xmpmeta>'
IPTC = b"\x1c\x02\x78\x00\x05hello"  # a caption
TEXTS = [(b"tEXt", b"parameters\0a cat, Steps: 20"), (b"iTXt", b"Description\0\0\0\0\0ein Kater")]


def saved(kind: str, picture: Pillow.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (picture or Pillow.fromarray(photo(20, 30))).save(buffer, kind, **options)
    return buffer.getvalue()


def through(content: bytes, suffix: str, folder: Path) -> tuple[Image, list[str]]:
    """A file that is read, reduced to another format, written and read again; and what was told."""
    (folder / "a").write_bytes(content)
    image = read_image(folder / "a")
    reduced, notes = reduce_to(suffix, image)
    save_image(folder / f"b{suffix}", reduced)
    return read_image(folder / f"b{suffix}"), [*image.notes, *notes]


def opened(folder: Path, suffix: str) -> Any:
    return Pillow.open(folder / f"b{suffix}")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("source", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_xmp_but_what_is_no_longer_true(source: str, suffix: str, tmp_path: Path) -> None:
    block = PngImagePlugin.PngInfo()
    block.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=True)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[700] = XMP
    options = {"PNG": {"pnginfo": block}, "TIFF": {"tiffinfo": tags}}.get(source, {"xmp": XMP})
    image, notes = through(saved(source, **options, exif=exif(6)), suffix, tmp_path)  # type: ignore[arg-type]
    cleared = UPRIGHT.replace(b'tiff:Orientation="1"', b"")  # as Pillow does that turns a TIFF
    assert image.xmp in (UPRIGHT, cleared) and not notes
    assert image.pixels.shape == (30, 20, 3)  # turned once


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("source", ["JPEG", "TIFF"])
def test_iptc(source: str, suffix: str, tmp_path: Path) -> None:
    block = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[33723] = 7
    tags[33723] = IPTC
    options: dict[str, Any] = {"tiffinfo": tags}
    if source == "JPEG":
        options = {"extra": b"\xff\xed" + struct.pack(">H", len(block) + 2) + block}
    image, notes = through(saved(source, **options), suffix, tmp_path)
    if suffix == ".webp":
        assert notes == [".webp holds no IPTC: left out"]
        return
    assert not notes
    assert image.iptc == IPTC
    if suffix != ".png":
        return
    again, notes = through((tmp_path / "b.png").read_bytes(), ".jpg", tmp_path)
    assert again.iptc == IPTC and not notes
    with opened(tmp_path, suffix) as file:
        name, size, *lines = file.info["Raw profile type iptc"].split()
        assert name == "iptc" and IPTC in bytes.fromhex("".join(lines)) and int(size) == len("".join(lines)) / 2


@pytest.mark.parametrize("bits", [8, 16])
def test_texts_of_a_png(bits: int, tmp_path: Path) -> None:
    content = png(samples(3, bits), bits, 2, TEXTS, [(b"tEXt", b"Late\0after the pixels")])
    _, notes = through(content, ".png", tmp_path)
    with opened(tmp_path, ".png") as file:
        assert not notes
        assert file.text == {"parameters": "a cat, Steps: 20", "Description": "ein Kater", "Late": "after the pixels"}
    for suffix in (".jpg", ".webp", ".tif"):
        notes = through(content, suffix, tmp_path)[1]
        assert f"{suffix} holds no such texts: parameters, Description, Late left out" in notes


def test_comments(tmp_path: Path) -> None:
    for source in (
        saved("JPEG", comment="héllo"),
        saved("GIF", comment="héllo".encode()),
        saved("JPEG", comment=b"h\xe9llo"),
    ):
        for suffix in (".png", ".jpg"):
            assert not through(source, suffix, tmp_path)[1]
            with opened(tmp_path, suffix) as file:
                found = file.info["comment"].decode() if suffix == ".jpg" else file.text["Comment"]
                assert found == "héllo"


def test_several_comments(tmp_path: Path) -> None:
    told = jpeg_of([(b"tEXt", b"Comment\0one"), (b"iTXt", b"Comment" + bytes(5) + b"two")], tmp_path)
    assert told == [".jpg holds one comment, here the first that fits: the others are left out"]


def test_a_comment_that_no_jpeg_holds(tmp_path: Path) -> None:
    damaged = (b"zTXt", b"Comment\0\0nonsense"), (b"iTXt", b"Comment\0"), (b"tEXt", b"Comment")
    for chunk in (*damaged, (b"tEXt", b"Comment\0" + b"a" * 70_000)):
        assert any("the comment is damaged or longer" in note for note in jpeg_of([chunk], tmp_path))
        told = jpeg_of([chunk, (b"tEXt", b"Comment\0hello")], tmp_path)
        assert told == [".jpg holds one comment, here the first that fits: the others are left out"]
        with opened(tmp_path, ".jpg") as file:
            assert file.info["comment"] == b"hello"


def jpeg_of(chunks: list[tuple[bytes, bytes]], folder: Path) -> list[str]:
    """What is told when a PNG with these chunks becomes a JPEG."""
    return through(png(samples(3, 8), 8, 2, chunks), ".jpg", folder)[1]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", ["comment", "photoshop", "icc_profile", "transparency", "exif", "xmp", "dpi"])
def test_texts_with_names_that_pillow_uses(name: str, bits: int, tmp_path: Path) -> None:
    texts = [(b"tEXt", name.encode() + b"\0said"), (b"iTXt", name.encode() + bytes(5) + b"said")]
    plain, _ = through(png(samples(3, bits), bits, 2, []), ".png", tmp_path)
    for place in (False, True):  # before the pixels and after them
        image, notes = through(png(samples(3, bits), bits, 2, *([], texts) if place else [texts]), ".png", tmp_path)
        assert not notes and image == replace(plain, chunks=image.chunks, pixels=image.pixels)
        assert set(image.chunks) == set(texts)
        np.testing.assert_array_equal(image.pixels, plain.pixels)


def test_a_long_text(tmp_path: Path) -> None:
    text = zlib.compress(b"a" * (1 << 22))
    for bits in (8, 16):
        image, notes = through(png(samples(3, bits), bits, 2, [(b"zTXt", b"notes\0\0" + text)]), ".png", tmp_path)
        assert not notes and len(image.chunks) == 1


def test_a_profile_that_is_left_out(tmp_path: Path) -> None:
    gray = Pillow.fromarray(photo(9, 9)).convert("L")
    for content in (saved("JPEG", gray, icc_profile=SRGB), saved("JPEG", icc_profile=b"nonsense")):
        image, notes = through(content, ".png", tmp_path)
        assert image.icc is None and notes == ["its colour profile is damaged, or one for other pixels: left out"]
    image, notes = through(saved("JPEG", icc_profile=SRGB + b"\0\0"), ".png", tmp_path)
    assert image.icc == SRGB and not notes
    broken = png(samples(3, 8), 8, 2, [(b"iCCP", b"ICC Profile\0\0nonsense")])
    assert "colour profile" in str(through(broken, ".png", tmp_path)[1])
    inks = Pillow.new("CMYK", (9, 9))
    assert "colour profile" in str(through(saved("JPEG", inks, icc_profile=SRGB), ".png", tmp_path)[1])


@pytest.mark.parametrize("bits", [8, 16])
def test_gamma_and_primaries(bits: int, tmp_path: Path) -> None:
    usual = list(NUMBERS.items())
    high_range = [(b"sRGB", b"\0"), (b"cICP", bytes([9, 16, 0, 1]))]  # of which the second counts
    others = ([(b"gAMA", struct.pack(">I", 55556))], True), (high_range, True)
    for chunks, told in (*others, (usual, False), ([(b"sRGB", b"\0")], False)):
        content = png(samples(3, bits), bits, 2, chunks)
        image, notes = through(content, ".png", tmp_path)
        assert list(image.chunks) == chunks and not notes
        notes = through(content, ".tif", tmp_path)[1]
        assert any("may look different" in note for note in notes) == told


def test_a_profile_rules_out_the_srgb_chunk(tmp_path: Path) -> None:
    block = PngImagePlugin.PngInfo()
    block.add(b"sRGB", b"\0")
    image, _ = through(saved("PNG", pnginfo=block, icc_profile=SRGB), ".png", tmp_path)
    assert image.icc == SRGB and not image.chunks
    block.add(b"cICP", bytes([9, 16, 0, 1]))
    assert any("cICP" in note for note in through(saved("PNG", pnginfo=block, icc_profile=SRGB), ".jpg", tmp_path)[1])


def test_adobe_rgb_of_a_camera_without_a_profile(tmp_path: Path) -> None:
    block = Pillow.Exif()
    block[0x8769] = {0xA001: 0xFFFF, 0xA005: {1: "R03"}}
    for suffix in (".png", ".jpg", ".webp", ".tif"):
        through(saved("JPEG", exif=block), suffix, tmp_path)
        with opened(tmp_path, suffix) as file:
            assert file.getexif().get_ifd(0xA005)[1] == "R03"


def frames(count: int) -> list[Pillow.Image]:
    return [Pillow.fromarray(photo(20, 30, seed)) for seed in range(count)]


@pytest.mark.parametrize(
    "kind,told",
    [("PNG", "3 frames"), ("WEBP", "3 frames"), ("GIF", "3 frames"), ("TIFF", "3 pages"), ("MPO", "3 pict")],
)
def test_what_is_taken_of_several(kind: str, told: str, tmp_path: Path) -> None:
    first, *others = frames(3)
    path = tmp_path / "a"
    path.write_bytes(
        saved(kind, first, save_all=True, append_images=others, **({"lossless": True} if kind == "WEBP" else {}))
    )
    image = read_image(path)
    assert [note for note in image.notes if f"the first of {told}" in note] and len(image.notes) == 1
    if kind in ("PNG", "WEBP", "TIFF"):
        np.testing.assert_array_equal(image.pixels, np.asarray(first))
    for single in ("PNG", "WEBP", "GIF", "TIFF", "JPEG"):
        path.write_bytes(saved(single, first))
        assert read_image(path).notes == ()


def test_blocks_that_nothing_can_be_done_with(tmp_path: Path) -> None:
    jumbf = b"JP\0\x01content"
    signed = saved("JPEG", extra=b"\xff\xeb" + struct.pack(">H", len(jumbf) + 2) + jumbf)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[33550] = (1.0, 1.0, 0.0)
    for content, name in {
        signed: "content credentials",
        png(samples(3, 8), 8, 2, [(b"caBX", b"content")]): "content credentials",
        png(samples(3, 8), 8, 2, [(b"vpAg", b"virtual page")]): "chunk vpAg",
        saved("TIFF", tiffinfo=tags): "ModelPixelScale",
        saved("TIFF", tiffinfo={65000: 1}): "tag 65000",
    }.items():
        assert f"left out: {name}" in str(through(content, ".png", tmp_path)[1])


def test_the_mark_of_this_program_is_no_loss(tmp_path: Path) -> None:
    save_image(tmp_path / "a.tif", Image(photo(9, 9), None, gray=False, exif=mark_exif(None, "PCSR")))
    assert not read_image(tmp_path / "a.tif").notes


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    content = png(samples(3, 8), 8, 2, [(b"pHYs", struct.pack(">IIB", 2, 1, 0))])
    assert "not square" in str(through(content, ".png", tmp_path)[1])


def test_damaged_blocks_do_not_matter(tmp_path: Path) -> None:
    broken = [(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0nonsense"), (b"zTXt", b"a")]
    for bits, chunk in ((bits, chunk) for bits in (8, 16) for chunk in broken):
        image, _ = through(png(samples(3, bits), bits, 2, [chunk]), ".png", tmp_path)
        assert image.dpi is None and image.xmp is None


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_tiff_holds_everything(channels: int, bits: int, tmp_path: Path) -> None:
    array = np.atleast_3d(samples(channels, bits))
    alpha, colours = (array[:, :, -1], array[:, :, :-1]) if channels in (2, 4) else (None, array)
    pixels = np.broadcast_to(colours, (*array.shape[:2], 3))
    gray = channels < 3 and not (channels == 2 and bits == 16)
    image = Image(pixels, alpha, gray, None if gray else SRGB, exif(1), UPRIGHT, IPTC, (300.0, 200.0))
    save_image(tmp_path / "a.tif", image)
    again = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(again.pixels, pixels, strict=True)
    np.testing.assert_array_equal(again.alpha, alpha)
    assert (again.gray, again.icc, again.iptc, again.dpi) == (gray, image.icc, IPTC, (300.0, 200.0))
    assert again.exif is not None and again.xmp == UPRIGHT and again.notes == ()


def test_tiff_of_many_strips_is_what_other_readers_read(tmp_path: Path) -> None:
    picture = photo(900, 700)
    save_image(tmp_path / "a.tif", Image(picture, None, gray=False))
    with Pillow.open(tmp_path / "a.tif") as file:
        assert isinstance(file, TiffImagePlugin.TiffImageFile)
        assert len(file.tag_v2[273]) > 1
        np.testing.assert_array_equal(np.asarray(file), picture)
