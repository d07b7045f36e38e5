"""The work at every HR pixel as compiled code on CPUs (mlp.cpp, pixels.cpp). Tests compare it with plain torch."""

import ctypes
from functools import cached_property

import torch
from torch import Tensor

from models.fast.build import needed_kernels, of_type
from models.grid import Axis, Grid
from models.mlp import PixelMLP
from models.tile import Tile
from utils.image import Array


class Features(ctypes.Structure):
    """The address, strides and sizes of an image of features; mlp.cpp has the same structs."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_long) for name in ("row", "col", "channel")),
        *((name, ctypes.c_int) for name in ("h", "w", "channels")),
    )


class Line(ctypes.Structure):
    """An axis of the grid; called Axis in mlp.cpp."""

    _fields_ = (("index", ctypes.c_void_p), ("offset", ctypes.c_void_p), ("cell", ctypes.c_float))

    @classmethod
    def of(cls, axis: Axis) -> "Line":
        return cls(address(axis.index).value, address(axis.offset).value, axis.cell)


class Choice(ctypes.Structure):
    """The pixels to compute, and the map in which pixels beyond the range of float16 are marked."""

    _fields_ = (("assignment", ctypes.c_void_p), ("own", ctypes.c_int), ("left", ctypes.c_void_p))


class Planes(ctypes.Structure):
    """The address and size of the planes that receive the results."""

    _fields_ = (("data", ctypes.c_void_p), ("height", ctypes.c_int), ("width", ctypes.c_int))


class CompiledRunner:
    """One PixelMLP, computed in the type of number that the features have: float32 or float16."""

    def __init__(self, mlp: PixelMLP) -> None:
        self.mlp = mlp
        first, *later = (layer.requires_grad_(False) for layer in mlp.linears())
        self.table_channels = first.out_features
        self.coordinate = first.weight[:, mlp.in_channels :].t().contiguous()  # (4,C)
        self.widths = (ctypes.c_int * (1 + len(later)))(*(layer.out_features for layer in (first, *later)))

    @cached_property
    def packed(self) -> dict[torch.dtype, list[Tensor]]:
        """For each type: weight and bias of the first layer, and those of the later layers, as mlp.cpp describes."""
        first, *later = self.mlp.linears()
        rest = [part.flatten() for layer in later for part in (layer.weight.t(), layer.bias)]
        parts = [first.weight[:, : self.mlp.in_channels].t(), first.bias, torch.cat(rest) if rest else first.bias]
        half = [part.flatten().half().repeat_interleave(2) for part in parts]  # each twice, as mlp.cpp expects
        return {torch.float32: [part.contiguous() for part in parts], torch.float16: half}

    def table(self, feat: Tensor) -> Tensor | None:
        """feat (b,c,h,w) -> the first layer's feature part, (b,n); None if it exceeds the range of float16."""
        batch, channels, h, w = feat.shape
        weight, bias, _ = self.packed[feat.dtype]
        pitch = needed_kernels().table_pitch(w)
        tables = feat.new_empty(batch, (h * self.widths[0] + 1) * pitch)
        for image, table in zip(feat, tables, strict=True):
            strides = image.stride(1), image.stride(2), image.stride(0)
            held = of_type(feat.dtype, "project")(
                Features(image.data_ptr(), *strides, h, w, channels),
                *(address(weight), address(bias), self.widths[0], address(table), torch.get_num_threads()),
            )
            if not held and feat.dtype == torch.float16:
                return None
        return tables

    def add_to(self, planes: Tensor, table: Tensor, grid: Grid, w: int, assignment: Tensor | None, own: int) -> None:
        """See MLPRunner.add_to; all tensors are contiguous and on the CPU.

        Pixels beyond float16 are added in float32.
        """
        height, width = planes.shape[1:]
        half = table.dtype == torch.float16
        left = torch.zeros(height, width, dtype=torch.uint8, device="cpu") if half else None
        if of_type(table.dtype, "mlp_at")(
            address(table),
            w,
            *(address(self.coordinate), address(self.packed[table.dtype][2]), self.widths, len(self.widths) - 1),
            *map(Line.of, grid),
            Choice(address(assignment).value, own, address(left).value),
            Planes(address(planes).value, height, width),
            torch.get_num_threads(),
        ):
            self.add_to(planes, table.float(), grid, w, left, 1)


def bilinear_compiled(lr: Tensor, grid: Grid) -> Tensor:
    """models.grid.bilinear as compiled code, in float32."""
    lr = lr.float().contiguous()
    planes = lr.new_empty(len(lr), 3, len(grid.rows.low), len(grid.cols.low))
    axes = [address(tensor) for line in grid for tensor in (line.low, line.high, line.weight)]
    needed_kernels().bilinear(
        address(lr),
        *(3 * len(lr), lr.shape[2], lr.shape[3]),
        *axes,
        *planes.shape[2:],
        address(planes),
        torch.get_num_threads(),
    )
    return planes


def refine_and_round(sr: Tensor, assignment: Tensor | None, inside: Tile, peak: int, out: Array) -> None:
    """Rounding to whole numbers up to `peak`, in one pass with models.pcsr.refine if there is an assignment.

    sr (1,3,H,W), assignment (1,H,W) uint8. The pixels of `inside` are written to out (R,C,3), uint8 or uint16, whose
    rows need not be adjacent.
    """
    needed_kernels().refine_and_round(
        address(sr),
        address(assignment),
        *sr.shape[2:],
        *(inside.rows.start, inside.rows.stop, inside.cols.start, inside.cols.stop),
        peak,
        ctypes.c_void_p(out.ctypes.data),
        ctypes.c_long(out.strides[0] // out.itemsize),
        torch.get_num_threads(),
    )


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """The address of a tensor; null for None."""
    if tensor is None:
        return ctypes.c_void_p(None)
    if not tensor.is_contiguous():
        raise ValueError("the kernel reads contiguous tensors")
    return ctypes.c_void_p(tensor.data_ptr())
