"""How one image is restored by either kind of model, and what that cost."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models.blocks import Backbone
from models.decide import assign_adaptive, assign_budget, assign_k
from models.fast import prepare
from models.pcsr import PCSR, refine
from utils.device import synchronize
from utils.errors import InputError
from utils.flops import Flops, PCSRFlops, network_flops
from utils.image import MAX_PIXELS
from utils.resize import scaled_size
from utils.tiling import Tiling

REFINE = True  # the paper's default, for every script; --no_refinement turns it off


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
    sr: Tensor  # (1,3,H,W), unclamped
    assignment: Tensor | None  # (1,H,W); of an overlapping pixel, the heaviest choice; None for an original model
    upsamplers: int  # M, 0 for an original model
    heavy_share: float  # of the pixels processed, the share of the heaviest upsampler; 1 for an original model
    flops: Flops
    reference: Flops  # the same image by the all-heavy model, or by the original itself
    seconds: float  # synchronised; the encoding counts in full for every setting


Restore = Callable[[Tensor, float, Tiling | None], list[Restored]]  # (lr, scale, tiling)


class Clock:
    """Seconds with the device's queue drained at both ends."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        synchronize(device)
        self.start = time.perf_counter()

    def seconds(self) -> float:
        synchronize(self.device)
        return time.perf_counter() - self.start


def place(model: nn.Module, device: torch.device) -> None:
    """Put a model where it will run, in eval mode; channels-last convolutions are faster on CPUs and tensor cores."""
    model.to(device).eval()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def load(lr: Tensor, scale: float, tiling: Tiling | None, device: torch.device) -> list[Tensor]:
    """The batches that go through a model: the image, or its patches.

    Raises InputError for an output that no image file holds, and for patches that do not fall on whole pixels.
    """
    height, width = scaled_size(lr, scale)
    if height * width > MAX_PIXELS:
        raise InputError(f"--scale {scale:g}: {width}x{height} pixels are more than the {MAX_PIXELS} an image may have")
    if tiling:
        tiling.windows(lr, scale)
    batches = tiling.split(lr) if tiling else [lr]
    return [batch.to(device).contiguous(memory_format=torch.channels_last) for batch in batches]


def original_restorer(model: Backbone, device: torch.device) -> Restore:
    """Restore with an original model. The result raises InputError for a scale that is not the model's."""
    place(model, device)
    per_lr = network_flops(model)

    @torch.inference_mode()
    def restore(lr: Tensor, scale: float, tiling: Tiling | None) -> list[Restored]:
        if scale != model.scale:
            raise InputError(f"--scale {scale:g}: this original model does x{model.scale} only; use test_pcsr.py")
        batches = load(lr, scale, tiling, device)
        clock = Clock(device)
        parts = [model(batch) for batch in batches]
        sr = tiling.merge(parts, lr, scale) if tiling else parts[0]
        flops = per_lr * sum(batch.shape[0] * batch.shape[2] * batch.shape[3] for batch in batches)
        return [Restored("original", sr, None, 0, 1.0, flops, flops, clock.seconds())]

    return restore


def budget_per_pixel(account: PCSRFlops, scale: float, share: float) -> tuple[list[float], float]:
    """A share of the all-heavy model's FLOPs (paper account) as spend per upsampler and budget, per HR pixel.

    Raises InputError if the share is below all-light's, above 1, or not a number.
    """
    fixed = account.per_lr.paper / scale**2 + account.classifier.paper
    spend = [fixed + flops.paper for flops in account.upsamplers]
    if not spend[0] / spend[-1] <= share <= 1:
        raise InputError(
            f"--budget {share:g}: must lie between {spend[0] / spend[-1]:.3f} (all pixels light) and 1 (all heavy)"
        )
    return spend, share * spend[-1]


def decide(prob: Tensor, setting: Setting, account: PCSRFlops, scale: float) -> Tensor:
    """prob (b,M,H,W) -> assignment (b,H,W) by the setting's rule, all b parts of one image decided together."""
    if setting.rule == "adaptive":
        return assign_adaptive(prob)
    cost = account.cost(scale)
    if setting.rule == "k":
        return assign_k(prob, cost, setting.value)
    return assign_budget(prob, cost, *budget_per_pixel(account, scale, setting.value))


def pcsr_restorer(model: PCSR, settings: Sequence[Setting], refinement: bool, device: torch.device) -> Restore:
    """Restore with a PCSR model, one result per setting, all from one encoding of the image.

    Raises InputError for settings of a model that has nothing to decide.
    """
    place(model, device)
    account, fast = model.account(), prepare(model)
    count = len(account.upsamplers)
    if count == 1:
        if [*settings] != [Setting("k")]:
            raise InputError(
                "a phase 0 model has one upsampler, nothing to decide: leave out --k, --budget, --adaptive"
            )
        settings = [Setting("heavy")]

    @torch.inference_mode()
    def restore(lr: Tensor, scale: float, tiling: Tiling | None) -> list[Restored]:
        if not scale >= 1:
            raise InputError(f"--scale {scale:g}: must be a number of 1 or more")
        batches = load(lr, scale, tiling, device)
        size = scaled_size(batches[0], scale)
        lr_pixels = sum(batch.shape[0] * batch.shape[2] * batch.shape[3] for batch in batches)
        clock = Clock(device)
        encoded = [fast.encode(batch) for batch in batches]
        prob = torch.cat([fast.classify(part, size) for part in encoded]) if count > 1 else None
        shared = clock.seconds()

        def finish(setting: Setting) -> Restored:
            clock = Clock(device)
            if prob is None:
                assignment = torch.zeros(sum(len(b) for b in batches), *size, dtype=torch.int64, device=device)
            else:
                assignment = decide(prob, setting, account, scale)
            parts = assignment.split([len(batch) for batch in batches])
            srs = [fast.upsample(part, size, chosen) for part, chosen in zip(encoded, parts, strict=True)]
            if refinement:
                srs = [refine(sr, chosen) for sr, chosen in zip(srs, parts, strict=True)]
            sr = tiling.merge(srs, lr, scale) if tiling else srs[0]
            whole = tiling.merge_heaviest(parts, lr, scale) if tiling else assignment
            seconds = shared + clock.seconds()
            counts = torch.bincount(assignment.flatten(), minlength=count).tolist()
            flops = account.total(lr_pixels, counts)
            heavy = account.total(lr_pixels, [0] * (count - 1) + [sum(counts)])
            return Restored(str(setting), sr, whole, count, counts[-1] / sum(counts), flops, heavy, seconds)

        return [finish(setting) for setting in settings]

    return restore
