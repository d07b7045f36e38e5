"""The shipped models are as good as they were, on small crops."""

import functools
import json

import pytest
import torch

from datasets.degrade import compressed
from evaluation.metrics import psnr
from inference.automatic import CLEAN, PHOTOS
from inference.upscaler import Upscaler
from models.setting import Precision
from tests.conftest import WEIGHT_NAMES
from tests.quality.pin import QUALITY, SAVE, Scores, crops, levels, measure
from utils.resize import downscale

PINNED: dict[str, Scores] = json.loads(QUALITY.read_text(encoding="utf-8"))
LOSS = 0.02  # dB that a model may lose
GROWTH = 0.02  # of the pixels, what its heavy share may grow by: it costs time
REMEDY = "if that is meant, pin it: python -m tests.quality.pin"


def test_every_shipped_model_is_pinned() -> None:
    assert PINNED.keys() == set(WEIGHT_NAMES), REMEDY


@pytest.mark.parametrize("name", WEIGHT_NAMES)
def test_no_shipped_model_gets_worse(name: str) -> None:
    measured, pinned = measure(name), PINNED[name]
    assert measured.keys() == pinned.keys(), REMEDY
    for setting, score in measured.items():
        before = pinned[setting]
        assert score["psnr"] >= before["psnr"] - LOSS, f"{name}, {setting}: PSNR fell; {REMEDY}"
        assert score["heavy_share"] <= before["heavy_share"] + GROWTH, f"{name}, {setting}: more heavy pixels; {REMEDY}"


def test_weights_for_photographs_are_better_on_jpegs() -> None:
    scores = {}
    for name in (CLEAN, PHOTOS):
        upscaler, found = Upscaler.load(SAVE / name, "cpu", "float32"), []
        for hr in crops().values():
            stored = compressed(levels(downscale(hr, 4)).permute(1, 2, 0).numpy(), 75)
            lr = torch.from_numpy(stored.copy()).permute(2, 0, 1)
            found.append(psnr(upscaler.upscale(lr, k=0.0)[0][None] / 255, hr, shave=4))
        scores[name] = sum(found) / len(found)
    assert scores[PHOTOS] > scores[CLEAN] + 0.2, scores


@functools.cache
def in_float32(name: str) -> Scores:
    return measure(name, count=1)


@pytest.mark.parametrize("precision,loss", [("float16", 0.003), ("bfloat16", 0.01)])
@pytest.mark.parametrize("name", [name for name in WEIGHT_NAMES if "phase0" not in name])
def test_half_precision_keeps_the_picture(name: str, precision: Precision, loss: float) -> None:
    if name in ("fsrcnn-x4", "carn-x4") and precision == "bfloat16":
        loss = 0.05  # they make the whole image out of larger features, which bfloat16 rounds to 8 bits
    exact = in_float32(name)
    for setting, score in measure(name, precision, count=1).items():
        assert score["psnr"] >= exact[setting]["psnr"] - loss
        assert score["heavy_share"] == pytest.approx(exact[setting]["heavy_share"], abs=0.01)
