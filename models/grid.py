"""The LR pixels that each HR row and column reads, and the position of the HR pixels among them (paper, section 3).

The coordinates of a regular grid are separable: an index and an offset per row and per column are enough, and no
(H*W,2) tensor of coordinates is needed. Indices are computed in integers and offsets in float64, which is exact for
every scale. With float32 coordinates, offsets would be wrong by up to 1.7e-4 of an LR pixel in a 4K image. A tile has
exactly the same indices and offsets as the whole image has there. Sizes may be integer tensors, so that an exported
ONNX graph works for every image size.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from models.tile import Tile, span

Limits = tuple[float, float]  # low, high
ANY: Limits = (0.0, math.inf)


@dataclass(frozen=True)
class Axis:
    """The HR positions of one axis over `n` LR pixels, or those of one tile."""

    index: Tensor  # (N,) int64, nearest LR pixel (the lower one of two equally near), counted from the tile's first
    offset: Tensor  # (N,) float32 in [-1,1]: (coord - coord of that LR pixel) * n, the paper's rel_coord
    cell: float | Tensor  # 2 / N * n, the paper's rel_cell: the extent of an HR pixel in half LR pixels (see axis)
    low: Tensor  # (N,) int64, the LR pixel before the HR position, counted from the image's first
    high: Tensor  # (N,) int64, the LR pixel after it
    weight: Tensor  # (N,) float32 in [0,1), weight of `high` in bilinear interpolation


class Grid(NamedTuple):
    """The HR grid over an LR image or over one tile of it."""

    rows: Axis
    cols: Axis


def grid_over(lr: Tensor, size: tuple[int, int], cell_limits: Limits = ANY, tile: Tile | None = None) -> Grid:
    """The grid of an HR image of `size` = (H,W) over lr (b,3,h,w), or its window over a tile of lr."""
    rows, cols = tile or (None, None)
    return Grid(
        axis(lr.shape[2], size[0], cell_limits, lr.device, rows),
        axis(lr.shape[3], size[1], cell_limits, lr.device, cols),
    )


def axis(
    n: int, size: int, cell_limits: Limits = ANY, device: torch.device | str = "cpu", stretch: slice | None = None
) -> Axis:
    """The `size` HR positions along `n` LR pixels; with `stretch`, only those whose nearest LR pixel is in that slice.

    A cell outside of its limits becomes the nearer limit. An MLP that was trained at a single scale has learned
    nothing about its weights for rel_cell, a constant there, and at other scales they would add an arbitrary colour.

    The centre of HR pixel i sits at -1 + (2i + 1) / size and that of LR pixel m at -1 + (2m + 1) / n. In units of half
    an LR pixel their distance is (2i + 1) * n / size - (2m + 1), hence the integer arithmetic below.
    """
    positions = torch.arange(size) if stretch is None else torch.arange(*span(n, size, stretch))
    centre = (2 * positions + 1) * n  # on the CPU, as MPS has no float64; moving so few numbers costs nothing
    index = torch.div(centre - 1, 2 * size, rounding_mode="trunc")  # floor, since nothing is negative
    distance = centre - (2 * index + 1) * size  # an integer below 2**53 for any image, which float64 holds exactly
    offset = (distance.double() / size).float()
    source = (centre - size).clamp_min(0)  # in units of 1 / (2 * size) LR pixels
    low = torch.div(source, 2 * size, rounding_mode="trunc")
    weight = ((source - low * (2 * size)).double() / (2 * size)).float()
    high = (low + 1).clamp_max(n - 1)
    first = 0 if stretch is None else stretch.start
    cuda = torch.device(device).type == "cuda"  # where the copy need not be waited for
    on_cpu = index - first, offset, low, high, weight
    index, offset, low, high, weight = (each.to(device, non_blocking=cuda) for each in on_cpu)
    return Axis(index, offset, limited(2.0 / size * n, cell_limits), low, high, weight)


def limited(cell: float | Tensor, limits: Limits) -> float | Tensor:
    low, high = limits
    return cell.clamp(low, high) if isinstance(cell, Tensor) else min(max(cell, low), high)


def bilinear(lr: Tensor, grid: Grid) -> Tensor:
    """Bilinear interpolation of lr (b,3,h,w) at the grid's pixels, (b,3,H,W): half-pixel centres, border replicated."""
    rows, cols = grid
    down, across = rows.weight[:, None].to(lr.dtype), cols.weight.to(lr.dtype)
    tall = lr.index_select(2, rows.low).lerp(lr.index_select(2, rows.high), down)  # (b,3,H,w)
    return tall.index_select(3, cols.low).lerp(tall.index_select(3, cols.high), across)
