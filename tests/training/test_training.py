import copy
import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from models.build import build_original, build_pcsr
from models.checkpoint import load_model
from models.decide import probabilities
from models.grid import grid_over
from models.pcsr import PCSR
from tests.conftest import ROOT, TINY_PCSR, Cli, config_for, make_folder, save_tiny
from tests.utils.test_config import CONFIGS
from training.tasks import Phase0, Phase1
from training.validation import open_validation
from utils.config import OriginalSpec
from utils.dist import Ranks
from utils.parse import load_config

ALONE = Ranks(0, 1, torch.device("cpu"))
RECIPE = config_for(TINY_PCSR).train
SMALL = ["patch_size=8", "batch_size=4", "data.train=train", "val=val", "log_every=1", "val_every=2", "save_every=2"]

LONG = ["iter_max=60", "val_every=60", "save_every=60"]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    make_folder(tmp_path / "train", [(48, 64), (64, 48), (40, 40)])
    make_folder(tmp_path / "val", [(40, 44)])
    return tmp_path


def config(name: str) -> Path:
    return ROOT / "configs" / f"{name}.yaml"


@pytest.mark.parametrize("backbone", ["carn", "srresnet", "softgate", "fsrcnn"])
def test_every_recipe_trains(backbone: str, cli: Cli, folders: Path) -> None:
    original = cli("train.py", "--config", config(f"{backbone}-x4"), "--set", *SMALL, "iter_max=2")
    assert original.code == 0, original.err
    recipes = (name for name in CONFIGS if name.startswith(f"{backbone}-pcsr-"))
    for name in sorted(recipes, key=lambda name: "phase0" not in name):  # those of phase 0 first
        trained = cli("train_pcsr.py", "--config", config(name), "--set", *SMALL, "iter_max=2")
        assert trained.code == 0, trained.err
        folder, spec = folders / "save" / name, load_config(config(name)).train
        if spec.phase == 0:
            continue
        before, _ = load_model(folders / str(spec.init))
        after, _ = load_model(folder)
        assert isinstance(before, PCSR) and isinstance(after, PCSR)
        for given, kept in ((before.encoder, after.encoder), (before.upsamplers[-1], after.upsamplers[-1])):
            frozen = given.state_dict()
            assert all(torch.equal(frozen[key], value) for key, value in kept.state_dict().items())
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert {"train/loss", f"train/{spec.loss}", "train/heavy_share"} <= records[0].keys()
        assert {"val/psnr", "val/flops_share", "val/heavy_share"} <= records[-1].keys()
        table = pd.read_csv(folder / "metrics.csv")
        assert table["iteration"].tolist() == [2] and table["val/psnr"].notna().all()
        assert any((folder / "tensorboard").iterdir())


def losses(folder: Path) -> list[float]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record["train/loss"] for record in records if "train/loss" in record]


def test_a_second_run_leaves_the_first_alone(cli: Cli, folders: Path) -> None:
    train = ("train.py", "--config", config("fsrcnn-x4"), "--name", "run", "--set", *SMALL, "iter_max=2")
    assert cli(*train).code == 0
    first = (folders / "save/run/model.safetensors").read_bytes()
    assert cli(*train, "seed=1").code == 0
    assert (folders / "save/run/model.safetensors").read_bytes() == first
    assert (folders / "save/run-2/model.safetensors").read_bytes() != first
    (folders / "save/run").rename(folders / "save/run-3")
    assert cli(*train).code == 0  # whatever numbers are taken, a free one is found
    assert (folders / "save/run/model.safetensors").exists()
    assert (folders / "save/run-3/model.safetensors").read_bytes() == first
    nothing = cli("train.py", "--config", config("fsrcnn-x4"), "--name", "other", "--resume")
    assert nothing.code == 2 and "--resume" in nothing.err


