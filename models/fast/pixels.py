"""What is done at every HR pixel, as compiled code on CPUs: see pixels.cpp. Plain torch is what it must agree with."""

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor

from models.grid import Grid
from models.mlp import PixelMLP
from models.tile import Tile
from utils.image import Array


class PixelKernel:
    """One PixelMLP, its weights packed as pixels.cpp describes."""

    def __init__(self, mlp: PixelMLP, compiled: ctypes.CDLL) -> None:
        self.compiled = compiled
        self.mlp = mlp
        self.lanes = compiled.lanes()
        first, *later = mlp.linears()
        self.project = self.padded(first.weight.detach()[:, : mlp.in_channels], 0)[:, :, None, None]
        self.bias = self.padded(first.bias.detach(), 0)
        packed = [self.padded(part, -1).flatten() for layer in later for part in (layer.weight.t(), layer.bias)]
        self.weight = torch.cat([part.detach() for part in packed]) if packed else torch.zeros(1)
        widths = [layer.out_features for layer in (first, *later)]
        self.widths = (ctypes.c_int * len(widths))(*widths)

    def padded(self, tensor: Tensor, dim: int) -> Tensor:
        """Contiguous, with zeros up to a multiple of LANES along one dimension."""
        shape = list(tensor.shape)
        shape[dim] = -shape[dim] % self.lanes
        return torch.cat([tensor, tensor.new_zeros(shape)], dim)

    def table(self, feat: Tensor) -> Tensor:
        """feat (b,c,h,w) -> the first layer's feature part, (b,h*w,C) padded."""
        return F.conv2d(feat, self.project, self.bias).permute(0, 2, 3, 1).flatten(1, 2).contiguous()

    def add_to(
        self,
        planes: Tensor,
        table: Tensor,
        grid: Grid,
        w: int,
        assignment: Tensor | None,
        own: int,
    ) -> None:
        """As Kernel says; everything is float32, contiguous and on the CPU."""
        row, col = (self.padded(terms, 1) for terms in self.mlp.coordinate_terms(grid))
        height, width = planes.shape[1:]
        self.compiled.mlp_at(
            *map(address, (table, row, col, grid.rows.index, grid.cols.index)),
            w,
            address(self.weight),
            self.widths,
            len(self.widths) - 1,
            address(assignment),
            own,
            height,
            width,
            address(planes),
            torch.get_num_threads(),
        )


def bilinear_window(lr: Tensor, grid: Grid, compiled: ctypes.CDLL) -> Tensor:
    """models.grid.bilinear as compiled code."""
    lr = lr.contiguous()
    planes = torch.empty(len(lr), 3, len(grid.rows.low), len(grid.cols.low))
    axes = [address(tensor) for line in grid for tensor in (line.low, line.high, line.weight)]
    compiled.bilinear(
        address(lr),
        *(3 * len(lr), lr.shape[2], lr.shape[3]),
        *axes,
        *planes.shape[2:],
        address(planes),
        torch.get_num_threads(),
    )
    return planes


def refine_and_round(
    sr: Tensor, assignment: Tensor | None, inside: Tile, levels: int, out: Array, compiled: ctypes.CDLL
) -> None:
    """models.pcsr.refine, if there is an assignment (1,H,W) uint8, and rounding to `levels`, in one go.

    sr (1,3,H,W); the pixels of `inside` go to out (R,C,3) uint8 or uint16, whose rows may lie apart.
    """
    compiled.refine_and_round(
        address(sr),
        address(assignment),
        *sr.shape[2:],
        *(inside.rows.start, inside.rows.stop, inside.cols.start, inside.cols.stop),
        levels,
        ctypes.c_void_p(out.ctypes.data),
        ctypes.c_long(out.strides[0] // out.itemsize),
        torch.get_num_threads(),
    )


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """Where a tensor lies in memory; null for None."""
    if tensor is None:
        return ctypes.c_void_p(None)
    if not tensor.is_contiguous():
        raise ValueError("the kernel reads contiguous tensors")
    return ctypes.c_void_p(tensor.data_ptr())
