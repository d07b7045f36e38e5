"""The benchmarks run, and their other side computes the same."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from benchmarks import formulation, inference, runtimes
from benchmarks.tables import speed
from benchmarks.ways import IN_HALF, SETTINGS, Way, halves, load_models, peak_mb, ways
from inference.onnx import INSTALL, to_onnx
from models.build import build, build_original, build_pcsr
from models.original import OriginalModel
from models.pcsr import PCSR
from models.setting import Setting
from tests.conftest import ROOT, TINY_ORIGINAL, TINY_PCSR, Cli, config_for, make_folder, save_tiny
from training.tasks import build_task
from utils.config import ModelSpec, OriginalSpec
from utils.decode import read_image
from utils.dist import Ranks
from utils.errors import InputError


@pytest.mark.parametrize("size", [(36, 48), (23, 32)])
@torch.inference_mode()
def test_the_published_formulation_gives_the_same_picture(size: tuple[int, int]) -> None:
    model, lr = build_pcsr(TINY_PCSR).eval(), torch.rand(1, 3, 9, 12)
    expected, assignment, _ = model(lr, size, Setting(scale=size[0] / 9))
    sr, chosen = formulation.restore(model, lr, size, 0.0)
    torch.testing.assert_close(sr, expected, rtol=0, atol=2e-5)
    assert torch.equal(chosen, assignment)


@pytest.mark.parametrize("phase", [0, 1, None])
def test_the_published_formulation_gives_the_same_loss(phase: int | None) -> None:
    single = TINY_PCSR.model_copy(update={"upsamplers": ((8, 8),), "classifier": None})
    spec: ModelSpec = TINY_ORIGINAL if phase is None else single if phase == 0 else TINY_PCSR
    task = build_task(config_for(spec, phase=phase, init="save/phase0").train, build(spec), Ranks(0, 1, CPU)).train()
    lr, hr = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(formulation.training_loss(task, lr, hr), task(lr, hr)["loss"], rtol=1e-4, atol=1e-6)


CPU = torch.device("cpu")
ORIGINALS = ["original eager", "original channels-last", "original kernels"]
HALF = [*IN_HALF] if halves(CPU) else []
NAMES = ["published", *ORIGINALS, "all light", "k=1", "k=0", "all heavy", "adaptive", *HALF]
KEYS = {"name", "seconds", "peak_mb", "flops_paper", "flops_executed"}


SMALL = ("--rounds", "1", "--device", "cpu", "--json")


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Options that choose tiny models."""
    save_tiny(tmp_path / "pcsr", TINY_PCSR)
    save_tiny(tmp_path / "original", TINY_ORIGINAL)
    return ["--model", "pcsr", "--original", "original"]


def test_stages(cli: Cli, tmp_path: Path, tiny: list[str]) -> None:
    (image,) = make_folder(tmp_path / "lr", [(12, 16)]).iterdir()
    command = [sys.executable, str(ROOT / "benchmarks/stages.py"), *tiny[:2], "--img_path", str(image), "--rounds", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seconds = {line[:17].strip(): float(line[17:].split()[0]) for line in done.stdout.splitlines()}
    assert [*seconds][::6] == ["start and imports", "write"] and len(seconds) == 8
    assert sum(seconds.values()) - seconds["in all"] == pytest.approx(seconds["in all"], abs=0.04)  # rounded
    failed = cli("benchmarks/stages.py", *tiny[:2], "--img_path", "missing.png", "--rounds", "1")
    assert failed.code == 2 and failed.err.startswith("error: missing.png: ")


@pytest.mark.slow
def test_inference(cli: Cli, tmp_path: Path, tiny: list[str]) -> None:
    make_folder(tmp_path / "hr", [(61, 83), (48, 40)])
    options = ["--img_path", "hr", "--plot", "out/ways.png", "--no_memory"]
    done = cli("benchmarks/inference.py", *SMALL, *tiny, *options)
    assert done.code == 0, done.err
    records = json.loads(done.out.splitlines()[-1])
    rows = {row["name"]: row for row in records}
    assert [name for name in rows if name not in runtimes.PACKAGES] == NAMES
    assert [name for name in rows if name in runtimes.PACKAGES] == runtimes.usable(CPU)
    assert (INSTALL in done.out) == (len(runtimes.usable(CPU)) < len(runtimes.PACKAGES))
    assert all(row.keys() == KEYS and row["seconds"] > 0 and row["peak_mb"] is None for row in records)
    assert rows["all light"]["flops_executed"] < rows["all heavy"]["flops_executed"]
    assert rows["published"]["flops_paper"] == pytest.approx(rows["k=0"]["flops_paper"], rel=1e-2)  # but for near ties
    if runtimes.OURS in rows:
        assert rows[runtimes.OURS]["flops_executed"] == pytest.approx(rows["k=0"]["flops_executed"], rel=1e-2)
    assert rows["k=0"]["flops_executed"] < rows["published"]["flops_executed"] < rows["published"]["flops_paper"]
    assert read_image(tmp_path / "out/ways.png").pixels.ndim == 3
    table = pd.read_csv(tmp_path / "results/benchmarks/inference.csv")
    assert table["output"].unique().tolist() == ["80x60", "40x48"]
    assert table["psnr"].between(5, 60).all() and (table["share_of_peak"] > 0).all()
    means = table.groupby("name")["seconds"].mean()
    assert all(row["seconds"] == pytest.approx(means[row["name"]], rel=1e-3) for row in records)


@pytest.mark.slow
def test_default_picture_and_peak_memory(
    tmp_path: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("published", "k=0")

    def some(pcsr: PCSR, original: OriginalModel | None, device: torch.device) -> dict[str, Callable[[], Way]]:
        return {name: make for name, make in ways(pcsr, original, device).items() if name in names}

    monkeypatch.chdir(tmp_path)

    def measured(name: str, *about: Any) -> float:  # each costs a process
        return peak_mb(name, *about) if name == "k=0" else 100.0

    monkeypatch.setattr(inference, "ways", some)
    monkeypatch.setattr(inference, "peak_mb", measured)
    monkeypatch.setattr("sys.argv", ["inference.py", *SMALL, *tiny])
    inference.main()
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out.splitlines()[-1])}
    assert tuple(rows) == names
    assert all(50 < row["peak_mb"] < 2000 for row in rows.values())  # of this process' own memory nothing counts
    table = pd.read_csv(tmp_path / "results/benchmarks/inference.csv")
    assert set(table["image"]) == {"astronaut.png"} and set(table["output"]) == {"512x512"}


