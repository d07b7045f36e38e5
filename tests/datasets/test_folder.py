"""Several folders, their subfolders, and HR and LR images that belong together."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets.cache import Cache, open_cache, open_caches
from datasets.crops import Crops
from datasets.folder import PairedFolder, lr_images
from datasets.pairs import check_data
from tests.conftest import ROOT, TINY_PCSR, Cli, make_folder, photo, save_tiny
from training.loop import open_crops, patches
from training.validation import validation_pairs
from utils.config import DataSpec
from utils.decode import read_image
from utils.dist import Ranks
from utils.encode import write_image
from utils.errors import InputError
from utils.files import check_separate, list_images
from utils.parse import load_config

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


def test_no_image_is_left_out_silently(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "two/gone.png").symlink_to(work / "unmounted/gone.png")
    with pytest.raises(InputError, match=r"two/gone\.png: No such file"):
        open_cache("two")
    scan = os.scandir

    def refusing(place: str) -> Any:
        if Path(place).name == "deep":  # root may read everything
            raise PermissionError(13, "Permission denied", place)
        return scan(place)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InputError, match=r"one/deep: Permission denied"):
        list_images("one", below=True)


def test_machines_with_other_images_do_not_train_together(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(ROOT / "configs/fsrcnn-x4.yaml", ["data.train=two", "patch_size=8"])
    monkeypatch.setattr("training.loop.gather", lambda ranks, value: [value, value])
    assert len(open_crops(config, Ranks(0, 1, torch.device("cpu"))).hr) == 2
    monkeypatch.setattr("training.loop.gather", lambda ranks, value: [value, "of another"])
    with pytest.raises(InputError, match=r"^data\.train: the machines of this job have other training images"):
        open_crops(config, Ranks(0, 1, torch.device("cpu")))


def test_crops_come_from_all_folders(work: Path) -> None:
    data = spec(train=["one", "two"])
    source = Crops(open_caches(data), data, 0, CPU)
    assert [str(path) for path in source.hr.paths] == [str(p) for f in ("one", "two") for p in list_images(f, True)]
    whole = [np.asarray(photo(*size, seed)) for size, seed in (((44, 40), 0), ((48, 40), 1), ((40, 44), 0))]
    whole += [photo(36, 40, 0), photo(40, 36, 1)]
    seen = set()
    for iteration in range(1, 11):
        for number, crop in zip(source.image_numbers(iteration), source.batch(iteration).numpy(), strict=True):
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
    make_folder(work / "three/deep", [(40, 40)])
    make_folder(work / "linked", [(40, 40)])
    (work / "linked/more").symlink_to(work / "val")
    ran = cli(*TRAIN, *SMALL, "data.train=[one,two]", "data.val=[val,three]")
    assert ran.code == 0, ran.err
    assert "data: 5 images in one, two" in ran.out
    for settings, message in (
        (["data.train=[one,empty]", "val=val"], "empty: no images in it"),
        (["data.train=one", "val=[val,val]"], "val: named twice"),
        (["data.train=[]", "val=val"], "data.train: must be a folder, or a list of folders"),
        (["data.train={a: 1}", "val=val"], "data.train: must be a folder, or a list of folders"),
        (
            ["data.train=one", "val=one/deep"],
            "one/deep: shares images with one, so that it would be trained on",
        ),
        (["data.train=[two,one]", "val=[val,./one]"], "./one: is a folder of training images, too, so that it would"),
        (["data.train=three/deep", "val=three"], "three: shares images with three/deep, so that it would"),
        (["data.train=linked", "val=val"], "val: shares images with linked, so that it would"),
    ):
        refused = cli(*TRAIN, *SMALL, *settings)
        assert refused.code == 2 and refused.err.count("\n") == 1 and message in refused.err


def test_equal_names_in_subfolders_are_no_clash(work: Path) -> None:
    write_image(work / "two/img_0.jpg", photo(40, 40))
    assert len(list_images("two", below=True)) == 3  # a training from HR alone needs no names
    with pytest.raises(InputError, match=r"img_0\.png: has the name of img_0\.jpg; rename one"):
        PairedFolder("two", None, 4, below=True)


@pytest.fixture
def paired(work: Path) -> Path:
    """LR images of what is in one/, two/ and val/: each pixel is the mean of 4x4 pixels of HR."""
    for folder in ("one", "two", "val"):
        for path in list_images(folder, below=True):
            hr = read_image(path).pixels
            height, width = (side // 4 for side in hr.shape[:2])
            blocks = hr[: 4 * height, : 4 * width].reshape(height, 4, width, 4, 3)
            target = work / f"{folder}_lr" / path.relative_to(folder).with_name(f"{path.stem}x4.png")
            write_image(target, blocks.mean(axis=(1, 3)).round().astype(np.uint8))
    write_image(work / "one_lr/of_no_hr.png", photo(20, 20))
    return work


PAIRS = {"train": ["one", "two"], "train_lr": ["one_lr", "two_lr"]}


def test_crops_of_lr_and_hr_show_the_same_place(paired: Path) -> None:
    write_image(paired / "two/img_0.png", np.pad(photo(36, 40), ((0, 3), (0, 1), (0, 0)), "edge"))  # more than LR shows
    data = spec(**PAIRS)
    source, *ranks = (Crops(open_caches(data), data, 3, CPU, rank, world) for rank, world in ((0, 1), (0, 2), (1, 2)))
    for iteration in range(1, 21):
        lr, hr = patches(source, iteration, data)
        assert lr.shape == (4, 3, 8, 8) and hr.shape == (4, 3, 32, 32)
        assert torch.allclose(lr, torch.nn.functional.avg_pool2d(hr, 4), atol=0.51 / 255)
        shares = [patches(each, iteration, data) for each in ranks]
        assert torch.equal(torch.stack([share[0] for share in shares], 1).flatten(0, 1), lr)
    assert {tuple(each) for each in source.places(1)[3].T.tolist()} != {(False, False, False)}


def test_only_names_without_a_partner_lose_their_ending(tmp_path: Path) -> None:
    hr = {name: Path(f"{name}.png") for name in ("street_x1", "street_x2", "tree")}

    def found(*names: str) -> list[str]:
        return [path.name for path in lr_images(hr, "lr", [Path("lr", name) for name in names])]

    assert found("street_x1.png", "street_x2.png", "treex4.png") == ["street_x1.png", "street_x2.png", "treex4.png"]
    assert found("street_x1x4.png", "street_x2x4.png", "tree.png") == ["street_x1x4.png", "street_x2x4.png", "tree.png"]
    others = found("street_x1.png", "street_x2.png", "street_x1x4.png", "treex2.png")  # the same name goes first
    assert others == ["street_x1.png", "street_x2.png", "treex2.png"]
    with pytest.raises(InputError, match=r"lr: no LR image for tree\.png \(1 missing\)"):
        found("street_x1.png", "street_x2.png")
    with pytest.raises(InputError, match=r"lr: no LR image for street_x2\.png \(2 missing\)"):
        found("street_x1.png")
    with pytest.raises(InputError, match=r"treex4\.png: has the name of treex2\.png"):
        found("street_x1.png", "street_x2.png", "treex2.png", "treex4.png")


def test_pairs_that_do_not_fit_are_named(paired: Path) -> None:
    data = spec(**PAIRS)
    write_image(paired / "one_lr/img_0x4.png", photo(10, 12))
    message = r"one/img_0\.png: HR is 44x40 but one_lr/img_0x4\.png at x4 gives 48x40; check the scale and the pairing"
    with pytest.raises(InputError, match=message):
        Crops(open_caches(data), data, 0, CPU)
    (paired / "one_lr/img_0x4.png").unlink()
    with pytest.raises(InputError, match=r"one_lr: no LR image for img_0\.png \(1 missing\); names must match"):
        Crops(open_caches(data), data, 0, CPU)
    write_image(paired / "one_lr/img_0x4.png", photo(10, 11))
    large = spec(**PAIRS, patch_size=10)
    with pytest.raises(InputError, match=r"two_lr/img_0x4\.png: smaller than the 10x10 LR patch; remove it or lower"):
        Crops(open_caches(large), large, 0, CPU)
    (paired / "one_lr").rename(paired / "one/one_lr")
    with pytest.raises(InputError, match="one_lr: lies in one, which is searched"):
        open_caches(spec(train="one", train_lr="one/one_lr"))


@pytest.mark.parametrize(("rounded", "kind"), [(True, torch.uint8), (False, torch.float32)])
def test_validation_images_are_kept_in_8_bits_where_that_is_exact(
    rounded: bool, kind: torch.dtype, paired: Path
) -> None:
    stored = validation_pairs(spec(**PAIRS, val="val", lr_round=rounded), Ranks(0, 1, CPU))
    for kept, read in zip(stored, PairedFolder(str(paired / "val"), None, 4, float_lr=not rounded), strict=True):
        assert (kept.hr.dtype, kept.lr.dtype) == (torch.uint8, kind)
        assert kept.name == read.name and all(map(torch.equal, kept.pair()[1:], read[1:]))


def test_pairs_that_show_different_things_are_named(paired: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = spec(**PAIRS)
    assert Crops(open_caches(data), data, 0, CPU).doubts == []
    path = paired / "two_lr/img_1x4.png"
    pixels = read_image(path).pixels
    checked = spec(**PAIRS, val="val", val_lr="val_lr"), Ranks(0, 1, CPU)
    assert len(validation_pairs(*checked)) == 1 and capsys.readouterr().err == ""
    write_image(paired / "val_lr/img_0x4.png", 255 - read_image(paired / "val_lr/img_0x4.png").pixels)
    validation_pairs(*checked)
    assert "such as val_lr/img_0x4.png and val/img_0.png; check the pairing" in capsys.readouterr().err
    noise = np.random.default_rng(0).normal(0, 10, pixels.shape)
    for other, strange in ((0.5 * pixels + 60, False), (pixels + noise, False), (255.0 - pixels, True)):
        write_image(path, other.clip(0, 255).astype(np.uint8))
        found = Crops(open_caches(data), data, 0, CPU).doubts
        assert len(found) == strange
    assert found[0].startswith("warning: 1 of 5 pairs that were compared show different things, such as two_lr/img_1x4")
    assert not Crops(open_caches(data), data, 0, CPU, rank=1, world=2).doubts


NOTE = "note: LR images without an HR image, which are not used"


def test_all_pairs_are_compared_before_an_image_is_decoded(
    cli: Cli, paired: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of training, validation and evaluation; by the headers of the files."""
    write_image(paired / "val_lr/alone.png", photo(20, 20))
    assert check_data(spec(**PAIRS, val_lr="val_lr")) == [f"{NOTE}: 2, the first is one_lr/of_no_hr.png"]
    monkeypatch.setattr("datasets.folder.read_image", None)
    monkeypatch.setattr("datasets.cache.read_image", None)
    make_folder(paired / "val", [(40, 44), (40, 48), (48, 48)])
    save_tiny(paired / "save/pcsr", TINY_PCSR)
    pairs = ("data.train=[one,two]", "data.train_lr=[one_lr,two_lr]", "data.val=val", "data.val_lr=val_lr")
    evaluation = ("test_pcsr.py", "--model", "save/pcsr", "--hr_data", "val", "--lr_data", "val_lr", "--save_images")
    for name, size, message in (
        ("img_1x4.png", (10, 12), "val_lr: no LR image for img_2.png (1 missing); names must match"),
        ("img_2x4.png", (12, 13), "val/img_2.png: HR is 48x48 but val_lr/img_2x4.png at x4 gives 52x48; check the"),
        ("img_1x4.png", (11, 13), "val_lr/img_1x4.png at x4 gives 52x44; 2 pairs do not fit; check"),
    ):
        write_image(paired / "val_lr" / name, photo(*size))
        for command in ((*TRAIN, *SMALL, *pairs), evaluation):
            refused = cli(*command)
            assert refused.code == 2 and refused.err.count("\n") == 1 and message in refused.err, refused.err
    write_image(paired / "two_lr/img_1x4.png", photo(8, 8))
    assert "two/img_1.png: HR is 36x40 but two_lr/img_1x4.png" in cli(*TRAIN, *SMALL, *pairs).err
    assert not (paired / "save/run").exists() and not list(paired.glob("*.cache"))


