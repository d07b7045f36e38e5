"""An exported model in ONNX Runtime against the same model in torch."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.onnx import decides
from models.blocks import Backbone
from models.decide import assign_k, rates
from models.grid import bilinear, grid_over
from models.pcsr import PCSR, refine
from utils.errors import InputError
from utils.resize import scaled_size

TOLERANCE = 1e-4  # of [0,1]: what a picture may differ by
TIE = 1e-4  # of log odds: upsamplers as close as this may be chosen either way
KS = (0.0, 0.7, math.inf, -math.inf)


@torch.inference_mode()
def largest_difference(
    session: Any, model: Backbone | PCSR, scale: float, refinement: bool, images: Sequence[Tensor]
) -> float:
    """Largest difference of sr, over images (1,3,h,w) and, where the model decides, over k = KS.

    Pixels on which two upsamplers tie may be assigned either way; sr is compared under the assignment that the session
    made. Raises InputError if it assigned another pixel otherwise, or if sr differs by more than TOLERANCE.
    """
    largest = 0.0
    for lr in images:
        for k in KS if decides(model) else (None,):
            difference = compared(session, model, scale, refinement, lr, k)
            if not difference <= TOLERANCE:
                raise failed(lr, k, f"sr differs from torch's by {difference:.2g}")
            largest = max(largest, difference)
    return largest


def compared(
    session: Any, model: Backbone | PCSR, scale: float, refinement: bool, lr: Tensor, k: float | None
) -> float:
    """The largest difference of one picture."""
    inputs = {"lr": lr.numpy()} if k is None else {"lr": lr.numpy(), "k": np.array(k, np.float32)}
    sr, *assigned = map(torch.from_numpy, session.run(None, inputs))
    if not isinstance(model, PCSR):
        expected = model(lr)
    else:
        size, feat = scaled_size(lr, scale), model.encode(lr)
        grid = grid_over(lr, size)
        assignment = assigned[0] if assigned else torch.zeros(1, *size, dtype=torch.uint8)
        if k is not None:
            check_assignment(model.classify(feat, grid), model.account().cost(scale), k, assignment, lr)
        expected = model.upsample(feat, grid, assignment) + bilinear(lr, grid)
        expected = refine(expected, assignment) if refinement else expected
    if sr.shape != expected.shape:
        raise failed(lr, k, f"sr is {tuple(sr.shape)}, torch's {tuple(expected.shape)}")
    return float((sr - expected.clamp(0, 1)).abs().max())


def check_assignment(log_odds: Tensor, cost: Sequence[float], k: float, assignment: Tensor, lr: Tensor) -> None:
    """Raises InputError if a pixel has another upsampler than torch gives it, and not because two of them tie."""
    expected = assign_k(log_odds, cost, k)
    if assignment.shape != expected.shape:
        raise failed(lr, k, f"assignment is {tuple(assignment.shape)}, torch's {tuple(expected.shape)}")
    differs = assignment != expected
    if math.isfinite(k):
        prices = torch.tensor([0.0, *rates(cost)]).mul(k).view(1, -1, 1, 1)
        scores = torch.cat([torch.zeros_like(log_odds[:, :1]), log_odds], 1) - prices
        own, top = (scores.gather(1, index[:, None].long())[:, 0] for index in (assignment, expected))
        differs &= top - own > TIE
    if differs.any():
        raise failed(lr, k, f"{int(differs.sum())} pixels have another upsampler than in torch")


def failed(lr: Tensor, k: float | None, reason: str) -> InputError:
    setting = "" if k is None else f", k = {k:g}"
    image = f"{lr.shape[3]}x{lr.shape[2]}"
    return InputError(f"in ONNX Runtime, LR of {image}{setting}: {reason}; try the versions of requirements-bench.txt")
