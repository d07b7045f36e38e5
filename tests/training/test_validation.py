"""What a validation measures and shows: SSIM beside PSNR, and pictures if they are asked for."""

import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from inference.upscaler import Upscaler
from tests.conftest import Cli, make_folder
from utils.decode import read_image
from utils.image import to_tensor
from utils.resize import downscale

SMALL = ["patch_size=8", "batch_size=2", "data.train=train", "data.val=val", "log_every=1", "save_every=2"]


def train(cli: Cli, name: str, *args: str) -> None:
    shutil.copytree("val", "train", dirs_exist_ok=True)
    script = "train_pcsr.py" if "pcsr" in name else "train.py"
    outcome = cli(script, "--config", f"configs/{name}.yaml", *args)
    assert outcome.code == 0, outcome.err


def test_pictures(cli: Cli, tmp_path: Path) -> None:
    """Of the first images, by the newest weights; with the assignment where there is something to decide."""
    make_folder(tmp_path / "val", [(40, 44), (48, 40), (40, 40)])
    settings = ["--set", *SMALL, "iter_max=2", "val_every=1", "val_images=2"]
    train(cli, "fsrcnn-pcsr-phase0", *settings)
    train(cli, "fsrcnn-pcsr-phase1", *settings, "init=save/fsrcnn-pcsr-phase0")
    names = {"img_0", "img_1"}
    for run, expected in (("phase0", names), ("phase1", names | {f"{name}_assignment" for name in names})):
        folder = tmp_path / f"save/fsrcnn-pcsr-{run}"
        assert {path.name for path in (folder / "val").iterdir()} == {f"{name}.png" for name in expected}
        events = EventAccumulator(str(folder / "tensorboard"), {"images": 0})
        events.Reload()
        assert set(events.Tags()["images"]) == {f"val/{name}" for name in expected}
        assert [event.step for event in events.Images("val/img_0")] == [1, 2]
        lr = downscale(to_tensor(read_image(tmp_path / "val/img_1.png").pixels), 4)
        sr, _ = Upscaler.load(folder, "cpu", "float32").upscale(lr[0].numpy().transpose(1, 2, 0))
        difference = np.rint(sr * 255) - read_image(folder / "val/img_1.png").pixels
        assert np.abs(difference).max() <= 1


def test_an_image_restored_exactly_does_not_hide_the_others(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its PSNR is infinite: it counts as 100 dB, so that a later validation can still be the best."""
    make_folder(tmp_path / "val", [(40, 44), (40, 44)])
    found = iter([math.inf, 20.0, 90.0, 40.0])
    monkeypatch.setattr("evaluation.evaluate.psnr", lambda *args: next(found))
    train(cli, "fsrcnn-x4", "--set", *SMALL, "iter_max=2", "val_every=1")
    assert pd.read_csv(tmp_path / "save/fsrcnn-x4/metrics.csv")["val/psnr"].tolist() == [60.0, 65.0]
    assert "iteration 2: val/psnr 65.0" in (tmp_path / "save/fsrcnn-x4/log.txt").read_text()


def test_pictures_of_one_name_in_two_folders(cli: Cli, tmp_path: Path) -> None:
    for folder in ("val", "more"):
        make_folder(tmp_path / folder, [(40, 44)])
    train(cli, "fsrcnn-pcsr-phase0", "--set", *SMALL, "data.val=[val,more]", "iter_max=1", "val_images=2")
    made = tmp_path / "save/fsrcnn-pcsr-phase0/val"
    assert {path.name for path in made.iterdir()} == {"img_0.png", "img_0-2.png"}


def test_a_run_from_before_there_was_ssim_goes_on(cli: Cli, tmp_path: Path) -> None:
    make_folder(tmp_path / "val", [(40, 44)])
    train(cli, "fsrcnn-x4", "--set", *SMALL, "iter_max=2", "val_every=2", "val_ssim=false")
    table = tmp_path / "save/fsrcnn-x4/metrics.csv"
    assert "val/ssim" not in pd.read_csv(table) and not (table.parent / "val").exists()
    log = table.with_name("log.txt")
    assert "val/ssim" not in log.read_text()
    settings = ["--set", "iter_max=4", "val_ssim=true", "val_images=9"]
    assert cli("train.py", "--resume", "--name", "fsrcnn-x4", *settings).code == 0
    rows = pd.read_csv(table)
    assert rows["iteration"].tolist() == [2, 4] and rows["val/psnr"].notna().all()
    assert np.isnan(rows["val/ssim"][0]) and 0 < rows["val/ssim"][1] < 1
    assert f"val/ssim {rows['val/ssim'][1]:.4f}" in log.read_text()
    assert (table.parent / "val/img_0.png").is_file()