@pytest.mark.parametrize(
    "script,name,settings,message",
    [
        ("train.py", "carn-pcsr-phase0", [], "use train_pcsr.py"),
        ("train_pcsr.py", "carn-x4", [], "use train.py"),
        ("train.py", "carn-x4", ["data.train=nowhere"], "nowhere: no such folder"),
        ("train.py", "carn-x4", ["val=nowhere"], "nowhere: no such folder"),
        ("train.py", "carn-x4", ["patch_size=40"], "smaller than the 160x160 HR patch"),
        ("train.py", "carn-x4", ["batch_size=0"], "data.batch_size"),
        ("train.py", "carn-x4", ["cache_dir=train/img_0.png"], "set data.cache_dir to another place"),
        ("train.py", "carn-x4", ["data.scale=2"], "model.scale is 4 but data.scale is 2"),
        ("train.py", "carn-x4", ["data.scale=[2,4]"], "data.scale is a range, but an original model has one scale"),
        ("train_pcsr.py", "carn-pcsr-phase0", ["data.scale=[2,6]"], "smaller than the 48x48 HR patch"),
        ("train.py", "carn-x4", ["learning_rate=inf"], "train.learning_rate"),
        ("train.py", "carn-x4", ["betas=[0.9"], "setting betas: while parsing"),
        ("train.py", "carn-x4", ["betas=[2,3]"], "train.betas"),
        ("train_pcsr.py", "carn-pcsr-phase0", ["phase=1", "init=tiny"], "phase 1 needs two or more"),
        ("train_pcsr.py", "carn-pcsr-phase1", ["phase=0"], "phase 0 trains one upsampler"),
        ("train_pcsr.py", "carn-pcsr-phase1", ["init=save/nowhere"], "save/nowhere"),
        ("train_pcsr.py", "carn-pcsr-phase1", ["init=null"], "train.init"),
        ("train_pcsr.py", "carn-pcsr-phase1", ["init=tiny"], "another model"),
        ("train_pcsr.py", "carn-pcsr-phase0", ["init=tiny"], "another model"),
        ("train.py", "carn-x4", ["init=tiny"], "another model"),
        ("train.py", "carn-x4", ["init=nowhere"], "nowhere"),
    ],
)
def test_bad_input(script: str, name: str, settings: list[str], message: str, cli: Cli, folders: Path) -> None:
    save_tiny(folders / "tiny", TINY_PCSR)
    outcome = cli(script, "--config", config(name), "--set", *SMALL, "iter_max=2", *settings)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1 and outcome.err.startswith("error: ") and message in outcome.err
    assert not (folders / "save").exists()


def test_phase1_loss_is_the_papers() -> None:
    model = build_pcsr(TINY_PCSR)
    lr, hr = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 32, 32)
    losses = Phase1(model, RECIPE, ALONE).train()(lr, hr)
    with torch.no_grad():
        feat, grid = model.eval().encode(lr), grid_over(lr, (32, 32))
        prob = probabilities(model.classify(feat, grid))
        each = [model.upsample_by(lr, feat, grid, j) for j in (0, 1)]
    mixed = prob[:, :1] * each[0] + prob[:, 1:] * each[1]
    half = prob[:, 1].numel() / 2
    expected = 1000 * (mixed - hr).abs().mean() + 3 * (prob[:, 1].sum() - half).abs() / half
    assert losses["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_phase1_moves_only_light_and_classifier() -> None:
    task = Phase1(build_pcsr(TINY_PCSR), RECIPE, ALONE).train()
    assert task.model.training and not any(module.training for module in task.frozen)
    task(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 32, 32))["loss"].backward()
    moved = {name.split(".")[1] for name, p in task.named_parameters() if p.grad is not None}
    assert moved == {"upsamplers", "classifier"}
    assert all(p.grad is None for module in task.frozen for p in module.parameters())


def test_phase0_trains_the_heavy_upsampler() -> None:
    model = build_pcsr(TINY_PCSR.model_copy(update={"upsamplers": ((8, 8),), "classifier": None}))
    lr, hr = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 32, 32)
    task = Phase0(model, RECIPE)
    before, begun = task(lr, hr)["loss"], copy.deepcopy(model.upsamplers)
    optimizer = torch.optim.Adam(task.parameters(), 1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        task(lr, hr)["loss"].backward()
        optimizer.step()
    assert task(lr, hr)["loss"] < before
    assert not any(map(torch.equal, model.upsamplers.parameters(), begun.parameters()))


@pytest.mark.parametrize(
    "settings",
    [["optimizer=muon", "learning_rate=5e-3"], ["loss=mse", "learning_rate=1e-2"], ["loss=psnr", "learning_rate=1e-2"]],
)
def test_other_optimizer_and_loss(settings: list[str], cli: Cli, folders: Path) -> None:
    """Trained far enough, both come near the images; stopping half way is in test_resume.py."""
    command = ["--config", config("fsrcnn-pcsr-phase0"), "--name", "run", "--set", *SMALL, *LONG]
    assert cli("train_pcsr.py", *command, *settings).code == 0
    first, *_, last = losses(folders / "save/run")
    assert last < first - 0.1 * abs(first)  # psnr is a logarithm, below 0
    phase1 = ["--config", config("fsrcnn-pcsr-phase1"), "--name", "run1", "--set", *SMALL, *LONG]
    assert cli("train_pcsr.py", *phase1, "init=save/run", "loss_avg_w=0", *settings).code == 0
    first, *_, last = losses(folders / "save/run1")
    assert last < first


def test_validation_leaves_the_model_as_it_is(folders: Path) -> None:
    """Evaluation puts its model into eval mode and into another memory layout; training goes on with neither."""
    spec = load_config(config("carn-x4"), [f"val={folders / 'val'}"])
    model = build_original(OriginalSpec(kind="original", backbone="carn", width=8, scale=4)).train()
    model.encoder.eval()  # a mixture, as frozen parts make it
    modes = [module.training for module in model.modules()]
    state = {name: (value.clone(), value.stride()) for name, value in model.state_dict().items()}
    means, pictures = open_validation(spec, ALONE)(model)
    assert 5 < means["val/psnr"] < 50 and "val/heavy_share" not in means and 0 < means["val/ssim"] < 1 and not pictures
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name][0]) and value.stride() == state[name][1], name


