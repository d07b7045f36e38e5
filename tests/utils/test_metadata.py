"""Colour profiles and EXIF on their way through reading and writing."""

import io
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, ImageCms, TiffImagePlugin
from PIL import Image as Pillow

from tests.conftest import photo
from tests.utils.test_decode import COLOUR_TYPE, png, samples
from utils.decode import read_image
from utils.encode import save_image
from utils.image import Image
from utils.metadata import PROGRAM, RGB, mark_exif, read_exif, read_mark, space

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
GRAY = SRGB[:16] + b"GRAY" + SRGB[20:]
EXIF_IFD, GPS_IFD = ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo
TAKEN, WIDTH, MAKER_NOTE, MAKE, ORIENTATION = 0x9003, 0xA002, 0x927C, 0x010F, 0x0112


def exif(orientation: int = 6) -> bytes:
    block = Pillow.Exif()
    block[MAKE], block[ORIENTATION] = "Camera", orientation
    block[EXIF_IFD] = {TAKEN: "2024:10:01 12:00:00", WIDTH: 7, MAKER_NOTE: b"note"}
    block[GPS_IFD] = {1: "N", 2: (48.0, 8.0, 1.0)}
    return block.tobytes()


def check_exif(content: bytes) -> None:
    with Pillow.open(io.BytesIO(content)) as file:
        block = file.getexif()
        assert dict(block).keys() == {MAKE, EXIF_IFD, GPS_IFD} and block[MAKE] == "Camera"
        assert block.get_ifd(EXIF_IFD) == {TAKEN: "2024:10:01 12:00:00", MAKER_NOTE: b"note"}
        assert block.get_ifd(GPS_IFD) == {1: "N", 2: (48.0, 8.0, 1.0)}


@pytest.mark.parametrize("source", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("target", [".png", ".jpg", ".webp"])
def test_profile_and_exif_are_kept(source: str, target: str, tmp_path: Path) -> None:
    path, made = tmp_path / "a", tmp_path / f"b{target}"
    Pillow.fromarray(photo(20, 30)).save(path, source, icc_profile=SRGB, exif=exif())
    image = read_image(path)
    assert image.pixels.shape == (30, 20, 3)  # upright
    save_image(made, image)
    again = read_image(made)
    assert again.pixels.shape == (30, 20, 3) and again.icc == SRGB
    check_exif(made.read_bytes())


def test_16_bit_png_keeps_them_too(tmp_path: Path) -> None:
    image = Image(samples(3, 16), samples(1, 16), gray=False, icc=SRGB, exif=exif(1))
    save_image(tmp_path / "a.png", image)
    again = read_image(tmp_path / "a.png")
    assert again.icc == SRGB and again.bits == 16
    save_image(tmp_path / "b.png", again)
    check_exif((tmp_path / "b.png").read_bytes())


def test_a_large_profile_fits_into_jpeg(tmp_path: Path) -> None:
    icc = SRGB + bytes(200_000)
    icc = len(icc).to_bytes(4) + icc[4:]
    save_image(tmp_path / "a.jpg", Image(photo(9, 9), None, gray=False, icc=icc))
    assert read_image(tmp_path / "a.jpg").icc == icc


@pytest.mark.parametrize(
    "icc,gray,kept",
    [
        (SRGB, False, True),
        (SRGB, True, False),
        (GRAY, False, False),
        (LAB, False, False),
        (SRGB[:-9], False, False),
        (b"nonsense", False, False),
    ],
)
def test_a_profile_must_be_one_for_the_pixels(icc: bytes, gray: bool, kept: bool, tmp_path: Path) -> None:
    Pillow.fromarray(photo(9, 9)).convert("L" if gray else "RGB").save(tmp_path / "a.png", icc_profile=icc)
    assert read_image(tmp_path / "a.png").icc == (icc if kept else None)
    assert (space(icc) == RGB) == (icc == SRGB)


def inks(cyan: tuple[int, int, int]) -> bytes:
    """A CMYK profile by hand: white paper, Lab of `cyan` for that ink in full and black for anything with others."""
    grid = np.zeros((2, 2, 2, 2, 3), np.uint8)
    grid[...] = (0, 128, 128)
    grid[0, 0, 0, 0], grid[1, 0, 0, 0] = (255, 128, 128), cyan
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table += ramp * 4 + grid.tobytes() + ramp * 3
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags = struct.pack(">I4sII4sII", 2, b"A2B0", 156 + len(white), len(table), b"wtpt", 156, len(white))
    size = 156 + len(white) + len(table)
    header = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02100000, b"prtr", b"CMYK", b"Lab ").ljust(36, b"\0") + b"acsp"
    header = header.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)  # D50
    return header.ljust(128, b"\0") + tags + white + table


