"""The errors of an upsampler at the HR pixels of a batch, with their gradients, in one pass on CPUs: training phase 0.

pixel_errors.cpp contains the arithmetic.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.fast.build import needed_kernels
from models.fast.pixels import address
from models.mlp import PixelMLP


class PixelInputs(ctypes.Structure):
    """The HR pixels and their inputs; pixel_errors.cpp has the same structs."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("table", "nearest", "coords", "target")),
        *((name, ctypes.c_long) for name in ("nearest_step", "coords_step")),
        *((name, ctypes.c_int) for name in ("images", "across")),
        *((name, ctypes.c_long) for name in ("rows", "count")),
    )


class Parameters(ctypes.Structure):
    """The addresses of the parameters of the MLP."""

    _fields_ = (
        ("layers", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("widths", "weights", "biases", "coords")),
        ("coords_pitch", ctypes.c_long),
    )


class Errors(ctypes.Structure):
    """The kind of error, and the addresses for the results."""

    _fields_ = (
        ("absolute", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("sums", "of_table", "of_parameters")),
        ("parameters", ctypes.c_long),
    )


def pixel_errors(
    mlp: PixelMLP, table: Tensor, across: int, nearest: Tensor, coords: Tensor, target: Tensor, *, absolute: bool
) -> Tensor:
    """The mean error of each image, absolute or squared, (b,): of mlp.at(table, nearest, coords) against target.

    table (b*h*w,C) is the result of mlp.project, with `across` = w. nearest (b,N) is the row of the table that each
    pixel reads, counted from the first row of its image; it rises from one row of the image to the next. coords is
    (b,N,4) and target (b,N,3).
    """
    first, *rest = mlp.linears()
    parameters = [tensor for layer in rest for tensor in (layer.weight, layer.bias)]
    pixels = nearest, coords, target
    result: Tensor = PixelErrors.apply(table, first.weight[:, mlp.in_channels :], pixels, across, absolute, *parameters)
    return result


class PixelErrors(torch.autograd.Function):
    """Computes all gradients in forward; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, table: Tensor, of_coords: Tensor, pixels: Sequence[Tensor], across: int, absolute: bool, *rest: Tensor
    ) -> Tensor:
        nearest, coords, target = pixels
        (images, count), layers = nearest.shape, len(rest) // 2
        widths = (ctypes.c_int * (layers + 1))(len(of_coords), *map(len, rest[::2]))
        weights, biases = ((ctypes.c_void_p * layers)(*(each.data_ptr() for each in rest[i::2])) for i in (0, 1))
        sums = torch.empty(images, dtype=torch.float64)
        ctx.shapes = [of_coords.shape, *(tensor.shape for tensor in rest)]
        of_table = torch.empty_like(table)
        of_parameters = table.new_empty(images, sum(shape.numel() for shape in ctx.shapes))
        needed_kernels().pixel_errors(
            PixelInputs(
                *(address(table).value, nearest.data_ptr(), coords.data_ptr(), address(target).value),
                *(nearest.stride(0), coords.stride(0), images, across, len(table) // images, count),
            ),
            Parameters(
                *(layers, ctypes.addressof(widths), ctypes.addressof(weights), ctypes.addressof(biases)),
                *(of_coords.data_ptr(), of_coords.stride(0)),
            ),
            Errors(
                absolute, *(address(each).value for each in (sums, of_table, of_parameters)), of_parameters.shape[1]
            ),
            torch.get_num_threads(),
        )
        ctx.gradients, ctx.number = (of_table, of_parameters), target[0].numel()
        return (sums / ctx.number).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Any, ...]:
        (of_table, of_parameters), ctx.gradients = ctx.gradients, None  # scaled in place, so they can be used only once
        scale = scale / ctx.number
        of_table.view(len(scale), -1).mul_(scale[:, None])
        of_coords, *rest = (scale @ of_parameters).split([shape.numel() for shape in ctx.shapes])
        shaped = [each.view(shape) for each, shape in zip([of_coords, *rest], ctx.shapes, strict=True)]
        return of_table, shaped[0], None, None, None, *shaped[1:]