def test_frozen_batchnorm_keeps_its_statistics(cli: Cli, folders: Path) -> None:
    """Scale and shift go on learning."""
    command = ["--config", config("carn-pcsr-phase0"), "--set", *SMALL, "iter_max=4", "width=8"]
    assert cli("train_pcsr.py", *command, "--name", "run").code == 0
    assert cli("train_pcsr.py", *command, "init=save/run", "frozen_bn=true", "--name", "frozen").code == 0
    before, after = (load_model(folders / "save" / name)[0].state_dict() for name in ("run", "frozen"))
    statistics = [key for key in before if "running_" in key]
    assert statistics and all(torch.equal(before[key], after[key]) for key in statistics)
    assert not any(torch.equal(before[key], after[key]) for key in before if key.endswith("weight"))


def test_weights_that_are_not_finite_are_not_saved(cli: Cli, folders: Path) -> None:
    """The loss of the last step is that before the step."""
    settings = ["--set", *SMALL, "iter_max=1", "learning_rate=1e39"]
    outcome = cli("train_pcsr.py", "--config", config("fsrcnn-pcsr-phase0"), "--name", "run", *settings)
    assert outcome.code == 2 and "the weights are not finite after iteration 1; lower learning_rate" in outcome.err
    assert not (folders / "save").exists()


def test_a_loss_that_is_not_finite_stops_the_run(cli: Cli, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    residual = torch.full((4, 3, 32, 32), np.nan)
    monkeypatch.setattr("training.tasks.interpolation", lambda mlp, lr: lambda lr, grid: residual)
    outcome = cli("train_pcsr.py", "--config", config("fsrcnn-pcsr-phase0"), "--set", *SMALL, "iter_max=2")
    assert outcome.code == 2 and "the loss is nan at iteration 1" in outcome.err
    assert "img_0.png" in outcome.err and "img_2.png" in outcome.err  # the batch of 4 shows all 3 images
    assert not (folders / "save/fsrcnn-pcsr-phase0/model.safetensors").exists()


PINNED = {
    ("train.py", "carn-x4"): [0.24083, 0.23486, 0.23676, 0.22085, 0.22272],
    ("train_pcsr.py", "carn-pcsr-phase0"): [0.12692, 0.12235, 0.11350, 0.10602, 0.10430],
    ("train_pcsr.py", "carn-pcsr-phase1"): [90.334, 95.164, 92.006, 89.040, 89.168],
}


@pytest.mark.parametrize("script,name", PINNED)
def test_the_recipe_has_not_changed(script: str, name: str, cli: Cli, folders: Path) -> None:
    """The losses of five steps: data, augmentation, initial weights, losses and optimizer in one number each."""
    phase0 = ["--config", config("carn-pcsr-phase0"), "--set", *SMALL, "iter_max=1"]
    assert cli("train_pcsr.py", *phase0, "--name", "carn-pcsr-phase0").code == 0
    settings = ["--set", *SMALL, "iter_max=5", "learning_rate=1e-3", "val_every=5"]
    assert cli(script, "--config", config(name), "--name", "pinned", *settings).code == 0
    assert losses(folders / "save/pinned") == pytest.approx(PINNED[script, name], rel=2e-3)


@pytest.mark.parametrize("script,name", [("train.py", "fsrcnn-x4"), ("train_pcsr.py", "fsrcnn-pcsr-phase0")])
def test_training_goes_on_from_other_weights(script: str, name: str, cli: Cli, folders: Path) -> None:
    train = (script, "--config", config(name))
    settings = ("--set", *SMALL, "iter_max=1", "learning_rate=1e-12", "learning_rate_min=1e-13")
    assert cli(*train, "--name", "first", *settings, "seed=1").code == 0
    assert cli(*train, "--name", "second", *settings, "init=save/first").code == 0
    first, second = (load_model(folders / "save" / run)[0].state_dict() for run in ("first", "second"))
    for key, value in first.items():
        torch.testing.assert_close(value, second[key], rtol=0, atol=1e-6)


@pytest.mark.parametrize("flag", ["--amp", "--compile"])
def test_faster_modes_learn_the_same(flag: str, cli: Cli, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = ("train_pcsr.py", "--config", config("fsrcnn-pcsr-phase0"), "--device", "cpu")
    settings = ("--set", *SMALL, "iter_max=3", "val_every=9")
    assert cli(*train, "--name", "plain", *settings).code == 0
    # without code generation, which takes a minute where nothing has been compiled yet; tests/gpu has it
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    assert cli(*train, "--name", "fast", flag, *settings).code == 0
    plain, fast = losses(folders / "save/plain"), losses(folders / "save/fast")
    assert fast == pytest.approx(plain, rel=1e-2) and (flag == "--compile" or fast != plain)
    kept = "amp: true" if flag == "--amp" else "compile: true"
    assert kept in (folders / "save/fast/config.yaml").read_text()
