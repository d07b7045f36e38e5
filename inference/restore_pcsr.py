"""How one image is restored by a PCSR model: decided pixel by pixel, several settings from one encoding."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from inference.finish import canvas, finish
from inference.memory import allowance
from inference.restore import LARGE, MAPS, Clock, Large, Restore, Restored, Setting, load, place
from models.decide import assign_adaptive, assign_budget, assign_k
from models.fast.engine import prepare
from models.flops import PCSRFlops
from models.pcsr import PCSR, Encoded, refine
from models.tile import Part, whole
from utils.device import give_back
from utils.errors import InputError
from utils.patches import Tiling
from utils.resize import scaled_size

GLOBAL = ("adaptive", "budget")  # rules that see the whole image
REFINE = True  # the paper's default, for every script; --no_refinement turns it off
LARGE_PIXELS = 1 << 20  # of LR: behind such an image, memory is returned to the system
HR_FLOATS = 10  # per HR pixel: log odds, sr, and what refinement needs of it


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


def least_budget(account: PCSRFlops, scale: float) -> float:
    """The smallest share of the all-heavy model's FLOPs (paper account) that can be asked for: all pixels light."""
    spend, budget = budget_per_pixel(account, scale, 1.0)
    return spend[0] / budget


def decide(log_odds: Tensor, setting: Setting, account: PCSRFlops, scale: float) -> Tensor:
    """log_odds (b,M-1,H,W) -> assignment (b,H,W) by the setting's rule, all b patches of one image decided together."""
    if setting.rule == "heavy":
        return torch.zeros(len(log_odds), *log_odds.shape[2:], dtype=torch.uint8, device=log_odds.device)
    if setting.rule == "adaptive":
        return assign_adaptive(log_odds)
    cost = account.cost(scale)
    if setting.rule == "k":
        return assign_k(log_odds, cost, setting.value)
    return assign_budget(log_odds, cost, *budget_per_pixel(account, scale, setting.value))


class Result:
    """What one setting makes of one image, as it grows."""

    def __init__(self, setting: Setting, size: tuple[int, int], bits: int) -> None:
        self.setting = setting
        self.pixels = canvas(*size, bits)
        self.assignment = np.empty(size, np.uint8)
        self.counts: Counter[int] = Counter()  # HR pixels per upsampler
        self.seconds = 0.0

    def count(self, assignment: Tensor, upsamplers: int) -> None:
        self.counts.update({j: int(torch.count_nonzero(assignment == j)) for j in range(upsamplers)})

    def restored(self, account: PCSRFlops, lr_pixels: int) -> Restored:
        upsamplers = len(account.upsamplers)
        counts = [self.counts[j] for j in range(upsamplers)]
        flops = account.total(lr_pixels, counts)
        heavy = account.total(lr_pixels, [0] * (upsamplers - 1) + [sum(counts)])
        share = counts[-1] / sum(counts)
        name = str(self.setting)
        return Restored(name, self.pixels, self.assignment, upsamplers, share, flops, heavy, self.seconds)