def test_cmyk_becomes_srgb_by_its_profile(tmp_path: Path) -> None:
    cyan = Pillow.new("CMYK", (16, 16), (255, 0, 0, 0))
    for lab, dominant in (((140, 200, 128), 0), ((140, 50, 128), 1)):  # as if the ink were red, or green
        cyan.save(tmp_path / "a.jpg", icc_profile=inks(lab), quality=100)
        image = read_image(tmp_path / "a.jpg")
        assert image.icc is None and image.pixels[8, 8].argmax() == dominant
    Pillow.new("CMYK", (16, 16)).save(tmp_path / "a.jpg", icc_profile=inks((140, 200, 128)), quality=100)
    assert (read_image(tmp_path / "a.jpg").pixels > 250).all()


def test_cmyk_without_a_usable_profile(tmp_path: Path) -> None:
    """Read as if there were none, which must not be kept: it would say that RGB values are CMYK."""
    flat = Pillow.fromarray(np.full((16, 16, 3), (200, 40, 90), np.uint8)).convert("CMYK")
    for icc in (None, SRGB, b"nonsense", SRGB[:16] + b"CMYK" + SRGB[20:]):
        flat.save(tmp_path / "a.jpg", icc_profile=icc)
        image = read_image(tmp_path / "a.jpg")
        assert image.icc is None
        np.testing.assert_allclose(image.pixels[8, 8].astype(int), (200, 40, 90), atol=4)


def test_damaged_exif_counts_as_none(tmp_path: Path) -> None:
    Pillow.fromarray(photo(9, 9)).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert read_image(tmp_path / "a.jpg").exif is None


def test_tags_that_describe_the_picture_are_kept_of_a_tiff(tmp_path: Path) -> None:
    texts = dict.fromkeys((269, 270, 285, 305, 306, 315, 316, 33432), "words")
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, text in texts.items():
        tags[tag] = text
    Pillow.fromarray(photo(8, 9)).save(tmp_path / "a.tif", tiffinfo=tags)
    for suffix in (".png", ".jpg", ".webp", ".tif"):
        save_image(tmp_path / f"b{suffix}", read_image(tmp_path / "a.tif"))
        with Pillow.open(tmp_path / f"b{suffix}") as file:
            assert texts.items() <= dict(file.getexif()).items()


def test_orientation_alone_leaves_nothing(tmp_path: Path) -> None:
    for kind, content in (("jpg", photo(9, 9)), ("tif", photo(9, 9))):
        block = Pillow.Exif()
        block[ORIENTATION] = 6
        Pillow.fromarray(content).save(tmp_path / f"a.{kind}", exif=block)
        with Pillow.open(tmp_path / f"a.{kind}") as file:
            file.load()
            assert read_exif(file) is None


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_come_back_as_they_were(channels: int, bits: int, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(samples(channels, bits), bits, COLOUR_TYPE[channels]))
    image = read_image(tmp_path / "a.png")
    save_image(tmp_path / "b.png", image)
    again = read_image(tmp_path / "b.png")
    np.testing.assert_array_equal(again.pixels, image.pixels, strict=True)
    np.testing.assert_array_equal(again.alpha, image.alpha)
    assert again.gray == (image.gray and (channels, bits) != (2, 16))


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_quality_decides_the_size(suffix: str, tmp_path: Path) -> None:
    sizes = []
    for quality in (20, 60, 95, None):
        save_image(tmp_path / f"a{suffix}", Image(photo(64, 64), None, gray=False), quality)
        sizes.append((tmp_path / f"a{suffix}").stat().st_size)
    assert sizes[0] < sizes[1] < sizes[2] and (sizes[3] == sizes[2]) == (suffix == ".jpg")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("block", [b"damaged", b"MM\0*", b"MM\0*\0\0\0\x08\0\1\x01\x12\0\2\0\0\0\1no"])
def test_a_damaged_exif_block_does_not_keep_the_picture_from_being_read(
    kind: str, block: bytes, tmp_path: Path
) -> None:
    """The last is a block whose orientation is a letter."""
    path = tmp_path / "a"
    Pillow.fromarray(photo(20, 30)).save(path, kind, exif=block if kind == "PNG" else b"Exif\0\0" + block)
    image = read_image(path)
    assert image.pixels.shape == (20, 30, 3)
    assert bool(image.notes) == (len(block) < 10) and all("EXIF block is damaged" in note for note in image.notes)


def test_exif_of_a_big_tiff(tmp_path: Path) -> None:
    """Its offsets have 64 bits, those of an EXIF block 32."""
    Pillow.fromarray(photo(20, 30)).save(tmp_path / "a.tif", exif=exif(), big_tiff=True)
    image = read_image(tmp_path / "a.tif")
    save_image(tmp_path / "b.png", replace(image, exif=mark_exif(image.exif, "made")))
    block = read_image(tmp_path / "b.png").exif
    assert read_mark(tmp_path / "b.png") == "made" and block is not None and b"Camera" in block


def test_the_mark_of_a_result_is_not_that_of_what_is_made_from_it(tmp_path: Path) -> None:
    for mark, kept in ((PROGRAM + "model k=0", False), ("of another program", True)):
        save_image(tmp_path / "a.png", Image(photo(9, 9), None, gray=False, exif=mark_exif(exif(1), mark)))
        block = read_image(tmp_path / "a.png").exif
        assert block is not None and b"Camera" in block and (mark.encode() in block) == kept
