"""The shipped PCSR models at other scales than x4."""

import math

import pytest
import torch
from torch import Tensor

from evaluation.metrics import psnr
from inference.upscaler import Upscaler
from models.checkpoint import trained_on
from tests.conftest import WEIGHT_NAMES
from tests.quality.pin import SAVE, crops, levels
from utils.resize import downscale, imresize, round_8bit

DECIDING = [name for name in WEIGHT_NAMES if name.startswith("pcsr", name.index("-") + 1) and "phase0" not in name]
COLOURS = ((0, 0, 0), (255, 255, 255), (200, 30, 90))
RAMPS = ((20, 230), (100, 140), (60, 68))
MARGIN = 10  # LR pixels: the zeros that the convolutions see around the image change the outermost ones


def restored(upscaler: Upscaler, lr: Tensor, scale: float) -> Tensor:
    """lr (3,h,w) uint8 -> (3,H,W) uint8 at k = 0."""
    sr: Tensor = upscaler.upscale(lr, scale=scale, k=0.0)[0]
    return sr


@pytest.mark.parametrize("scale", [1.5, 2, 3])
@pytest.mark.parametrize("name", DECIDING)
def test_a_decibel_better_than_bicubic(name: str, scale: float) -> None:
    upscaler, gains = Upscaler.load(SAVE / name, "cpu", "float32"), []
    for image in crops().values():
        side = round(math.floor(image.shape[-1] / scale) * scale)
        hr = image[..., :side, :side]
        lr, shave = downscale(hr, scale), math.ceil(scale)
        bicubic = psnr(round_8bit(imresize(lr, (side, side))), hr, shave)
        gains.append(psnr(restored(upscaler, levels(lr), scale)[None] / 255, hr, shave) - bicubic)
    assert sum(gains) / len(gains) > 1


@pytest.mark.parametrize("scale", [1.25, 2, 2.7, 4, 6])
@pytest.mark.parametrize("name", DECIDING)
def test_no_grid_on_flat_areas_and_ramps(name: str, scale: float) -> None:
    """A constant image stays constant and a linear one linear, best with weights trained at several scales."""
    upscaler, trained = Upscaler.load(SAVE / name, "cpu", "float32"), trained_on(SAVE / name)
    assert trained is not None
    flat, ramp = (1, 2) if isinstance(trained.scale, tuple) else (5, 6)  # levels
    inside = slice(round(MARGIN * scale), -round(MARGIN * scale))
    for colour in torch.tensor(COLOURS, dtype=torch.uint8)[..., None, None]:
        sr = restored(upscaler, colour.expand(3, 40, 48), scale)
        assert (sr.int() - colour)[:, inside, inside].abs().max() <= flat
    for low, high in RAMPS:
        lr = torch.linspace(low, high, 48).round().to(torch.uint8).expand(3, 40, 48)
        sr = restored(upscaler, lr, scale)
        position = (torch.arange(sr.shape[-1]) + 0.5) / scale - 0.5  # in LR pixels
        expected = low + (high - low) * position / 47
        assert (sr - expected)[:, inside, inside].abs().max() <= ramp