def test_the_original_model_is_that_of_the_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "pcsr", TINY_PCSR)
    assert load_models(Path("pcsr"), None)[1] is None
    save_tiny(tmp_path / f"save/{TINY_PCSR.backbone}-x4", TINY_ORIGINAL)
    assert isinstance(load_models(Path("pcsr"), None)[1], OriginalModel)


def test_without_an_original_model(cli: Cli, tmp_path: Path) -> None:
    save_tiny(tmp_path / "pcsr", TINY_PCSR)
    make_folder(tmp_path / "hr", [(48, 64)])
    options = ("--model", "pcsr", "--img_path", "hr/img_0.png", "--no_memory", "--csv", "out/inference.csv")
    done = cli("benchmarks/inference.py", *SMALL, *options)
    assert done.code == 0, done.err
    rows = [row["name"] for row in json.loads(done.out.splitlines()[-1])]
    assert "left out the original model" in done.out and "vs original" not in done.out
    assert [name for name in rows if name not in runtimes.PACKAGES] == [
        "published",
        *SETTINGS,
        *(IN_HALF if halves(CPU) else []),
    ]
    table = speed(tmp_path / "out", "inference.csv")
    assert "ours, `--k 0`" in table and "original" not in table


@pytest.mark.parametrize("options", [("--rounds", "0"), ("--model", "original"), ("--original", "pcsr")])
def test_bad_options(options: tuple[str, ...], cli: Cli, tiny: list[str]) -> None:
    done = cli("benchmarks/inference.py", *SMALL, *tiny, *options)
    assert done.code == 2 and len(done.err.splitlines()) == 1


@pytest.mark.parametrize(("backbone", "width"), [("carn", 8), ("srresnet", 4), ("softgate", 4), ("fsrcnn", 6)])
def test_runtimes_give_the_same_picture(backbone: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name in runtimes.usable(CPU) if name != runtimes.OURS]
    if not names:
        pytest.skip(INSTALL)
    model = build_original(OriginalSpec(kind="original", backbone=backbone, width=width, scale=4)).eval()
    for norm in [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]:
        torch.nn.init.uniform_(norm.running_mean)  # type: ignore[arg-type]
        torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    exported = to_onnx(model, Setting())  # once for all
    monkeypatch.setattr(runtimes, "to_onnx", lambda *_: exported)
    for name in names:
        session = runtimes.session_of(name, model, Setting())
        assert session.run(None, {"lr": torch.rand(1, 3, 9, 30).numpy()})[0].shape == (1, 3, 36, 120)
        with monkeypatch.context() as patch, pytest.raises(InputError, match="differs"):
            for tolerance in ("TOLERANCE", "ROUGHLY"):
                patch.setattr(runtimes, tolerance, -1.0)
            runtimes.session_of(name, model, Setting())


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (("--batch_size", 0), "--batch_size"),
        (("--pixels_per_patch", -3), "--pixels"),
        (("--ways", "zzz"), "--ways zzz"),
    ],
)
def test_training_refuses(cli: Cli, options: tuple[object, ...], wrong: str) -> None:
    small = ("--backbone", "fsrcnn", "--batch_size", 1, "--patch_size", 8, "--device", "cpu")
    done = cli("benchmarks/training.py", *small, *options)
    assert done.code == 2 and wrong in done.err and not Path("results").exists()


def test_training(cli: Cli, tmp_path: Path) -> None:
    small = ("--batch_size", 2, "--patch_size", 8, "--pixels_per_patch", 100, "--device", "cpu")
    done = cli("benchmarks/training.py", "--backbone", "fsrcnn", "--rounds", 1, *small)
    assert done.code == 0, done.err
    table = pd.read_csv(tmp_path / "results/benchmarks/training.csv")
    assert table["job"].unique().tolist() == ["original", "phase 0", "phase 1"] and (table["seconds"] > 0).all()
