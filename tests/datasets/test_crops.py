"""The cache of decoded images, and the crops taken from it."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets import cache as cache_module
from datasets.cache import Cache, cache_place, open_cache, open_caches
from datasets.crops import Crops
from datasets.pool import gather_resident
from tests.conftest import make_folder, photo
from utils.config import DataSpec
from utils.decode import read_image
from utils.encode import write_image
from utils.errors import InputError
from utils.image import Array

CPU = torch.device("cpu")
SIZES = [(48, 64), (64, 48), (40, 40)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "train", SIZES)


@pytest.fixture(autouse=True)
def _old_pixels_go_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "OLD", -1.0)


def place(folder: Path) -> Path:
    return folder.with_name("train.cache")


def pixels_file(folder: Path) -> Path:
    (path,) = place(folder).glob("pixels-*.bin")
    return path


def images(cache: Cache) -> list[Array]:
    areas = zip(cache.offset, cache.height, cache.width, strict=True)
    return [cache.pixels[start : start + h * w].reshape(h, w, 3) for start, h, w in areas]


def assert_current(cache: Cache, folder: Path) -> None:
    paths = sorted(folder.iterdir())
    assert list(cache.paths) == paths
    for cached, path in zip(images(cache), paths, strict=True):
        np.testing.assert_array_equal(cached, read_image(path).pixels)
    assert {path.name for path in place(folder).iterdir()} == {"index.json", pixels_file(folder).name}


def crops(folder: Path, seed: int = 0, rank: int = 0, world: int = 1, **changes: int) -> Crops:
    fields = {"train": str(folder), "val": "val", "scale": 4, "patch_size": 8, "batch_size": 4, **changes}
    spec = DataSpec.model_validate(fields)
    return Crops(open_caches(spec), spec, seed, CPU, rank, world)


def test_a_cache_is_built_once_and_holds_the_images(folder: Path) -> None:
    write_image(folder / "img_3.png", photo(40, 44)[:, :, 0], alpha=photo(40, 44, 1)[:, :, 0])  # gray with alpha
    assert_current(open_cache(folder), folder)
    before = pixels_file(folder).stat()
    assert_current(open_cache(str(folder)), folder)
    after = pixels_file(folder).stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_cache_follows_its_folder(folder: Path, tmp_path: Path) -> None:
    first = open_cache(folder)
    kept = [image.copy() for image in images(first)]
    write_image(folder / "img_1.png", photo(50, 60, 9))  # changed
    assert_current(open_cache(folder), folder)
    write_image(folder / "img_9.png", photo(50, 60, 9))  # added
    assert_current(open_cache(folder), folder)
    (folder / "img_0.png").unlink()  # removed
    assert_current(open_cache(folder), folder)
    target = tmp_path / "elsewhere.png"
    write_image(target, photo(40, 40, 5))
    (folder / "link.png").symlink_to(target)
    assert_current(open_cache(folder), folder)
    write_image(target, photo(40, 40, 6))  # changed behind a link
    assert_current(open_cache(folder), folder)
    for image, copy in zip(images(first), kept, strict=True):  # a run that still maps the first
        np.testing.assert_array_equal(image, copy)


@pytest.mark.parametrize("damage", ["pixels", "index", "empty index", "no pixels"])
def test_a_damaged_cache_is_built_again(damage: str, folder: Path) -> None:
    open_cache(folder)
    index = place(folder) / "index.json"
    if damage == "pixels":
        os.truncate(pixels_file(folder), 1000)
    elif damage == "no pixels":
        pixels_file(folder).unlink()
    else:
        os.truncate(index, 0 if damage == "empty index" else index.stat().st_size // 2)
    assert_current(open_cache(folder), folder)


def test_a_bad_image_is_named_and_nothing_left(folder: Path) -> None:
    deep, bad = folder / "deep.png", folder / "z_bad.png"
    write_image(deep, photo(40, 40).astype(np.uint16) * 257)
    with pytest.raises(InputError, match=r"deep\.png: training images must have 8 bits"):
        open_cache(folder)
    assert not place(folder).exists()
    deep.unlink()
    current = open_cache(folder)
    write_image(bad, photo(40, 40))
    os.truncate(bad, 500)
    with pytest.raises(InputError, match=r"z_bad\.png: not a readable"):
        open_cache(folder)
    bad.unlink()
    assert_current(open_cache(folder), folder)
    assert_current(current, folder)


def test_a_place_that_cannot_be_written_has_a_remedy(folder: Path, tmp_path: Path) -> None:
    place(folder).write_text("a file")
    with pytest.raises(InputError, match=r"cannot write .*train\.cache: .*; set data\.cache_dir"):
        open_cache(folder)
    assert place(folder).read_text() == "a file"
    namesake = make_folder(tmp_path / "other" / "train", [(32, 32)])
    for _ in range(2):
        assert len(open_cache(folder, tmp_path / "caches").paths) == 3
        assert len(open_cache(namesake, tmp_path / "caches").paths) == 1
    assert len(list((tmp_path / "caches").iterdir())) == 2
    assert not namesake.with_name("train.cache").exists()


def test_the_place_of_a_relative_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "below").mkdir()
    monkeypatch.chdir(folder)
    assert cache_place(Path(), None) == place(folder)
    monkeypatch.chdir(folder / "below")
    assert cache_place(Path(".."), None) == place(folder)


def test_files_of_others_are_left_alone(folder: Path) -> None:
    place(folder).mkdir()
    others = [place(folder) / name for name in ("pixels.bin", "pixels-of-mine.bin", ".hidden", "index.json")]
    for path in others:
        path.write_text('{"mine": true}')
    with pytest.raises(InputError, match=r"index\.json: was made by something else; set data\.cache_dir"):
        open_cache(folder)
    assert sorted(place(folder).iterdir()) == sorted(others)
    others.pop().unlink()
    open_cache(folder)
    write_image(folder / "img_1.png", photo(50, 60, 9))
    open_cache(folder)
    assert all(path.read_text() == '{"mine": true}' for path in others)


def test_what_a_killed_builder_left_is_deleted(folder: Path) -> None:
    open_cache(folder)
    dead, alive = (place(folder) / f".{pixels_file(folder).name}.{name}" for name in ("dead", "alive"))
    for path in (dead, alive):
        path.write_bytes(b"half")
    os.utime(dead, (0, 0))
    write_image(folder / "img_1.png", photo(50, 60, 9))
    open_cache(folder)
    assert alive.exists() and not dead.exists()


def test_pixels_that_are_in_use_elsewhere_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a network disk another machine may map them: they are deleted when nobody has opened them for a week."""
    monkeypatch.setattr(cache_module, "OLD", 7 * 86400.0)
    open_cache(folder)
    before = pixels_file(folder)
    os.utime(before, (0, 0))
    open_cache(folder)  # now it is in use
    for seed, there in ((8, True), (9, False)):
        write_image(folder / "img_1.png", photo(50, 60, seed))
        open_cache(folder)
        assert before.exists() == there
        if there:
            os.utime(before, (0, 0))


