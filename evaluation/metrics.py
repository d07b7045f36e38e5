"""PSNR and SSIM as the field measures them: on 8-bit values, RGB or Y, border shaved. Pure functions."""

import math
from collections.abc import Iterator
from typing import Any, Literal

import cv2
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.patches import bands

PsnrType = Literal["rgb", "y"]
Y_WEIGHTS = (65.481, 128.553, 24.966)  # ITU-R BT.601, studio swing, as MATLAB's rgb2ycbcr
WINDOW, SIGMA = 11, 1.5  # pixels across SSIM's Gaussian window; a smaller image has no SSIM
BAND_ROWS = 512  # looked at together: float64 copies of an 8K image would take gigabytes


def shaved(image: Tensor, shave: int) -> Tensor:
    """(...,H,W) without its border; an image that shaving would leave nothing of keeps it."""
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

    With a mask (H,W) of bool, of its pixels alone; nan if it has none inside the border.
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
    sr, hr = shaved(sr, shave), shaved(hr, shave)
    if min(sr.shape[-2:]) < WINDOW:
        return math.nan
    total = 0.0
    for first, second in in_bands(sr, hr, psnr_type, WINDOW - 1):  # without the ends of a band
        channels = zip(first[0].numpy(), second[0].numpy(), strict=True)
        mean = sum(similarity(x, y) for x, y in channels) / first.shape[1]
        total += mean * (first.shape[-2] - WINDOW + 1)
    return total / (sr.shape[-2] - WINDOW + 1)


def similarity(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Mean SSIM of the levels (H,W) of one channel, where the whole window lies inside.

    Equal to scikit-image's, whose filters take more than twice as long.
    """
    c1, c2, edge = (0.01 * 255) ** 2, (0.03 * 255) ** 2, WINDOW // 2
    kernel = cv2.getGaussianKernel(WINDOW, SIGMA)

    def blurred(image: NDArray[Any]) -> NDArray[Any]:
        return cv2.sepFilter2D(image, -1, kernel, kernel)[edge:-edge, edge:-edge]

    mean_x, mean_y = blurred(x), blurred(y)
    product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    covariance, variances = blurred(x * y) - product, blurred(x**2 + y**2) - squares
    values = (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))
    return float(values.mean())
