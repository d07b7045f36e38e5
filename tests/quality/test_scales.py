"""The shipped PCSR models at other scales than x4, most of which were trained at x4 alone."""

import math

import pytest
import torch
from torch import Tensor

from evaluation.metrics import psnr
from inference.upscaler import Upscaler
from tests.quality.pin import MODELS, SAVE, crops, levels
from utils.resize import downscale, imresize, round_8bit, scaled_size

ADAPTIVE = [name for name in MODELS if name.endswith(("pcsr-phase1", "photo"))]


def restored(upscaler: Upscaler, lr: Tensor, scale: float) -> Tensor:
    """lr (3,h,w) uint8 -> (3,H,W) uint8 at k = 0."""
    return upscaler.upscale(lr, scale=scale, k=0.0)[0]


@pytest.mark.parametrize("scale", [1.5, 2, 3])
@pytest.mark.parametrize("name", ADAPTIVE)
def test_better_than_bicubic(name: str, scale: float) -> None:
    upscaler, gains = Upscaler.load(SAVE / name, "cpu", "float32"), []
    for image in crops().values():
        side = math.floor(image.shape[-1] / scale) * scale
        hr = image[..., : round(side), : round(side)]
        lr = downscale(hr, scale)
        ours, bicubic = restored(upscaler, levels(lr), scale)[None] / 255, round_8bit(imresize(lr, scaled_size(lr, scale)))
        gains.append(psnr(ours, hr, shave=math.ceil(scale)) - psnr(bicubic, hr, shave=math.ceil(scale)))
    print(name, scale, [round(g, 2) for g in gains])
    assert sum(gains) / len(gains) > 0.5


@pytest.mark.parametrize("scale", [1.25, 1.5, 2, 2.7, 3, 4, 6])
@pytest.mark.parametrize("name", ADAPTIVE)
def test_flat_areas_have_no_grid(name: str, scale: float) -> None:
    upscaler, margin = Upscaler.load(SAVE / name, "cpu", "float32"), 10
    for colour in ((0, 0, 0), (128, 128, 128), (255, 255, 255), (200, 30, 90), (20, 120, 240)):
        flat = torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, 48, 40)
        inside = restored(upscaler, flat, scale).int()[:, round(margin * scale) : round(-margin * scale)]
        error = (inside - torch.tensor(colour)[:, None, None]).abs().max()
        print(name, scale, colour, int(error))