def test_two_builders_at_once_both_succeed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = cache_module.decode_8_bits
    inner: list[Cache] = []

    def decode_while_another_builds(path: Path) -> Array:
        monkeypatch.setattr(cache_module, "decode_8_bits", decode)
        if not inner:
            inner.append(open_cache(folder))
        return decode(path)

    monkeypatch.setattr(cache_module, "decode_8_bits", decode_while_another_builds)
    outer = open_cache(folder)
    assert_current(outer, folder)
    assert_current(inner[0], folder)


def test_an_image_smaller_than_a_crop_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match=r"img_2\.png: smaller than the 48x48 HR patch; remove it or lower patch_size"):
        crops(folder, patch_size=12)


def variants(crop: Array) -> list[Array]:
    """The eight flips of a (3,P,P) square."""
    return [np.rot90(flipped, n, (1, 2)) for flipped in (crop, crop[:, :, ::-1]) for n in range(4)]


def test_crops_are_flipped_windows_of_the_images(folder: Path) -> None:
    source = crops(folder)
    batches = torch.cat([source.batch(i) for i in range(1, 21)])
    assert batches.shape == (80, 3, 32, 32) and batches.dtype == torch.uint8
    whole = images(open_cache(folder))
    windows = [np.lib.stride_tricks.sliding_window_view(image, (32, 32), axis=(0, 1)) for image in whole]
    seen = set()
    for crop in batches.numpy():
        found = [
            (i, n)
            for i, window in enumerate(windows)
            for n, variant in enumerate(variants(crop))
            if (window == variant).all(axis=(2, 3, 4)).any()
        ]
        assert found
        seen.update(found)
    assert {i for i, _ in seen} == {0, 1, 2} and {n for _, n in seen} == set(range(8))


