"""Turns sr, the output of a model, into the levels of an image: refined, clamped, rounded."""

import numpy as np
import torch
from torch import Tensor

from models.fast.build import load_kernels
from models.fast.pixels import refine_and_round
from models.pcsr import refine
from models.tile import Tile
from utils.image import Array


def canvas(height: int, width: int, bits: int) -> Array:
    """An empty image (H,W,3) of 8 or 16 bits."""
    return np.empty((height, width, 3), np.uint8 if bits == 8 else np.uint16)


def finish(sr: Tensor, assignment: Tensor | None, inside: Tile, out: Array) -> None:
    """sr (1,3,H,W), refined by assignment (1,H,W) if there is one; its pixels `inside` go to out (R,C,3)."""
    peak = np.iinfo(out.dtype).max
    if (sr.device.type, sr.dtype) == ("cpu", torch.float32) and load_kernels() is not None:
        refine_and_round(sr.contiguous(), assignment, inside, peak, out)
        return
    if assignment is not None:
        sr = refine(sr, assignment)
    values = sr[0, :, inside.rows, inside.cols].float().clamp(0, 1).mul(peak).round().permute(1, 2, 0)
    out[:] = values.to(torch.uint8 if peak == 255 else torch.int32).contiguous().cpu().numpy()