class Worker:
    """A PCSR model at work, under several settings from one encoding of each image."""

    def __init__(self, model: PCSR, device: torch.device, large: Large) -> None:
        place(model, device)
        self.account, self.model = model.account(), prepare(model)
        self.upsamplers = len(self.account.upsamplers)
        self.device, self.large = device, large
        mlps = model.mlps()
        self.channels = mlps[0].in_channels
        self.tables = sum(mlp.linears()[0].out_features + 15 for mlp in mlps)

    @torch.inference_mode()
    def restore(
        self,
        lr: Tensor,
        scale: float,
        settings: Sequence[Setting],
        refinement: bool,
        tiling: Tiling | None = None,
        bits: int = 8,
    ) -> list[Restored]:
        """lr (1,3,h,w) in [0,1], as a whole or by patches. Raises InputError for a scale below 1."""
        batches = self.load(lr, scale, tiling)
        if tiling:
            return self.patches(lr, scale, bits, tiling, batches, settings, refinement)
        results = self.image(batches[0], scale, bits, settings, refinement)
        if lr.shape[2] * lr.shape[3] > LARGE_PIXELS:
            give_back()
        return results

    def load(self, lr: Tensor, scale: float, tiling: Tiling | None = None) -> list[Tensor]:
        """inference.restore.load; raises InputError for a scale below 1 too."""
        if not scale >= 1:
            raise InputError(f"--scale {scale:g}: must be a number of 1 or more")
        return load(lr, scale, tiling, self.device)

    def parts(self, lr: Tensor, scale: float) -> tuple[list[Part], list[Part]]:
        """Parts of lr (1,3,h,w) as large as the memory allows, and with the pixels around that refinement reads."""
        parts = self.large.parts(lr, self.model.halo, 4 * (MAPS * self.channels + self.tables + HR_FLOATS * scale**2))
        return parts, [part.grown(lr, 1) for part in parts]

    def image(
        self, lr: Tensor, scale: float, bits: int, settings: Sequence[Setting], refinement: bool
    ) -> list[Restored]:
        """A whole image (1,3,h,w), in parts if it is large."""
        size, clock = scaled_size(lr, scale), Clock(self.device)
        results = [Result(setting, size, bits) for setting in settings]
        parts, outer = self.parts(lr, scale)
        early = [result for result in results if result.setting.rule in GLOBAL] if len(parts) > 1 else []
        shared = 0.0
        decided: dict[Setting, Tensor] = {}
        feats: Iterable[Tensor | None] = itertools.repeat(None)
        with self.large.bar(len(parts) * (2 if early else 1)) as bar:
            if early:
                log_odds, feats = self.look(lr, size, outer, bar)
                shared += clock.lap()
                for result in early:
                    decided[result.setting] = decide(log_odds, result.setting, self.account, scale)
                    result.seconds += clock.lap()
                del log_odds
            for part, around, kept in zip(parts, outer, feats, strict=False):
                feat = self.model.features(lr, around) if kept is None else kept
                encoded = self.model.project(lr, around, feat)
                odds = self.model.log_odds(encoded, size) if len(decided) < len(results) else None
                shared += clock.lap()
                seen = around.window(lr, size)
                for result in results:
                    if odds is None or result.setting in decided:
                        assignment = decided[result.setting][:, seen.rows, seen.cols].contiguous()
                    else:
                        assignment = decide(odds, result.setting, self.account, scale)
                    self.paint(result, part, encoded, assignment, refinement)
                    result.seconds += clock.lap()
                bar.update()
        for result in results:
            result.seconds += shared
        return [result.restored(self.account, lr.shape[2] * lr.shape[3]) for result in results]

    def paint(self, result: Result, part: Part, encoded: Encoded, assignment: Tensor, refinement: bool) -> None:
        """A part of a result, from the encoding of that part or more, for whose window assignment (1,R,C) decides."""
        lr, size = encoded.lr, (len(result.assignment), result.assignment.shape[1])
        rows, cols = part.window(lr, size)
        inside = Part(rows, cols).within(encoded.part.window(lr, size))
        sr = self.model.upsample(encoded, size, assignment)
        finish(sr, assignment if refinement else None, inside, result.pixels[rows, cols])
        result.count(assignment[:, inside.rows, inside.cols], self.upsamplers)
        result.assignment[rows, cols] = assignment[0, inside.rows, inside.cols].cpu().numpy()

    def look(
        self, lr: Tensor, size: tuple[int, int], parts: Sequence[Part], bar: "tqdm[Any]"
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The log odds of a whole image, part by part; and the features of each part, if there is room for all."""
        log_odds = torch.empty(1, self.upsamplers - 1, *size, device=lr.device)
        keep = 4 * self.channels * lr.shape[2] * lr.shape[3] <= allowance(lr.device)
        feats: list[Tensor | None] = []
        for part in parts:
            feat = self.model.features(lr, part)
            rows, cols = part.window(lr, size)
            log_odds[..., rows, cols] = self.model.log_odds(self.model.project(lr, part, feat), size)
            feats.append(feat if keep else None)
            bar.update()
        return log_odds, feats

    def patches(
        self,
        lr: Tensor,
        scale: float,
        bits: int,
        tiling: Tiling,
        batches: list[Tensor],
        settings: Sequence[Setting],
        refinement: bool,
    ) -> list[Restored]:
        """An image by overlapping patches, decided together."""
        size, clock = scaled_size(batches[0], scale), Clock(self.device)
        encoded = [self.model.encode(batch) for batch in batches]
        log_odds = torch.cat([self.model.log_odds(part, size) for part in encoded])
        lengths = [len(batch) for batch in batches]
        shared = clock.lap()
        results = []
        for setting in settings:
            result = Result(setting, scaled_size(lr, scale), bits)
            assignments = decide(log_odds, setting, self.account, scale).split(lengths)
            pairs = list(zip(encoded, assignments, strict=True))
            srs = [self.model.upsample(part, size, chosen) for part, chosen in pairs]
            if refinement:
                srs = [refine(sr, chosen) for sr, chosen in zip(srs, assignments, strict=True)]
            sr = tiling.merge(srs, lr, scale)
            finish(sr, None, whole(sr), result.pixels)
            result.assignment[:] = tiling.merge_heaviest(assignments, lr, scale)[0].cpu().numpy()
            for assignment in assignments:
                result.count(assignment, self.upsamplers)
            result.seconds = shared + clock.lap()
            results.append(result)
        lr_pixels = sum(lengths) * batches[0].shape[2] * batches[0].shape[3]
        return [result.restored(self.account, lr_pixels) for result in results]


def possible(model: PCSR, settings: Sequence[Setting]) -> Sequence[Setting]:
    """The settings themselves, or all heavy for a model that has nothing to decide. Raises InputError if it should."""
    if model.classifier is not None:
        return settings
    if [*settings] != [Setting("k")]:
        raise InputError("a phase 0 model has one upsampler, nothing to decide: leave out --k, --budget, --adaptive")
    return [Setting("heavy")]


def pcsr_restorer(
    model: PCSR, settings: Sequence[Setting], refinement: bool, device: torch.device, large: Large = LARGE
) -> Restore:
    """Restore with a PCSR model, one result per setting, all from one encoding of the image.

    Raises InputError for settings of a model that has nothing to decide.
    """
    settings = possible(model, settings)
    worker = Worker(model, device, large)

    def restore(lr: Tensor, scale: float, tiling: Tiling | None = None, bits: int = 8) -> list[Restored]:
        return worker.restore(lr, scale, settings, refinement, tiling, bits)

    return restore
