"""Which LR pixel every HR row and column reads, and where the HR centre lies in it (paper).

The coordinates of a regular grid are separable, so an index and an offset per row and per column are all there is; no
(H*W, 2) tensor of coordinates exists. Everything is computed in integers and float64: float32 coordinates are off by
up to 1.7e-4 of an LR pixel at 4K.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """One axis of the HR grid over the LR grid."""

    index: Tensor  # (N,) int64, the nearest LR pixel; of two equally near ones the lower
    offset: Tensor  # (N,) float32 in [-1, 1]: (coord - coord of that LR pixel) * n, the paper's rel_coord
    cell: float  # 2 / N * n, the paper's rel_cell: an HR pixel's extent in half LR pixels


def axis(n: int, size: int, device: torch.device | str = "cpu") -> Axis:
    """The `size` HR positions over `n` LR pixels.

    HR centre i sits at -1 + (2i + 1) / size, LR centre m at -1 + (2m + 1) / n. In units of half an LR pixel their
    distance is (2i + 1) * n / size - (2m + 1), hence the integer arithmetic below, exact for every scale.
    """
    centre = (2 * torch.arange(size) + 1) * n  # on the CPU: MPS has no float64, and a short list is soon moved
    index = torch.div(centre - 1, 2 * size, rounding_mode="floor")
    distance = centre - (2 * index + 1) * size  # an integer below 2^53 for any image, so the quotient is exact enough
    offset = (distance.double() / size).float()
    there = torch.device(device)
    quick = there.type == "cuda"  # which takes such short lists along without being waited for
    return Axis(index.to(there, non_blocking=quick), offset.to(there, non_blocking=quick), 2.0 / size * n)
