"""LR images that are blurred, noisy and compressed: what is done to which, and that it is the same every time."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from datasets.cache import open_caches
from datasets.crops import Crops
from datasets.degrade import Degradation, blurred, compressed, degradation_of, degraded, noisy
from datasets.folder import PairedFolder
from datasets.options import asked_degradation
from datasets.prepare import generate_mod_lr_bic
from tests.conftest import Cli, make_folder, photo
from training.loop import patches
from training.resume import flatten
from utils.config import Config, DataSpec, DegradeSpec
from utils.decode import read_image
from utils.errors import InputError
from utils.image import to_pixels, to_tensor
from utils.parse import load_config
from utils.resize import downscale

CPU = torch.device("cpu")
ALL = {"blur": (0, 1.5), "noise": (0, 8), "jpeg": (40, 100), "subsampling": [420, 444], "clean": 0.4}

SHARES = {"blur_share": 0.3, "noise_share": 0.5, "jpeg_share": 0.8}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "train", [(48, 64), (64, 48), (40, 40)])
    make_folder(tmp_path / "val", [(40, 44), (44, 40)])
    return tmp_path


def spec(degrade: object = None, scale: object = 4) -> DataSpec:
    fields = {"train": "train", "val": "val", "scale": scale, "patch_size": 8, "batch_size": 4, "degrade": degrade}
    return DataSpec.model_validate(fields)


def crops(data: DataSpec, seed: int = 0, rank: int = 0, world: int = 1) -> Crops:
    return Crops(open_caches(data), data, seed, CPU, rank, world)


def test_jpeg_has_the_quality_and_the_colours_asked_for() -> None:
    lr = photo(48, 56)
    for quality, subsampling, code in ((30, 420, 2), (30, 444, 0), (90, 422, 1)):
        buffer = io.BytesIO()
        Pillow.fromarray(lr).save(buffer, "JPEG", quality=quality, subsampling=code)
        assert (compressed(lr, quality, subsampling) == np.asarray(Pillow.open(buffer))).all()  # of another library
    errors = [np.abs(compressed(lr, quality).astype(int) - lr).mean() for quality in (10, 40, 75, 95)]
    assert errors == sorted(errors, reverse=True) and errors[0] > 2 * errors[-1] > 0


def test_noise_and_blur_have_the_sigma_asked_for() -> None:
    gray = np.full((200, 200, 3), 128, np.uint8)
    noise = noisy(gray, 8, seed=1).astype(float) - 128
    assert noise.std() == pytest.approx(8, rel=0.02) and abs(noise.mean()) < 0.1
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.02
    assert (noisy(gray, 8, 1) == noisy(gray, 8, 1)).all() and (noisy(gray, 8, 1) != noisy(gray, 8, 2)).any()
    edge = np.zeros((32, 32, 3), np.uint8)
    edge[:, 16:] = 255
    slope = np.diff(blurred(edge, 1.5)[16, :, 0].astype(float)) / 255  # a Gaussian around the edge
    assert (slope * (np.arange(31) - 15) ** 2).sum() == pytest.approx(1.5**2, rel=0.05)


def test_the_order_is_blur_shrink_noise_jpeg() -> None:
    hr = torch.cat([to_tensor(photo(32, 40, seed)) for seed in (0, 1, 2)])
    ways = [Degradation(1.2, 6.0, 60, 444, 5), Degradation(), Degradation(quality=50)]
    lr = degraded(hr, ways, lambda images: downscale(images, 4))
    small = to_pixels(downscale(to_tensor(blurred(photo(32, 40, 0), 1.2)), 4))
    assert (to_pixels(lr[:1]) == compressed(noisy(small, 6, 5), 60, 444)).all()
    assert torch.equal(lr[1:2], downscale(hr[1:2], 4))
    assert (to_pixels(lr[2:]) == compressed(to_pixels(downscale(hr[2:], 4)), 50)).all()
    assert torch.equal(degraded(hr, [], lambda images: downscale(images, 4)), downscale(hr, 4))


def test_crops_are_degraded_alike_in_every_process_and_after_a_restart(work: Path) -> None:
    data, clean = spec(ALL), spec()
    source, others = crops(data, 7), [crops(data, 7, rank, 2) for rank in (0, 1)]
    left = total = 0
    for iteration in range(1, 41):
        lr, hr = patches(source, iteration, data)
        plain, target = patches(crops(clean, 7), iteration, clean) if iteration < 4 else (None, hr)
        assert torch.equal(hr, target)  # what is drawn for the crops stays as it was
        ways = source.degradations(iteration)
        for number, way in enumerate(ways):
            assert way == Degradation() or (0 <= way.blur <= 1.5 and 40 <= way.quality <= 100 and way.noise <= 8)
            if plain is not None:
                assert torch.equal(lr[number], plain[number]) == (way == Degradation())
        shares = [patches(each, iteration, data)[0] for each in others]
        assert torch.equal(torch.stack(shares, 1).flatten(0, 1), lr)
        left, total = left + sum(way == Degradation() for way in ways), total + len(ways)
    assert left / total == pytest.approx(0.4, abs=0.1)
    assert torch.equal(patches(crops(data, 7), 40, data)[0], lr)  # without the iterations before
    assert not torch.equal(patches(crops(data, 8), 40, data)[0], lr)
    several = {way.subsampling for iteration in range(1, 40) for way in source.degradations(iteration)}
    assert several == {420, 444}


def test_each_part_of_a_degradation_can_be_left_out_by_itself(work: Path) -> None:
    every, some = (crops(spec({**ALL, **more}), 7) for more in ({}, SHARES))
    ways = [zip(every.degradations(n), some.degradations(n), strict=True) for n in range(1, 201)]
    pairs = np.array([(whole[:3], way[:3]) for pair in ways for whole, way in pair if whole != Degradation()])
    kept = pairs[:, 1] != 0
    assert (pairs[:, 1] == np.where(kept, pairs[:, 0], 0)).all()
    assert kept.mean(0) == pytest.approx(list(SHARES.values()), abs=0.1)
    assert np.corrcoef(kept.T)[np.triu_indices(3, 1)] == pytest.approx([0] * 3, abs=0.15)


def test_a_range_of_scales_is_degraded_too(work: Path) -> None:
    data = spec({"jpeg": 30}, [2, 4])
    for iteration in (1, 2):
        lr, hr = patches(crops(data), iteration, data)
        size = hr.shape[-1] / 8
        assert lr.shape == (4, 3, 8, 8) and not torch.equal(lr, downscale(hr, size, dtype=torch.float32))


def test_images_are_degraded_by_name(work: Path) -> None:
    """Whatever other images there are, and however they are shared out; stored LR files are the same."""
    degrade = DegradeSpec.model_validate({"blur": (0, 1), "noise": (1, 8), "jpeg": (30, 60)})
    whole = list(PairedFolder("val", None, 4, degrade=degrade))
    (second,) = PairedFolder("val", None, 4, rank=1, world=2, degrade=degrade)
    assert torch.equal(second.lr, whole[1].lr)
    for pair, made in zip(whole, PairedFolder("val", None, 4), strict=True):
        assert torch.equal(pair.hr, made.hr) and not torch.equal(pair.lr, made.lr)
        way = degradation_of(degrade, pair.name)
        small = to_pixels(downscale(to_tensor(blurred(to_pixels(pair.hr), way.blur)), 4))
        expected = compressed(noisy(small, way.noise, way.seed), way.quality)
        assert (to_pixels(pair.lr) == expected).all()
    assert degradation_of(degrade, "img_0") != degradation_of(degrade, "img_1")
    known = DegradeSpec.model_validate({"blur": (0, 1), "noise": (1, 8), "jpeg": (30, 60), "subsampling": [420, 444]})
    drawn = Degradation(0.7603073157902256, 7.105398970151303, 44, 420, 47785645931079363)
    assert degradation_of(known, "img_0") == drawn  # or no result could be repeated
    generate_mod_lr_bic(work / "val", work / "lr", None, 4, matlab_uint8=False, workers=1, degrade=degrade)
    for pair in whole:
        assert (to_pixels(pair.lr) == read_image(work / f"lr/{pair.name}.png").pixels).all()


def test_a_training_with_degradations_goes_on_exactly(cli: Cli, work: Path) -> None:
    text = "data.degrade={jpeg: [40, 100], noise: [0, 8], blur: [0, 1.0], clean: 0.4}"
    small = ("patch_size=8", "batch_size=4", "data.train=train", "val=val", "pixels_per_patch=50", "save_every=2")
    command = ("train_pcsr.py", "--config", "configs/fsrcnn-pcsr-phase0.yaml", "--name", "run", "--set", *small)
    ran = cli(*command, "iter_max=4", text)
    assert ran.code == 0, ran.err
    assert "LR degraded by blur=0-1 noise=0-8 jpeg=40-100 clean=0.4; an epoch" in ran.out
    weights = work / "save/run/model.safetensors"
    whole, table = weights.read_bytes(), (work / "save/run/metrics.csv").read_text()
    (work / "save/run/state/00000004.pth").unlink()
    assert cli(*command, "iter_max=4", text, "--resume").code == 0  # from iteration 2
    assert weights.read_bytes() == whole and (work / "save/run/metrics.csv").read_text() == table
    changed = cli(*command, "iter_max=4", "data.degrade={jpeg: 40}", "--resume")
    assert changed.code == 2 and "data.degrade.blur (was [0.0, 1.0], now [0.0, 0.0])" in changed.err
    clean = ("test_pcsr.py", "--model", "save/run", "--hr_data", "val", "--per_image")
    warning = "warning: trained on LR with jpeg=40; on clean LR a model trained for that would do better"
    assert cli(*clean).err == cli(*clean, "--degrade", "noise=4").err == ""  # 40 % of the crops are clean
    assert cli(*command, "iter_max=2", "data.degrade={jpeg: 40}").code == 0
    outcome = cli(*clean[:2], "save/run-2", *clean[3:])
    assert outcome.err == f"{warning}\n" and ", trained at x4 on train, LR with jpeg=40; computes" in outcome.out
    saved = load_config(work / "save/run/config.yaml")
    assert isinstance(saved, Config) and flatten(saved)["data.degrade.jpeg"] == [40, 100]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("degrade={jpg: 40}", "data.degrade.jpg: unknown key"),
        ("degrade={jpeg: 0}", "data.degrade.jpeg: must be a whole number from 1 to 100, or a range"),
        ("degrade={noise: [8, 2]}", "data.degrade.noise: must be a number from 0 to 100, or a range"),
        ("degrade={blur: .nan}", "data.degrade.blur: must be a number"),
        ("degrade={jpeg: 40, subsampling: []}", "data.degrade.subsampling: must be 420, 422 or 444, or a list"),
        ("degrade={jpeg: 40, clean: 2}", "data.degrade.clean"),
        ("degrade={jpeg: 40, jpeg_share: 2}", "data.degrade.jpeg_share"),
        ("degrade={jpeg: 40, noise_share: 0.5}", "data.degrade: noise_share is for noise; give noise, or leave it out"),
        ("degrade={clean: 1}", "data.degrade: give blur, noise or jpeg"),
    ],
)
def test_wrong_options_name_the_key(setting: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        load_config("configs/fsrcnn-x4.yaml", [setting])
    assert message in str(error.value)


def test_options_that_contradict_each_other() -> None:
    for settings, message in (
        (["train_lr=lr"], "degrade is for LR that is made from HR; leave out degrade or train_lr"),
        (["lr_round=false"], "degrade makes LR of 8 bits; leave it out or set lr_round to true"),
    ):
        with pytest.raises(InputError, match=message):
            load_config("configs/fsrcnn-x4.yaml", ["degrade={jpeg: 40}", *settings])


def test_the_option_of_commands() -> None:
    assert asked_degradation(None) is None
    asked = asked_degradation(["noise=8", "jpeg=[40,100]", "subsampling=444"])
    assert asked is not None and str(asked) == "noise=8 jpeg=40-100 subsampling=444"
    for setting, message in (
        ("jpeg", "--degrade jpeg: jpeg must be key=value, such as jpeg=75"),
        ("jpg=3", "jpg: unknown key, one of: blur, noise, jpeg, subsampling, clean, blur_share, noise_share,"),
        (
            "noise=[8,2]",
            "noise: must be a number from 0 to 100, or a range [low, high] of them; low must not",
        ),
        ("jpeg=[", "--degrade jpeg=[: while parsing"),
    ):
        with pytest.raises(InputError) as error:
            asked_degradation([setting])
        assert str(error.value).startswith(message) and "\n" not in str(error.value)
