"""What the shipped models and a tiny one with fixed weights give on the crops beside this file.

python -m tests.quality.pin            measures the models in save/ and writes quality.json
python -m tests.quality.pin --parity   writes parity.npz, too, which no change but one of the method should need
"""

import argparse
import json
import math
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.metrics import psnr
from inference.upscaler import Upscaler
from models.build import build_pcsr
from models.checkpoint import load_model
from models.pcsr import PCSR
from models.setting import Precision, Setting
from tests.conftest import WEIGHT_NAMES
from utils.config import PCSRSpec
from utils.decode import read_image
from utils.image import to_tensor
from utils.resize import downscale, scaled_size

HERE = Path(__file__).parent
SAVE = HERE.parents[1] / "save"
QUALITY, PARITY = HERE / "quality.json", HERE / "parity.npz"
RULES: dict[str, dict[str, Any]] = {"k=0": {"k": 0.0}, "all heavy": {"k": -math.inf}, "adaptive": {"adaptive": True}}
TINY = PCSRSpec(kind="pcsr", backbone="carn", width=8, upsamplers=((4,), (8, 8)), classifier=(4,))
CROP = "chelsea"  # the one that the tiny model works on
CASES = {"x4 k=0.2": (4.0, 0.2), "x4 adaptive": (4.0, None), "x2.5 k=0.5": (2.5, 0.5)}
SAMPLED = 5  # of the tiny model's floats, every 5th row and column is kept: all positions within an LR pixel

Scores = dict[str, dict[str, float]]  # setting -> PSNR in dB and heavy share, means over the crops


def crops() -> dict[str, Tensor]:
    """The HR images, (1,3,128,128) in [0,1]."""
    return {path.stem: to_tensor(read_image(path).pixels) for path in sorted((HERE / "crops").glob("*.png"))}


def levels(image: Tensor) -> Tensor:
    """(1,3,H,W) in [0,1] as uint8 (3,H,W)."""
    return image[0].clamp(0, 1).mul(255).round().to(torch.uint8)


def measure(name: str, precision: Precision = "float32", count: int | None = None) -> Scores:
    """A model of save/ at x4 on all crops or the first `count`, whole, not refined: 8-bit LR, RGB, shave 4."""
    model, _ = load_model(SAVE / name)
    upscaler = Upscaler.load(SAVE / name, "cpu", precision)
    if isinstance(model, PCSR):
        rules = RULES if model.classifier is not None else {"all heavy": {}}
    else:
        rules = {"original": {}}
    scores: Scores = {}
    for rule, chosen in rules.items():
        results = []
        for hr in [*crops().values()][:count]:
            lr = downscale(hr, 4)
            sr, info = upscaler.upscale(levels(lr), refinement=False, **chosen)
            results.append((psnr(sr[None] / 255, hr, shave=4), info.heavy_share))
        mean = np.mean(results, axis=0)
        scores[rule] = {"psnr": round(float(mean[0]), 4), "heavy_share": round(float(mean[1]), 4)}
    return scores


def tiny_model() -> PCSR:
    """Untrained, with weights that depend on their names alone, and on no library's initialisation."""
    model = build_pcsr(TINY).eval()
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point() or name == "mean":
            continue
        values = np.random.default_rng(zlib.crc32(name.encode())).random(tuple(tensor.shape)) * 2 - 1
        if tensor.ndim > 1:
            values *= math.sqrt(6 / tensor[0].numel())  # keeps the size of activations behind a ReLU
        else:
            values = 0.1 * values + name.endswith(("weight", "running_var"))  # BatchNorm close to doing nothing
        tensor.copy_(torch.from_numpy(values))
    for mlp in model.mlps()[:-1]:
        mlp.linears()[-1].weight.data.mul_(0.1)  # close to bilinear
    return model


@torch.inference_mode()
def parity(model: PCSR) -> dict[str, NDArray[Any]]:
    """What the tiny model computes: log-odds, and for each case the assignment, the result, and that refined."""
    kept: dict[str, NDArray[Any]] = {}
    lr = downscale(crops()[CROP], 4)
    for case, (scale, k) in CASES.items():
        size = scaled_size(lr, scale)
        setting = Setting("adaptive", 0.0, False, scale) if k is None else Setting("k", k, False, scale)
        sr, assignment, prob = model(lr, size, setting)
        kept[f"{case}: log-odds"] = sample((prob[:, 1:] / prob[:, :1]).log())
        kept[f"{case}: assignment"] = assignment[0].numpy()
        kept[f"{case}: sr"] = sample(sr)
        kept[f"{case}: refined"] = levels(model(lr, size, replace(setting, refinement=True)).sr).numpy()
    return kept


def sample(values: Tensor) -> NDArray[Any]:
    return values[0, :, ::SAMPLED, ::SAMPLED].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parity", action="store_true", help="write the outputs of the tiny model as well")
    args = parser.parse_args()
    QUALITY.write_text(json.dumps({name: measure(name) for name in WEIGHT_NAMES}, indent=2) + "\n", encoding="utf-8")
    if args.parity:
        np.savez_compressed(PARITY, **parity(tiny_model()))  # type: ignore[arg-type]  # numpy types its options so


if __name__ == "__main__":
    main()
