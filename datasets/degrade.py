"""Degraded LR images: HR is blurred before it is shrunk, and LR gets noise and is compressed.

HR -> blur -> antialiased bicubic, rounded to 8 bits -> noise -> JPEG -> LR
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.config import DegradeSpec

Pixels = NDArray[np.uint8]  # (H,W,3) RGB
SAMPLING_FACTORS = {
    420: cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    422: cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    444: cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}


class Degradation(NamedTuple):
    """How one image is degraded; by default it is not."""

    blur: float = 0.0  # sigma in HR pixels
    noise: float = 0.0  # sigma in levels of 8 bits
    quality: int = 0  # JPEG quality; 0: no JPEG
    subsampling: int = 420
    seed: int = 0  # for the noise


def blurred(hr: Pixels, sigma: float) -> Pixels:
    """Gaussian blur, the border mirrored."""
    return np.asarray(cv2.GaussianBlur(hr, (0, 0), sigma), np.uint8)


def noisy(lr: Pixels, sigma: float, seed: int) -> Pixels:
    """White Gaussian noise, independent in each channel; rounded and clipped."""
    noise = np.random.Generator(np.random.Philox(seed)).normal(0, sigma, lr.shape)
    return np.rint(lr + noise).clip(0, 255).astype(np.uint8)


def compressed(lr: Pixels, quality: int, subsampling: int = 420) -> Pixels:
    """The image as a JPEG gives it back. OpenCV gives the same values for small crops as Pillow, ten times as fast."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLING_FACTORS[subsampling]]
    _, content = cv2.imencode(".jpg", lr[:, :, ::-1], options)
    return np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR), np.uint8)[:, :, ::-1]


def after_shrinking(lr: Pixels, how: Degradation) -> Pixels:
    lr = noisy(lr, how.noise, how.seed) if how.noise else lr
    return compressed(lr, how.quality, how.subsampling) if how.quality else lr


def degraded(hr: Tensor, degradations: Sequence[Degradation], shrink: Callable[[Tensor], Tensor]) -> Tensor:
    """LR images of hr (b,3,H,W) in [0,1], each with its degradation, or all clean if there are none.

    `shrink` makes LR, rounded to 8 bits if there are degradations. The CPU does blur, noise and JPEG: if any is due, it
    waits for a CUDA device.
    """
    blurry = [each.blur > 0 for each in degradations]
    hr = each_image(lambda pixels, how: blurred(pixels, how.blur), hr, degradations, blurry)
    changed = [each.noise > 0 or each.quality > 0 for each in degradations]
    return each_image(after_shrinking, shrink(hr), degradations, changed)


def each_image(
    change: Callable[[Pixels, Degradation], Pixels],
    images: Tensor,
    degradations: Sequence[Degradation],
    chosen: Sequence[bool],
) -> Tensor:
    """The images (b,3,H,W) in [0,1]; `change` is applied to the chosen ones, rounded to 8 bits."""
    numbers = np.flatnonzero(chosen).tolist()
    if not numbers:
        return images
    levels = images[numbers].mul_(255).round_().clamp_(0, 255).byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    changed = np.stack([change(pixels, degradations[number]) for pixels, number in zip(levels, numbers, strict=True)])
    values = torch.from_numpy(changed).to(images.device).permute(0, 3, 1, 2).contiguous().to(images.dtype).div_(255)
    return images.index_copy(0, torch.tensor(numbers, device=images.device), values)


def draw_degradations(spec: DegradeSpec, rng: np.random.Generator, count: int) -> list[Degradation]:
    """A degradation for each of `count` images: its parts, and their strengths uniformly from the ranges."""
    clean = rng.random(count) < spec.clean
    blur, noise = rng.uniform(*spec.blur, count), rng.uniform(*spec.noise, count)
    quality = rng.integers(*(spec.jpeg or (0, 0)), count, endpoint=True)  # 0: no JPEG
    subsampling, seeds = rng.choice(spec.subsampling, count), rng.integers(2**63, size=count)
    kept = rng.random((count, 3)) < (spec.blur_share, spec.noise_share, spec.jpeg_share)
    blur, noise, quality = np.where(kept.T, (blur, noise, quality), 0)
    drawn = zip(*(each.tolist() for each in (blur, noise, quality.astype(int), subsampling, seeds)), strict=True)
    return [Degradation() if left else Degradation(*numbers) for left, numbers in zip(clean, drawn, strict=True)]


def degradation_of(spec: DegradeSpec, name: str) -> Degradation:
    """The degradation of an image, drawn from its name (its path within the folder), so that it is always the same."""
    key = int.from_bytes(sha256(name.encode("utf-8", "surrogateescape")).digest()[:8])
    return draw_degradations(spec, np.random.Generator(np.random.Philox(key)), 1)[0]