def test_crops_reach_every_corner(tmp_path: Path) -> None:
    source = crops(make_folder(tmp_path / "train", [(33, 34)]))
    strides = np.concatenate([source.strides(i) for i in range(1, 101)], axis=1)
    first, down, right = strides
    corners = np.minimum(first, first + 31 * down) + np.minimum(0, 31 * right)  # each crop's top left pixel
    assert set(corners.tolist()) == {0, 1, 2, 34, 35, 36}


def test_every_image_comes_once_per_epoch(tmp_path: Path) -> None:
    source = crops(make_folder(tmp_path / "train", [(32, 32)] * 6))
    shown = np.concatenate([source.image_numbers(i) for i in range(1, 10)]).reshape(
        -1, 6
    )  # 9 batches of 4 are 6 epochs
    assert (np.sort(shown, axis=1) == np.arange(6)).all()
    assert len({tuple(epoch) for epoch in shown.tolist()}) > 3


@pytest.mark.parametrize("number", [1, 3, 9])
def test_samples_do_not_depend_on_processes_or_the_start(number: int, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "train", [(40, 40)] * number)
    source = crops(folder, seed=7)
    whole = torch.stack([source.batch(i) for i in range(1, 5)])  # (4 iterations, 4 samples)
    for world in (2, 4):
        ranks = [crops(folder, 7, rank, world) for rank in range(world)]
        shares = [torch.stack([share.batch(i) for i in range(1, 5)]) for share in ranks]
        assert torch.equal(torch.stack(shares, 2).flatten(1, 2), whole)
    resumed = crops(folder, seed=7)
    assert torch.equal(torch.stack([resumed.batch(i) for i in (3, 4)]), whole[2:])
    other = crops(folder, seed=8)
    assert not torch.equal(torch.stack([other.batch(i) for i in range(1, 5)]), whole)


def test_processes_must_divide_the_batch(folder: Path) -> None:
    with pytest.raises(InputError, match=r"data\.batch_size: 3 processes do not divide 4"):
        crops(folder, world=3)


def test_both_ways_to_gather_agree(folder: Path) -> None:
    source = crops(folder)
    pixels = torch.from_numpy(source.hr.pixels[0].copy())
    for iteration in range(1, 11):
        crop = gather_resident(pixels, source.strides(iteration), 32)
        assert crop.is_contiguous() and torch.equal(crop, source.batch(iteration))


@pytest.mark.filterwarnings("error")
def test_sub_images_of_the_size_of_a_crop(tmp_path: Path) -> None:
    """The published training sub-images have 128x128 pixels, just enough for patch_size 32 at x4."""
    folder = make_folder(tmp_path / "train", [(128, 128)] * 3)
    source = crops(folder, patch_size=32)
    whole = [image.transpose(2, 0, 1) for image in images(open_cache(folder))]
    for image, crop in zip(source.image_numbers(1), source.batch(1).numpy(), strict=True):
        assert any((variant == whole[image]).all() for variant in variants(crop))
    shutil.rmtree(place(folder))  # as the README says it may be
    assert torch.equal(crops(folder, patch_size=32).batch(1), source.batch(1))
