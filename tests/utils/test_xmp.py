"""An orientation that only XMP states; and the texts of a PNG in which older programs store EXIF and XMP."""

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import PngImagePlugin, TiffImagePlugin

from tests.conftest import photo
from tests.utils.test_decode import png, samples
from tests.utils.test_metadata import exif
from utils.decode import read_image
from utils.image import Array

TURNED = b'<x:xmpmeta><rdf:Description tiff:Orientation="6" dc:title="Sea"/></x:xmpmeta>'
UPRIGHT = TURNED.replace(b'"6"', b'"1"')
WITHOUT = Pillow.Exif()
WITHOUT[271] = "Camera"


def stored(kind: str, xmp: bytes) -> bytes:
    """A file with XMP, and EXIF that states no orientation."""
    buffer, block, tags = io.BytesIO(), PngImagePlugin.PngInfo(), TiffImagePlugin.ImageFileDirectory_v2()
    block.add_itxt("XML:com.adobe.xmp", xmp.decode())
    tags[700] = xmp
    own: dict[str, dict[str, Any]] = {"PNG": {"pnginfo": block}, "TIFF": {"tiffinfo": tags}}
    options = own.get(kind, {"xmp": xmp})
    more = {} if kind == "TIFF" else {"exif": WITHOUT.tobytes()}
    lossless = {"lossless": True} if kind == "WEBP" else {}
    Pillow.fromarray(photo(20, 30)).save(buffer, kind, **options, **more, **lossless)
    return buffer.getvalue()


def turned(pixels: Array) -> Array:
    return np.rot90(pixels, -1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    "said", [b'="6"', b"='6'", b' = "6"', b">6</tiff:Orientation><a b="], ids=["usual", "single", "spaces", "element"]
)
def test_the_orientation_of_xmp(said: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(stored(kind, TURNED.replace(b'="6"', said)))
    image = read_image(tmp_path / "a")
    if kind == "JPEG":
        assert image.pixels.shape == (30, 20, 3)
    else:
        np.testing.assert_array_equal(image.pixels, turned(photo(20, 30)))
    assert image.xmp is not None and b"6" not in image.xmp and b"Sea" in image.xmp


@pytest.mark.parametrize("bits", [8, 16])
def test_xmp_after_the_pixels(bits: int, tmp_path: Path) -> None:
    before, after = [(b"eXIf", WITHOUT.tobytes()[6:])], [(b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + TURNED)]
    (tmp_path / "a.png").write_bytes(png(samples(3, bits), bits, 2, before, after))
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, turned(samples(3, bits)))
    assert image.xmp == UPRIGHT and image.exif is not None and b"Camera" in image.exif


def raw(name: bytes, block: bytes) -> tuple[bytes, bytes]:
    """A text as older versions of ImageMagick write it."""
    digits = b"\n".join(block.hex().encode()[start : start + 72] for start in range(0, 2 * len(block), 72))
    return b"tEXt", b"Raw profile type " + name + b"\0\n" + name + b"\n%8d\n" % len(block) + digits + b"\n"


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("late", [False, True])
def test_texts_that_hold_exif_and_xmp(bits: int, late: bool, tmp_path: Path) -> None:
    header = b"http://ns.adobe.com/xap/1.0/\0"
    for texts in (
        [raw(b"exif", exif(6)), raw(b"xmp", UPRIGHT)],
        [raw(b"APP1", exif(6)), raw(b"APP1", header + UPRIGHT)],
        [raw(b"APP1", exif(3)), (b"eXIf", exif(6)[6:]), raw(b"xmp", TURNED), raw(b"xmp", UPRIGHT)],  # its own chunk
    ):
        (tmp_path / "a.png").write_bytes(png(samples(3, bits), bits, 2, *([], texts) if late else [texts]))
        image = read_image(tmp_path / "a.png")
        np.testing.assert_array_equal(image.pixels, turned(samples(3, bits)))
        assert image.xmp == UPRIGHT and image.exif is not None and b"Camera" in image.exif
        assert not image.chunks and not image.notes


@pytest.mark.parametrize("bits", [8, 16])
def test_a_text_that_holds_neither_stays_a_text(bits: int, tmp_path: Path) -> None:
    damaged = [(b"tEXt", b"Raw profile type exif\0" + said) for said in (b"", b"\nexif\n", b"\nexif\n 4\nno digits")]
    for text in (*damaged, raw(b"APP1", b"http://ns.adobe.com/xmp/extension/\0more"), raw(b"APP1", b"FLIR\0")):
        for before in ([], [raw(b"exif", exif(6))]):
            (tmp_path / "a.png").write_bytes(png(samples(3, bits), bits, 2, [*before, text]))
            image = read_image(tmp_path / "a.png")
            assert image.chunks == (text,) and bool(image.exif) == bool(before) and not image.notes


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("text", [(b"tEXt", b"\0" + TURNED), (b"zTXt", b"\0\0" + zlib.compress(TURNED))])
def test_xmp_in_any_kind_of_text(text: tuple[bytes, bytes], bits: int, tmp_path: Path) -> None:
    name, said = text
    (tmp_path / "a.png").write_bytes(png(samples(3, bits), bits, 2, [(name, b"XML:com.adobe.xmp" + said)]))
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, turned(samples(3, bits)))
    assert image.xmp == UPRIGHT