def test_training_with_pairs_goes_on_exactly(cli: Cli, paired: Path) -> None:
    """Trained on pairs and validated on them, a run that was stopped ends as one that was not."""
    pairs = ("data.train=[one,two]", "data.train_lr=[one_lr,two_lr]", "data.val=val", "data.val_lr=val_lr")
    command = (*TRAIN[:-1], *SMALL, *pairs, "save_every=2")
    ran = cli(*command, "iter_max=4")
    assert ran.code == 0 and "5 images in one, two, with LR images in one_lr, two_lr" in ran.out, ran.err
    assert ran.err.startswith("note: LR images without an HR image") and ran.err.count("\n") == 1
    weights = paired / "save/run/model.safetensors"
    whole = weights.read_bytes()
    (paired / "save/run/state/00000004.pth").unlink()
    assert cli(*command, "iter_max=4", "--resume").code == 0
    assert weights.read_bytes() == whole
    made = cli(*command[:-4], "data.val=val", "iter_max=4", "data.train=[one,two]")
    assert made.code == 0 and (paired / "save/run-2/model.safetensors").read_bytes() != whole
    scores = [(paired / f"save/{name}/metrics.csv").read_text() for name in ("run", "run-2")]
    assert scores[0] != scores[1]
    for setting, message in (
        ("data.train_lr=one_lr", "data: train_lr must name one folder for each of train"),
        ("data.val_lr=[a,b]", "data: val_lr must name one folder for each of val"),
        ("data.scale=[2,4]", "data: the images of train_lr have one scale; set scale to it, a whole number"),
    ):
        refused = cli(*command, setting)
        assert refused.code == 2 and refused.err.count("\n") == 1 and message in refused.err
