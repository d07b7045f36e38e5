"""What a restored image is, and how an original model or plain bicubic restores one."""

import time
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from inference.finish import canvas, finish
from inference.tiles import MAPS, TilePlan, until_it_fits
from models.blocks import OriginalModel
from models.fast.accelerate import accelerate
from models.fast.fold import folded
from models.flops import PATCH, Flops
from models.tile import whole, with_halo
from utils.device import synchronize
from utils.errors import InputError
from utils.image import MAX_PIXELS, Array
from utils.patches import Patches
from utils.resize import imresize, scaled_size


@dataclass(frozen=True)
class Restored:
    """One image restored under one setting."""

    setting: str
    pixels: Array = field(repr=False)  # (H,W,3), clamped and rounded to uint8 or uint16
    # (H,W) uint8; where patches overlap, the heaviest choice; None without a PCSR model
    assignment: Array | None = field(repr=False)
    upsamplers: int  # M, 0 for an original model
    heavy_share: float  # the share of pixels that took the heaviest upsampler; original model: 1, bicubic: 0
    flops: Flops  # what is computed twice around tiles is not counted
    reference: Flops  # of the same image by the all-heavy model, or by the original itself
    seconds: float  # synchronised; with what all settings share, but without an encoding that was made before


class Restore(Protocol):
    """Restores lr (1,3,h,w) in [0,1], as a whole or by overlapping patches, to 8 or 16 bits; one result a setting."""

    def __call__(self, lr: Tensor, patches: Patches | None = None, bits: int = 8) -> list[Restored]: ...


class Clock:
    """Seconds, with the device's queue drained at both ends."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        synchronize(device)
        self.start = time.perf_counter()

    def lap(self) -> float:
        """Since the start or the last lap."""
        synchronize(self.device)
        last, self.start = self.start, time.perf_counter()
        return self.start - last


def hr_size(lr: Tensor, scale: float) -> tuple[int, int]:
    """(H,W) of lr (b,3,h,w) at a scale. Raises InputError if it is more than an image file holds."""
    height, width = scaled_size(lr, scale)
    if height * width > MAX_PIXELS:
        raise InputError(f"scale {scale:g}: {width}x{height} pixels are more than the {MAX_PIXELS} an image may have")
    return height, width


def bicubic_restorer(scale: float) -> Restore:
    """Restore by MATLAB's bicubic, the usual baseline, on the CPU; its arithmetic is in neither FLOPs account.

    The restorer refuses patches with an InputError.
    """
    free = Flops(0, 0)

    def restore(lr: Tensor, patches: Patches | None = None, bits: int = 8) -> list[Restored]:
        if patches:
            raise InputError("bicubic works on whole images, not on patches")
        clock, size = Clock(torch.device("cpu")), hr_size(lr, scale)
        pixels = canvas(*size, bits)
        sr = imresize(lr, size, dtype=torch.float64)
        finish(sr, None, whole(sr), pixels)
        return [Restored("bicubic", pixels, None, 0, 0.0, free, free, clock.lap())]

    return restore


def original_restorer(model: OriginalModel, device: torch.device, plan: TilePlan | None = None) -> Restore:
    """Restore with an original model at its own scale."""
    scale = model.scale
    model = folded(model).to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on CPUs and tensor cores
    accelerate(model)
    image = torch.zeros(1, 3, PATCH, PATCH, device=device)
    channels = model.encoder(image).shape[1]  # of its features: what a pixel takes

    def in_tiles(image: Tensor, plan: TilePlan, pixels: Array) -> None:
        tiles = plan.cut(image, model, 4 * channels * (MAPS + 3 * scale**2))
        with plan.bar(len(tiles)) as bar:
            for tile in tiles:
                seen, inside = (image, tile) if len(tiles) == 1 else with_halo(image, tile, model.halo)
                rows, cols = tile.times(scale)
                finish(model(seen), None, inside.times(scale), pixels[rows, cols])
                bar.update()

    @torch.inference_mode()
    def restore(lr: Tensor, patches: Patches | None = None, bits: int = 8) -> list[Restored]:
        pixels = canvas(*hr_size(lr, scale), bits)
        batches = [batch.to(device) for batch in (patches.split(lr) if patches else [lr])]
        clock = Clock(device)
        if patches:
            sr = patches.merge([model(batch) for batch in batches], lr, scale)
            finish(sr, None, whole(sr), pixels)
        else:
            until_it_fits(plan, lambda plan: in_tiles(batches[0], plan, pixels))
        flops = model.counted * sum(batch.shape[0] * batch.shape[2] * batch.shape[3] for batch in batches)
        return [Restored("original", pixels, None, 0, 1.0, flops, flops, clock.lap())]

    return restore
