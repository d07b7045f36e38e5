"""Several folders, their subfolders, and HR and LR images that belong together."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.cache import Cache, open_cache, open_caches
from datasets.crops import Crops
from datasets.folder import PairedFolder
from tests.conftest import Cli, make_folder, photo
from utils.config import DataSpec
from utils.encode import write_image
from utils.errors import InputError
from utils.files import check_separate, list_images

CPU = torch.device("cpu")
TRAIN = ("train_pcsr.py", "--config", "configs/fsrcnn-pcsr-phase0.yaml", "--name", "run", "--set", "iter_max=2")
SMALL = ("patch_size=8", "batch_size=4", "pixels_per_patch=50", "log_every=1")


def spec(**changes: object) -> DataSpec:
    fields = {"train": "train", "val": "val", "scale": 4, "patch_size": 8, "batch_size": 4, **changes}
    return DataSpec.model_validate(fields)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "one", [(40, 44)])
    make_folder(tmp_path / "one/deep/er", [(44, 40), (48, 40)])
    make_folder(tmp_path / "one/.hidden", [(44, 40)])
    make_folder(tmp_path / "two", [(36, 40), (40, 36)])
    make_folder(tmp_path / "val", [(40, 44)])
    return tmp_path


def test_a_folder_is_searched_with_its_subfolders(work: Path) -> None:
    (work / "one/link").symlink_to(work / "two")
    (work / "one/deep/loop").symlink_to(work / "one")
    found = [str(path) for path in list_images("one", below=True)]
    assert found == [
        *("one/deep/er/img_0.png", "one/deep/er/img_1.png", "one/img_0.png"),
        *("one/link/img_0.png", "one/link/img_1.png"),
    ]
    assert [str(path) for path in list_images("one")] == ["one/img_0.png"]  # what an evaluation sees
    cache = open_cache("one")
    assert [str(path) for path in cache.paths] == found and len(set(zip(cache.height, cache.width, strict=True))) == 5
    again = open_cache(Path("one"))
    assert isinstance(again, Cache) and len(list(work.glob("one.cache/pixels-*"))) == 1


def test_crops_come_from_all_folders(work: Path) -> None:
    data = spec(train=["one", "two"])
    source = Crops(open_caches(data), data, 0, CPU)
    assert [str(path) for path in source.hr.paths] == [str(p) for f in ("one", "two") for p in list_images(f, True)]
    whole = [np.asarray(photo(*size, seed)) for size, seed in (((44, 40), 0), ((48, 40), 1), ((40, 44), 0))]
    whole += [photo(36, 40, 0), photo(40, 36, 1)]
    seen = set()
    for iteration in range(1, 11):
        for number, crop in zip(source.images(iteration), source.batch(iteration).numpy(), strict=True):
            windows = np.lib.stride_tricks.sliding_window_view(whole[number], (32, 32), axis=(0, 1))
            squares = [np.rot90(flip, turns, (1, 2)) for flip in (crop, crop[:, :, ::-1]) for turns in range(4)]
            assert any((windows == square).all(axis=(2, 3, 4)).any() for square in squares)
            seen.add(number)
    assert seen == set(range(5))
    joined = torch.cat([torch.from_numpy(part.copy()) for part in source.hr.pixels])
    source.hr.resident, mapped = joined, source.batch(3)  # as on a CUDA device
    assert torch.equal(source.batch(3), mapped)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["one", "two", "./one"], r"\./one: named twice"),
        (["one/deep", "one"], "one/deep: lies in one, which is searched with its subfolders"),
    ],
)
def test_no_image_counts_twice(folders: list[str], message: str, work: Path) -> None:
    with pytest.raises(InputError, match=message):
        check_separate(folders)
    with pytest.raises(InputError, match=message):
        open_caches(spec(train=folders))
    assert not list(work.glob("*.cache"))


def test_training_with_several_folders(cli: Cli, work: Path) -> None:
    (work / "empty").mkdir()
    ran = cli(*TRAIN, *SMALL, "data.train=[one,two]", "data.val=[val,two]")
    assert ran.code == 0, ran.err
    assert "data: 5 images in one, two" in ran.out
    for settings, message in (
        (["data.train=[one,empty]", "val=val"], "empty: no images in it"),
        (["data.train=one", "val=[val,val]"], "val: named twice"),
        (["data.train=[]", "val=val"], "data.train: must be a folder, or a list of folders"),
        (["data.train={a: 1}", "val=val"], "data.train: must be a folder, or a list of folders"),
        (["data.train=one", "val=one/deep"], "one/deep: lies in one, so that it would be trained on as well"),
    ):
        refused = cli(*TRAIN, *SMALL, *settings)
        assert refused.code == 2 and refused.err.count("\n") == 1 and message in refused.err


def test_equal_names_in_subfolders_are_no_clash(work: Path) -> None:
    write_image(work / "two/img_0.jpg", photo(40, 40))
    assert len(list_images("two", below=True)) == 3  # a training from HR alone needs no names
    with pytest.raises(InputError, match=r"img_0\.png: has the name of img_0\.jpg; rename one"):
        PairedFolder("two", None, 4, below=True)
