"""PSNR and SSIM as the field measures them: on 8-bit values, RGB or Y, border shaved. Pure functions."""

import math
from typing import Literal

import torch
from skimage.metrics import structural_similarity
from torch import Tensor

PsnrType = Literal["rgb", "y"]
Y_WEIGHTS = (65.481, 128.553, 24.966)  # ITU-R BT.601, studio swing, as MATLAB's rgb2ycbcr
WINDOW = 11  # pixels across SSIM's Gaussian window; a smaller image has no SSIM


def quantize(image: Tensor) -> Tensor:
    """(b,3,H,W) in [0,1] -> 8-bit levels as float64 in [0,255]."""
    return image.double().clamp(0, 1).mul(255).round()


def prepare(image: Tensor, shave: int, psnr_type: PsnrType) -> Tensor:
    """8-bit levels of (b,3,H,W) without the border: (b,3,..) for rgb; (b,1,..) of range [16,235] for y.

    An image that shaving would leave nothing of keeps its border.
    """
    if min(image.shape[-2:]) > 2 * shave > 0:
        image = image[..., shave:-shave, shave:-shave]
    levels = quantize(image.cpu())
    if psnr_type == "rgb":
        return levels
    weights = torch.tensor(Y_WEIGHTS, dtype=torch.float64).view(1, 3, 1, 1)
    return (levels * weights).sum(1, keepdim=True) / 255 + 16


def psnr(sr: Tensor, hr: Tensor, shave: int, psnr_type: PsnrType = "rgb") -> float:
    """dB between two (b,3,H,W) in [0,1], after rounding to 8 bits; infinite if they are equal."""
    difference = prepare(sr, shave, psnr_type) - prepare(hr, shave, psnr_type)
    mse = float(difference.square().mean())
    return math.inf if mse == 0 else 20 * math.log10(255) - 10 * math.log10(mse)  # nan stays nan


def ssim(sr: Tensor, hr: Tensor, shave: int, psnr_type: PsnrType = "rgb") -> float:
    """Mean structural similarity of two (1,3,H,W) in [0,1], Gaussian window (Wang et al. 2004); nan if too small."""
    first, second = (prepare(image, shave, psnr_type)[0].numpy() for image in (sr, hr))
    if min(first.shape[-2:]) < WINDOW:
        return math.nan
    return float(
        structural_similarity(
            first, second, channel_axis=0, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )
