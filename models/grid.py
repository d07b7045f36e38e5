"""Which LR pixels every HR row and column reads, and where the HR centre lies among them (paper).

The coordinates of a regular grid are separable, so indices and an offset per row and per column are all there is; no
(H*W, 2) tensor of coordinates exists. Everything is computed in integers and float64: float32 coordinates are off by
up to 1.7e-4 of an LR pixel at 4K. A part of an image gets the very numbers that the whole has there.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """One axis of the HR grid over the LR grid."""

    index: Tensor  # (N,) int64, the nearest LR pixel, counted from the part's first; of two equally near ones the lower
    offset: Tensor  # (N,) float32 in [-1, 1]: (coord - coord of that LR pixel) * n, the paper's rel_coord
    cell: float  # 2 / N * n, the paper's rel_cell: an HR pixel's extent in half LR pixels


@dataclass(frozen=True)
class Blend:
    """What bilinear interpolation takes along one axis, half-pixel centres, border replicated."""

    low: Tensor  # (N,) int64, an LR pixel, counted from the image's first
    high: Tensor  # (N,) int64, the next one
    weight: Tensor  # (N,) float32 in [0, 1), of the next one


def first_hr(n: int, size: int, pixel: int) -> int:
    """The first of `size` HR positions over `n` LR pixels that is nearest to LR pixel `pixel` or one behind it."""
    return max(0, -(-(2 * size * pixel + 1 - n) // (2 * n)))


def span(n: int, size: int, part: slice) -> slice:
    """The HR positions nearest to the LR pixels of a part; parts that cover LR cover HR, without overlap."""
    return slice(first_hr(n, size, part.start), first_hr(n, size, part.stop))


def axis(n: int, size: int, device: torch.device | str = "cpu", part: slice | None = None) -> Axis:
    """The `size` HR positions over `n` LR pixels, or those of a part of the LR pixels.

    HR centre i sits at -1 + (2i + 1) / size, LR centre m at -1 + (2m + 1) / n. In units of half an LR pixel their
    distance is (2i + 1) * n / size - (2m + 1), hence the integer arithmetic below, exact for every scale.
    """
    part = part or slice(0, n)
    index, offset = nearest(centres(n, span(n, size, part)), size)
    return Axis(moved(index - part.start, device), moved(offset, device), 2.0 / size * n)


def nearest(centre: Tensor, size: int | Tensor) -> tuple[Tensor, Tensor]:
    """Index (int64) and offset (float32), as in Axis, of HR positions with these `centres`."""
    index = torch.div(centre - 1, 2 * size, rounding_mode="trunc")  # of what is never negative
    distance = centre - (2 * index + 1) * size  # an integer below 2^53 for any image, so the quotient is exact enough
    return index, (distance.double() / size).float()


def blend(n: int, size: int, device: torch.device | str = "cpu", part: slice | None = None) -> Blend:
    """Bilinear interpolation of `n` LR pixels at `size` HR positions, or at those of a part of the LR pixels."""
    low, weight = between(centres(n, span(n, size, part or slice(0, n))), size)
    return Blend(moved(low, device), moved((low + 1).clamp_max(n - 1), device), moved(weight, device))


def between(centre: Tensor, size: int | Tensor) -> tuple[Tensor, Tensor]:
    """The LR pixel before (int64) HR positions with these `centres`, and the weight (float32) of the one behind it."""
    source = (centre - size).clamp_min(0)  # times 2 * size
    low = torch.div(source, 2 * size, rounding_mode="trunc")
    return low, ((source - low * (2 * size)).double() / (2 * size)).float()


def centres(n: int, positions: slice) -> Tensor:
    """(2i + 1) * n of HR positions i; on the CPU, as MPS has no float64 and a short list is soon moved."""
    return (2 * torch.arange(positions.start, positions.stop) + 1) * n


def moved(values: Tensor, device: torch.device | str) -> Tensor:
    there = torch.device(device)
    return values.to(there, non_blocking=there.type == "cuda")  # which takes short lists along without being waited for
