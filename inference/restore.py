"""How one image is restored by either kind of model, and what that cost."""

import time
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from inference.finish import canvas, finish
from inference.memory import allowance, cut, width
from models.blocks import Backbone
from models.flops import Flops, network_flops
from models.tile import Part, whole, with_halo
from utils.device import synchronize
from utils.errors import InputError
from utils.image import MAX_PIXELS, Array
from utils.patches import Patches
from utils.resize import imresize, scaled_size

MAPS = 12  # feature maps that an encoder holds at once: CARN's cascades 7, and torch wants some room


@dataclass(frozen=True)
class Setting:
    """One way to decide."""

    rule: Literal["k", "budget", "adaptive", "heavy"]  # heavy: all a phase 0 model can do
    value: float = 0.0

    def __str__(self) -> str:
        return f"{self.rule}={self.value:g}" if self.rule in ("k", "budget") else self.rule


@dataclass(frozen=True)
class Restored:
    """One result for one image."""

    setting: str
    pixels: Array  # (H,W,3), clamped and rounded to uint8 or uint16
    assignment: Array | None  # (H,W) uint8; of an overlapping pixel, the heaviest choice; None for an original model
    upsamplers: int  # M, 0 for an original model
    heavy_share: float  # of the pixels processed, the share of the heaviest upsampler; 1 for an original model
    flops: Flops  # the halo of parts is not counted
    reference: Flops  # the same image by the all-heavy model, or by the original itself
    seconds: float  # synchronised; the encoding counts in full for every setting


class Restore(Protocol):
    """Restores lr (1,3,h,w) in [0,1]: as a whole, or by overlapping patches where there is a tiling."""

    def __call__(self, lr: Tensor, scale: float, tiling: Patches | None = None, bits: int = 8) -> list[Restored]: ...


@dataclass(frozen=True)
class Large:
    """How images too large for the memory are cut into parts, and whether a bar shows them."""

    part_size: int | None = None  # LR pixels across; None: as the memory allows
    progress: bool = False

    def parts(self, lr: Tensor, halo: int | None, pixel_bytes: float) -> list[Part]:
        """Parts of lr (1,3,h,w), of whose pixels one takes `pixel_bytes` while a model works on it."""
        if halo is None:  # every pixel depends on all
            return [whole(lr)]
        area = allowance(lr.device) / pixel_bytes if self.part_size is None else (self.part_size + 2 * halo) ** 2
        return cut(lr, halo, area)

    def bar(self, total: int) -> "tqdm[Any]":
        """Shown in terminals, when there is more than one part."""
        return tqdm(total=total, unit="part", leave=False, disable=None if self.progress and total > 1 else True)


LARGE = Large()


class Clock:
    """Seconds with the device's queue drained at both ends."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        synchronize(device)
        self.start = time.perf_counter()

    def lap(self) -> float:
        """Since the start or the last lap."""
        synchronize(self.device)
        last, self.start = self.start, time.perf_counter()
        return self.start - last


def place(model: nn.Module, device: torch.device) -> None:
    """Put a model where it will run, in eval mode; channels-last convolutions are faster on CPUs and tensor cores."""
    model.to(device).eval()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def load(lr: Tensor, scale: float, tiling: Patches | None, device: torch.device) -> list[Tensor]:
    """The batches that go through a model: the image, or its patches.

    Raises InputError for an output that no image file holds, and for patches that do not fall on whole pixels.
    """
    height, width = scaled_size(lr, scale)
    if height * width > MAX_PIXELS:
        raise InputError(f"--scale {scale:g}: {width}x{height} pixels are more than the {MAX_PIXELS} an image may have")
    if tiling:
        tiling.windows(lr, scale)
    batches = tiling.split(lr) if tiling else [lr]
    return [batch.to(device) for batch in batches]


def bicubic_restorer() -> Restore:
    """Restore by MATLAB's bicubic, the field's floor, on the CPU; its arithmetic is in neither FLOPs account.

    The result raises InputError for patches.
    """
    free = Flops(0, 0)

    def restore(lr: Tensor, scale: float, tiling: Patches | None = None, bits: int = 8) -> list[Restored]:
        if tiling:
            raise InputError("--bicubic works on whole images; add --per_image")
        clock, size = Clock(torch.device("cpu")), scaled_size(lr, scale)
        pixels = canvas(*size, bits)
        sr = imresize(lr, size, dtype=torch.float64)
        finish(sr, None, whole(sr), pixels)
        return [Restored("bicubic", pixels, None, 0, 0.0, free, free, clock.lap())]

    return restore


def original_restorer(model: Backbone, device: torch.device, large: Large = LARGE) -> Restore:
    """Restore with an original model. The result raises InputError for a scale that is not the model's."""
    place(model, device)
    per_lr = network_flops(model)

    @torch.inference_mode()
    def restore(lr: Tensor, scale: float, tiling: Patches | None = None, bits: int = 8) -> list[Restored]:
        if scale != model.scale:
            raise InputError(f"--scale {scale:g}: this original model does x{model.scale} only; use test_pcsr.py")
        batches = load(lr, scale, tiling, device)
        clock = Clock(device)
        pixels = canvas(*scaled_size(lr, scale), bits)
        if tiling:
            sr = tiling.merge([model(batch) for batch in batches], lr, scale)
            finish(sr, None, whole(sr), pixels)
        else:
            (image,) = batches
            channels = width(model.encoder, device)
            parts = large.parts(image, model.halo, 4 * channels * (MAPS + 3 * scale**2))
            with large.bar(len(parts)) as bar:
                for part in parts:
                    seen, inside = with_halo(image, part, 0 if len(parts) == 1 else model.halo)
                    rows, cols = part.times(model.scale)
                    finish(model(seen), None, inside.times(model.scale), pixels[rows, cols])
                    bar.update()
        flops = per_lr * sum(batch.shape[0] * batch.shape[2] * batch.shape[3] for batch in batches)
        return [Restored("original", pixels, None, 0, 1.0, flops, flops, clock.lap())]

    return restore
