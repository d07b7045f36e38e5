"""An exported model in ONNX Runtime, or in another program of that interface, against the same model in torch."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.onnx import decides, first_line
from models.decide import offsets
from models.grid import grid_over
from models.original import OriginalModel
from models.pcsr import PCSR, refine
from models.setting import Setting
from utils.errors import InputError
from utils.resize import scaled_size

TOLERANCE = 1e-4  # how much values in [0,1] may differ: a fortieth of a level of 8 bits
TIE = 1e-4  # a difference of log odds that rounding may cause: either upsampler may be chosen
KS = (0.0, 0.7, math.inf, -math.inf)


@torch.inference_mode()
def largest_difference(
    session: Any, model: OriginalModel | PCSR, setting: Setting, images: Sequence[Tensor], tolerance: float = TOLERANCE
) -> float:
    """Largest difference of sr, over images (1,3,h,w) and, where the model decides, over k = KS.

    Pixels on which two upsamplers tie may be assigned either way; sr is compared under the assignment that the session
    made. Raises InputError if it assigned another pixel otherwise, or if sr differs by more than the tolerance.
    """
    largest, remedy = 0.0, "try the versions of requirements-bench.txt"
    for lr in images:
        size = f"LR of {lr.shape[3]}x{lr.shape[2]}"
        for k in KS if decides(model) else (None,):
            try:
                largest = max(largest, compared(session, model, setting, lr, k, tolerance))
            except InputError as error:
                case = size + ("" if k is None else f", k = {k:g}")
                raise InputError(f"exported, {case}: {error}; {remedy}") from None
        remedy = f"{size} agrees, so the network's code depends on the size; linspace, for example, divides by h - 1"
    return largest


def compared(
    session: Any, model: OriginalModel | PCSR, setting: Setting, lr: Tensor, k: float | None, tolerance: float
) -> float:
    """The largest difference of one picture. Raises InputError if it is too large."""
    inputs = {"lr": lr.numpy()} if k is None else {"lr": lr.numpy(), "k": np.array(k, np.float32)}
    try:
        sr, *assigned = map(torch.from_numpy, session.run(None, inputs))
    except Exception as error:  # each of these programs has errors of its own
        raise InputError(f"it fails with: {first_line(error)}") from error
    if not sr.isfinite().all():
        raise InputError("sr holds numbers that are not finite")
    if isinstance(model, PCSR):
        size, feat = scaled_size(lr, setting.scale), model.encode(lr)
        grid = grid_over(lr, size, model.cell_limits)
        assignment = assigned[0] if assigned else torch.zeros(1, *size, dtype=torch.uint8)
        if k is not None:
            check_assignment(assignment, model.classify(feat, grid), model.flops.cost(setting.scale), k)
        expected = model.upsample(lr, feat, grid, assignment)
        expected = refine(expected, assignment) if setting.refinement else expected
    else:
        expected = model(lr)
    if sr.shape != expected.shape:
        raise InputError(f"sr is {tuple(sr.shape)}, torch's {tuple(expected.shape)}")
    difference = float((sr - expected.clamp(0, 1)).abs().max())
    if not difference <= tolerance:
        raise InputError(f"sr differs from torch's by {difference:.2g}")
    return difference


def check_assignment(assignment: Tensor, log_odds: Tensor, cost: Sequence[float], k: float) -> None:
    """Raises InputError if an upsampler of assignment (1,H,W) is not, within TIE, the best by log_odds (1,M-1,H,W)."""
    if assignment.shape != log_odds[:, 0].shape:
        raise InputError(f"assignment is {tuple(assignment.shape)}, torch's {tuple(log_odds[:, 0].shape)}")
    lowered = torch.tensor([0.0, *offsets(cost, k)]).view(1, -1, 1, 1)
    scores = torch.cat([torch.zeros_like(log_odds[:, :1]), log_odds], 1) - lowered  # (1,M,H,W)
    chosen = scores.gather(1, assignment[:, None].long())[:, 0]
    if wrong := int((scores.amax(1) - chosen > TIE).sum()):
        raise InputError(f"{wrong} pixels have another upsampler than in torch")
