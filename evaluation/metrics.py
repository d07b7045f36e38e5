"""PSNR and SSIM as the field measures them: on 8-bit values, RGB or Y, border shaved. Pure functions."""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from utils.patches import bands

PsnrType = Literal["rgb", "y"]
Y_WEIGHTS = (65.481, 128.553, 24.966)  # ITU-R BT.601, studio swing, as MATLAB's rgb2ycbcr
WINDOW = 11  # pixels across SSIM's Gaussian window; a smaller image has no SSIM
BAND_ROWS = 512  # rows that are compared at a time: float64 copies of an 8K image would take gigabytes


def shaved(image: Tensor, shave: int) -> Tensor:
    """(...,H,W) without its border; an image of which nothing would be left keeps the border."""
    return image[..., shave:-shave, shave:-shave] if min(image.shape[-2:]) > 2 * shave > 0 else image


def levels(image: Tensor, psnr_type: PsnrType) -> Tensor:
    """8-bit levels of (b,3,H,W) in [0,1] as float64: (b,3,H,W) in [0,255] for rgb; (b,1,H,W) in [16,235] for y."""
    rgb = image.cpu().double().clamp(0, 1).mul(255).round()
    if psnr_type == "rgb":
        return rgb
    weights = torch.tensor(Y_WEIGHTS, dtype=torch.float64).view(1, 3, 1, 1)
    return (rgb * weights).sum(1, keepdim=True) / 255 + 16


def in_bands(sr: Tensor, hr: Tensor, psnr_type: PsnrType, shared: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """The levels of two images band by band, of which neighbours have `shared` rows in common."""
    for rows in bands(sr.shape[-2], BAND_ROWS, shared):
        yield levels(sr[..., rows, :], psnr_type), levels(hr[..., rows, :], psnr_type)


def psnr(sr: Tensor, hr: Tensor, shave: int, psnr_type: PsnrType = "rgb", mask: Tensor | None = None) -> float:
    """dB between two (b,3,H,W) in [0,1], after rounding to 8 bits; infinite if they are equal.

    With a mask (H,W) of bool, only its pixels count; nan if it has none inside the border.
    """
    share = 1.0
    if mask is not None:
        sr = torch.where(mask, sr, hr)  # no error elsewhere
        share = float(shaved(mask, shave).double().mean())
    pairs = in_bands(shaved(sr, shave), shaved(hr, shave), psnr_type)
    errors = [((first - second).square().sum(), first.numel()) for first, second in pairs]
    mse = float(sum(error for error, _ in errors)) / sum(count for _, count in errors)
    return decibels(mse / share) if share else math.nan


def decibels(mse: float) -> float:
    """PSNR of a mean squared error of 8-bit levels; infinite for 0, nan stays nan."""
    return math.inf if mse == 0 else 20 * math.log10(255) - 10 * math.log10(mse)


def ssim(sr: Tensor, hr: Tensor, shave: int, psnr_type: PsnrType = "rgb") -> float:
    """Mean structural similarity of two (1,3,H,W) in [0,1], Gaussian window (Wang et al. 2004); nan if too small."""
    from skimage.metrics import structural_similarity  # noqa: PLC0415 - scipy takes long to import, and not all commands need it

    sr, hr = shaved(sr, shave), shaved(hr, shave)
    if min(sr.shape[-2:]) < WINDOW:
        return math.nan
    total = 0.0
    for first, second in in_bands(sr, hr, psnr_type, WINDOW - 1):  # without the ends of a band
        mean = structural_similarity(
            first[0].numpy(),
            second[0].numpy(),
            channel_axis=0,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        total += float(mean) * (first.shape[-2] - WINDOW + 1)
    return total / (sr.shape[-2] - WINDOW + 1)
