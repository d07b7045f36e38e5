"""What a restored image is, and what a function that restores one looks like."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from models.flops import Flops
from models.original import OriginalModel
from models.pcsr import PCSR
from models.setting import check_scale, number
from utils.device import synchronize
from utils.errors import InputError
from utils.image import MAX_PIXELS, Array
from utils.patches import Patches
from utils.resize import scaled_size

USUAL_SCALE = 4.0  # where none is given: the benchmark's


@dataclass(frozen=True)
class Restored:
    """One image restored under one setting."""

    setting: str
    pixels: Array = field(repr=False)  # (H,W,3), clamped and rounded to uint8 or uint16
    # (H,W) uint8; where patches overlap, the heaviest upsampler; None without a PCSR model
    assignment: Array | None = field(repr=False)
    upsamplers: int  # M, 0 for an original model
    heavy_share: float  # the share of pixels that took the heaviest upsampler; original model: 1, bicubic: 0
    flops: Flops  # LR pixels that tiles see twice count once; with skip_flat, those around busy areas count as well
    reference: Flops  # of the same image by the all-heavy model, or by the original itself
    seconds: float  # work that all settings share counts in each; an encoding kept from an earlier call does not count


class Restore(Protocol):
    """Restores lr (1,3,h,w) in [0,1], as a whole or by overlapping patches, to 8 or 16 bits; one result a setting."""

    def __call__(self, lr: Tensor, patches: Patches | None = None, bits: int = 8) -> list[Restored]: ...


OnResult = Callable[[str, Restored], None]  # called with each image's name and result


class Clock:
    """A stop watch that waits for the device to finish before it is read."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        synchronize(device)
        self.start = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the start or the last lap."""
        synchronize(self.device)
        last, self.start = self.start, time.perf_counter()
        return self.start - last


def possible_scale(model: OriginalModel | PCSR, asked: float | None) -> float:
    """The scale that is asked for, else 4 or that of an original model. Raises InputError if the model lacks it."""
    scale = USUAL_SCALE if asked is None else number("scale", asked)
    if isinstance(model, PCSR):
        return check_scale(scale)
    if asked is not None and scale != model.scale:
        raise InputError(f"scale {scale:g}: this original model does x{model.scale} only; a PCSR model does any")
    return float(model.scale)


def hr_size(lr: Tensor, scale: float) -> tuple[int, int]:
    """(H,W) of lr (b,3,h,w) at a scale. Raises InputError if it is more than an image file holds."""
    height, width = scaled_size(lr, scale)
    if height * width > MAX_PIXELS:
        raise InputError(f"scale {scale:g}: {width}x{height} pixels are more than the {MAX_PIXELS} an image may have")
    return height, width
