"""Shared fixtures: a fixed seed, tiny models and pictures, the reference data where it is at hand."""

import os
import runpy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from models.build import build
from models.checkpoint import save_weights
from models.grid import grid_over
from models.pcsr import PCSR
from utils.config import Config, DataSpec, ModelSpec, OriginalSpec, PCSRSpec, TrainSpec
from utils.encode import write_image
from utils.parse import load_config
from utils.resize import scaled_size

ROOT = Path(__file__).parents[1]
TINY_PCSR = PCSRSpec(kind="pcsr", backbone="fsrcnn", width=6, upsamplers=((4,), (8, 8)), classifier=(4,))
TINY_ORIGINAL = OriginalSpec(kind="original", backbone="fsrcnn", width=6, scale=4)


WEIGHT_NAMES = (  # weights in save/
    *("carn-x4", "carn-pcsr-phase0", "carn-pcsr-phase1", "fsrcnn-x4", "fsrcnn-pcsr-phase0", "fsrcnn-pcsr-phase1"),
    *("softgate-x4", "softgate-pcsr-phase0", "softgate-pcsr-phase1", "softgate-pcsr-phase1-m3"),
    *("softgate-pcsr-photo-phase0", "softgate-pcsr-photo"),
    *("srresnet-x4", "srresnet-pcsr-phase0", "srresnet-pcsr-phase1"),
)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]
MARKERS = {
    "reference": "data",
    "browser": "browser",
    "gpu": "gpu",
    "device": "gpu",
}  # the fixture that needs it -> its marker


@pytest.hookimpl(tryfirst=True)  # before -m selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for fixture, marker in MARKERS.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)  # or else one process would end with them


@pytest.fixture(autouse=True, scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What libraries and processes leave in the folder for temporary files, such as Gradio's downloads, is deleted."""
    tmp_path_factory.getbasetemp()  # stays where it is, for who looks into a failure
    compiled = os.environ.get("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_{os.getuid()}")
    with (
        tempfile.TemporaryDirectory(prefix="pcsr-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", compiled)  # compiled code is kept for the next time
        patch.setattr(os, "fsync", lambda _: None)  # no test cuts the power
        yield


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def reference() -> Path:
    """Reference data of the project, if PCSR_SHARED names its folder; the tests that need it skip otherwise."""
    folder = os.environ.get("PCSR_SHARED")
    if folder is None or not (Path(folder) / "reference").is_dir():
        pytest.skip("PCSR_SHARED does not name the folder with the reference data")
    return Path(folder)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """CUDA in true float32, or the device that PCSR_TEST_DEVICE names, such as cpu; the test skips without one."""
    name = os.environ.get("PCSR_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else None)
    if name is None:
        pytest.skip("no CUDA device; PCSR_TEST_DEVICE=cpu runs this test on the CPU")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return torch.device(name)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations write an empty curve.png: to draw it takes longer than to evaluate a few small images."""
    monkeypatch.setattr("evaluation.plot.plot_curve", lambda _: b"")


@pytest.fixture
def cli(undrawn: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """Runs a root script as `python SCRIPT ARGS` does, in a scratch folder: cli("demo.py", "--k", 0)."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)

    def call(script: str, *args: object) -> Outcome:
        monkeypatch.setattr("sys.argv", [script, *map(str, args)])
        capsys.readouterr()
        code = 0
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth colourful picture with a hard edge and some texture, (H,W,3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    planes = [128 + 100 * np.sin(2 * np.pi * (rng.random() * 3 * x + rng.random() * 3 * y + c)) for c in range(3)]
    picture = np.stack(planes, axis=2)
    picture[height // 2 :, width // 3 :] = 255 - picture[height // 2 :, width // 3 :]
    picture += rng.normal(0, 6, picture.shape) * (x > 0.5)[:, :, None]
    return picture.clip(0, 255).astype(np.uint8)


def make_folder(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    for index, (height, width) in enumerate(sizes):
        write_image(folder / f"img_{index}.png", photo(height, width, index))
    return folder


def config_for(model: ModelSpec, **train: object) -> Config:
    data = DataSpec(train="train", val="val", scale=4, patch_size=8, batch_size=2)
    return Config(
        model=model, data=data, train=TrainSpec.model_validate({"iter_max": 4, "learning_rate": 1e-3, **train})
    )


def save_tiny(folder: Path, spec: PCSRSpec | OriginalSpec) -> Path:
    """Weights of a tiny model in a folder like those under save/; untrained, but close to bilinear."""
    model = build(spec)
    with torch.no_grad():
        for mlp in model.mlps()[:-1] if isinstance(model, PCSR) else []:
            for parameter in mlp.linears()[-1].parameters():
                parameter.mul_(0.05)
    save_weights(folder, model, config_for(spec))
    return folder


@torch.no_grad()
def balance(model: PCSR, lr: Tensor, scale: float) -> None:
    """Stretch and shift the classifier's logits so that k = 0 chooses each upsampler in lr (1,3,h,w), few by a hair."""
    log_odds = model.classify(model.encode(lr), grid_over(lr, scaled_size(lr, scale)))
    last, spread = model.mlps()[-1].linears()[-1], log_odds.std()
    for parameter in (last.weight, last.bias):
        parameter.div_(spread)
    last.bias[1:] -= log_odds.mean((0, 2, 3)) / spread
    last.bias[1:-1] += 0.5  # between the others there must be room


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Images to train on and to validate on, and weights of phase 0 with which others start."""
    make_folder(tmp_path / "train", [(48, 64), (64, 48), (40, 40)])
    make_folder(tmp_path / "val", [(40, 44)])
    config = load_config(ROOT / "configs/fsrcnn-pcsr-phase0.yaml")
    save_weights(tmp_path / "zero", build(config.model), config)
    return tmp_path
