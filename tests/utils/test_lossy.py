"""What an image file reveals of its lossy compression."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.conftest import photo
from utils.decode import read_image, stored_lossy
from utils.encode import write_image
from utils.image import Lossy
from utils.jpeg import LUMA_OF_QUALITY

PICTURE = Pillow.fromarray(photo(40, 48))


def lossy(path: Path) -> Lossy | None:
    """As the image and the file alone say it."""
    found = read_image(path, accept_damaged=True).lossy
    assert stored_lossy(path) == found
    return found


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2, "optimize": True}, {"keep_rgb": True}],
    ids=str,
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_the_quality_of_a_jpeg(mode: str, options: dict[str, Any], tmp_path: Path) -> None:
    for quality in [*range(10, 100, 5), *range(96, 101)]:
        PICTURE.convert(mode).save(tmp_path / "a.jpg", quality=quality, **options)
        assert lossy(tmp_path / "a.jpg") == Lossy("JPEG", quality)


def test_the_encoder_of_this_project(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", photo(40, 48))
    found = lossy(tmp_path / "a.jpg")
    assert found is not None and found.quality == 95


def test_tables_of_other_programs(tmp_path: Path) -> None:
    """The nearest table counts: whatever the table, a coarser one is of lower quality."""
    rng = np.random.default_rng(0)
    near = (LUMA_OF_QUALITY[79] + rng.integers(-1, 2, 64)).clip(1, 255).tolist()
    flat = [[step] * 64 for step in (1, 3, 10, 40, 255)]
    found = []
    for table in [near, *flat]:
        PICTURE.save(tmp_path / "a.jpg", qtables=[table, table])
        read = lossy(tmp_path / "a.jpg")
        assert read is not None and read.quality is not None
        found.append(read.quality)
    assert abs(found[0] - 80) <= 1 and found[1] == 100
    assert found[1:] == sorted(set(found[1:]), reverse=True) and found[-1] >= 1


def test_webp(tmp_path: Path) -> None:
    clear = PICTURE.convert("RGBA")
    clear.putalpha(100)
    frames: dict[str, Any] = {"save_all": True, "append_images": [PICTURE.rotate(90), PICTURE.rotate(180)]}
    profile: dict[str, Any] = {"icc_profile": bytes(1001)}  # an extended file, and a chunk of odd length
    for picture in PICTURE, clear:
        for options in {}, frames, profile:
            for lossless in False, True:
                picture.save(tmp_path / "a.webp", lossless=lossless, **options)
                assert lossy(tmp_path / "a.webp") == (None if lossless else Lossy("WebP"))


def test_a_damaged_file_says_it_too(tmp_path: Path) -> None:
    for name, expected in ("a.jpg", Lossy("JPEG", 75)), ("a.webp", Lossy("WebP")):
        PICTURE.save(tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-200])
        assert lossy(tmp_path / name) == expected


def test_other_files_are_not_lossy(tmp_path: Path) -> None:
    for name in "a.png", "a.tif", "a.bmp", "a.gif":
        PICTURE.save(tmp_path / name)
        assert lossy(tmp_path / name) is None
    content = io.BytesIO()
    PICTURE.save(content, "JPEG")
    for what in b"", b"hello", b"\xff\xd8\xff", content.getvalue()[:100], b"RIFF\0\0\0\0WEBP" + bytes(9):
        (tmp_path / "b").write_bytes(what)
        assert stored_lossy(tmp_path / "b") is None
    assert stored_lossy(tmp_path / "missing") is None


def test_in_words() -> None:
    assert str(Lossy("JPEG", 75)) == "JPEG of quality about 75"
    assert str(Lossy("WebP")) == "lossy WebP"
