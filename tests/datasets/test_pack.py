"""Crops in one file come out as they went in."""

import io
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu_training import write_crops
from datasets.pack import pack, unpack
from tests.conftest import make_folder
from utils.decode import read_image
from utils.errors import InputError
from utils.files import list_images


def test_crops_are_places_in_the_images(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "train", [(40, 64), (30, 20), (33, 48)])  # the second is too low for a crop
    size = pack(folder, tmp_path / "pack.npz", 32, 20, 0)
    packed = unpack(tmp_path / "pack.npz")
    assert packed.training.shape == (20, 32, 32, 3) and packed.validation.shape == (16, 32, 32, 3)
    assert packed.training.dtype == packed.validation.dtype == np.uint8
    assert size == (tmp_path / "pack.npz").stat().st_size < packed.training.nbytes + packed.validation.nbytes
    windows = [
        np.lib.stride_tricks.sliding_window_view(read_image(path).pixels, (32, 32), (0, 1)).transpose(0, 1, 3, 4, 2)
        for path in list_images(folder)
        if min(read_image(path).pixels.shape[:2]) >= 32
    ]
    sources = [
        {next(n for n, window in enumerate(windows) if (window == crop).all((2, 3, 4)).any()) for crop in crops}
        for crops in packed
    ]
    assert sorted(sources) == [{0}, {1}]  # no crop for validation is of an image that is trained on
    write_crops(packed.training, tmp_path / "crops")
    written = [read_image(path).pixels for path in list_images(tmp_path / "crops")]
    np.testing.assert_array_equal(np.stack(written), packed.training)


def test_refusals(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "train", [(20, 20), (32, 32), (20, 24)])
    with pytest.raises(InputError, match="1 of 3 are 32x32 pixels or larger; two images are needed"):
        pack(folder, tmp_path / "pack.npz", 32, 4, 0)
    for wrong in ((0, 4, 0), (8, 0, 0), (8, -1, 0), (8, 4, -1)):
        with pytest.raises(InputError, match=r"^--(size|count|seed) (0|-1): must lie between"):
            pack(folder, tmp_path / "pack.npz", *wrong)
    (folder / "junk.png").write_text("junk")
    with pytest.raises(InputError, match=r"junk\.png"):
        pack(folder, tmp_path / "pack.npz", 8, 4, 0)
    assert not (tmp_path / "pack.npz").exists()
    (folder / "junk.png").unlink()
    pack(folder, tmp_path / "pack.npz", 8, 40, 0)
    whole = (tmp_path / "pack.npz").read_bytes()
    numbers = io.BytesIO()
    np.save(numbers, np.arange(3))
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for content in (b"", b"something", numbers.getvalue(), whole[: len(whole) // 2], bytes(flipped)):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(InputError, match=r"other: is no whole file of datasets/scripts/pack\.py; pack it"):
            unpack(tmp_path / "other")
