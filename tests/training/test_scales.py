"""Training at scales drawn from a range: which ones, of what, and that nothing else depends on it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.cache import open_caches
from datasets.crops import Crops
from tests.conftest import Cli, make_folder
from training.loop import patches
from utils.config import DataSpec
from utils.resize import imresize, round_8bit

CPU = torch.device("cpu")
RANGE = (2.0, 4.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "train", [(48, 64), (64, 48), (40, 40)])


def spec(folder: Path, scale: object, lr_round: bool = True) -> DataSpec:
    fields = {"train": str(folder), "val": "val", "scale": scale, "patch_size": 8, "batch_size": 4}
    return DataSpec.model_validate({**fields, "lr_round": lr_round})


def crops(folder: Path, scale: object = RANGE, seed: int = 0, rank: int = 0, world: int = 1) -> Crops:
    data = spec(folder, scale)
    return Crops(open_caches(data), data, seed, CPU, rank, world)


def sizes(source: Crops, count: int = 50) -> list[int]:
    return [source.hr_side(iteration) for iteration in range(1, count + 1)]


def test_every_size_of_the_range_is_drawn(folder: Path) -> None:
    drawn = sizes(crops(folder), 2000)
    assert set(drawn) == set(range(16, 33))  # patch_size 8 at scales 2 to 4
    assert np.mean(drawn) == pytest.approx(24, abs=0.5)
    assert set(sizes(crops(folder, (2.5, 2.5)))) == {20} and set(sizes(crops(folder, 3))) == {24}


def test_a_share_of_the_batches_has_the_upper_end(folder: Path) -> None:
    data = spec(folder, RANGE)
    some, every = (data.model_copy(update={"top_share": share}) for share in (0.5, 1.0))
    drawn, plain = (sizes(Crops(open_caches(each), each, 0, CPU), 2000) for each in (some, data))
    kept = [one == other for one, other in zip(drawn, plain, strict=True)]  # the others are drawn as before
    assert all(same or size == 32 for same, size in zip(kept, drawn, strict=True))
    assert drawn.count(32) == pytest.approx(1000 + plain.count(32) / 2, abs=80)
    assert set(sizes(Crops(open_caches(every), every, 0, CPU))) == {32}


def test_a_batch_depends_on_seed_and_iteration_alone(folder: Path) -> None:
    source = crops(folder, seed=7)
    later = crops(folder, seed=7)
    assert torch.equal(later.batch(9), source.batch(9))  # without those before, as in a run that goes on
    ranks = [crops(folder, RANGE, 7, rank, 2) for rank in (0, 1)]
    for iteration in (1, 2, 3):
        whole = source.batch(iteration)
        assert whole.shape == (4, 3, *[source.hr_side(iteration)] * 2)
        assert torch.equal(torch.stack([share.batch(iteration) for share in ranks], 1).flatten(0, 1), whole)
    assert sizes(source) == sizes(ranks[1]) != sizes(crops(folder, seed=8))


def test_a_fixed_scale_draws_the_crops_it_always_drew(folder: Path) -> None:
    fixed, narrow = crops(folder, 4), crops(folder, (4.0, 4.0))
    assert all(torch.equal(fixed.batch(i), narrow.batch(i)) for i in range(1, 6))


@pytest.mark.parametrize("lr_round", [True, False])
def test_lr_is_the_crop_made_small(lr_round: bool, folder: Path) -> None:
    source = crops(folder)
    for iteration in range(1, 30):
        lr, hr = patches(source, iteration, spec(folder, RANGE, lr_round))
        assert lr.shape == (4, 3, 8, 8) and hr.shape == (4, 3, *[source.hr_side(iteration)] * 2)
        expected = imresize(hr, (8, 8))
        assert torch.equal(lr, round_8bit(expected) if lr_round else expected)
        assert torch.equal(hr, source.batch(iteration) / 255)


def test_one_model_for_all_scales(cli: Cli, folder: Path) -> None:
    """Both phases, all options that change how a batch is worked through, validation, evaluation at other scales."""
    make_folder(folder.with_name("val"), [(40, 44)])
    small = ["patch_size=8", "batch_size=4", "data.train=train", "val=val", "log_every=1", "iter_max=3"]
    names = [f"fsrcnn-pcsr-phase{phase}-multiscale" for phase in (0, 1)]
    for name in names:
        options = ["--set", *small, "accumulation=2", "pixels_per_patch=300", "ema_decay=0.5", "amp=true"]
        outcome = cli("train_pcsr.py", "--config", f"configs/{name}.yaml", *options)
        assert outcome.code == 0, outcome.err
    lines = (folder.parent / "save" / names[1] / "metrics.jsonl").read_text().splitlines()
    (validated,) = [json.loads(line)["val/psnr"] for line in lines if "val/psnr" in line]
    for scale in ("4", "3", "2.5", "2"):
        options = ["--hr_data", "val", "--per_image", "--scale", scale, "--json"]
        outcome = cli("test_pcsr.py", "--config", f"configs/{names[1]}.yaml", *options)
        assert outcome.code == 0, outcome.err
        (row,) = json.loads(outcome.out.splitlines()[-1])
        if scale == "4":  # the upper end
            assert row["psnr"] == pytest.approx(validated, abs=1e-6)
