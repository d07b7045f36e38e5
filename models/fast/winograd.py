"""3x3 convolutions on CPUs and their gradients, by Winograd's algorithm (Lavin and Gray, CVPR 2016, arXiv 1509.09308).

A quarter of the multiplications of the plain formula, for tiles of 4x4 pixels; winograd.cpp has the arithmetic. It
agrees with torch but for rounding.
"""

import ctypes
from typing import TypeVar

import torch
from torch import Tensor

from models.fast.build import needed_kernels, of_type
from utils.device import room


class ImageSize(ctypes.Structure):
    """The sizes of an image; the structs are those of winograd_tiles.h, where this is Image."""

    _fields_ = tuple((name, ctypes.c_int) for name in ("batch", "h", "w"))


class Weights(ctypes.Structure):
    """A weight (o,i,3,3) where it lies in memory; turned: the convolution of the gradient."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_long) for name in ("out", "in", "row", "col")),
        ("turned", ctypes.c_int),
    )


class Epilogue(ctypes.Structure):
    """What is done with every sum."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("bias", "add", "mask")),
        ("slope", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("gate", "kept")),
    )


Maybe = TypeVar("Maybe", Tensor, Tensor | None)


def channels_last(x: Maybe) -> Maybe:
    return x if x is None else x.contiguous(memory_format=torch.channels_last)


def pointer(x: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def convolve(
    x: Tensor,
    weight: Tensor,
    groups: int = 1,
    bias: Tensor | None = None,
    *,
    turned: bool = False,
    add: Tensor | None = None,
    mask: Tensor | None = None,
    slope: float = 1.0,
    gate: Tensor | None = None,
    kept: Tensor | None = None,
) -> Tensor:
    """Convolution of x (b,c,h,w) with weight (o,c/groups,3,3), plus bias and `add`, then a leaky rectifier: (b,o,h,w).

    All have the type of x, float32 or, for inference, float16; but weight is float32.

    turned: the gradient of x from that of the result, x here. mask: the rectifier's derivative there instead of it.
    gate: models.softgate.gated(gate, sums) instead. kept, channels last: gets the sums, before what follows them.
    """
    batch, _, h, w = x.shape
    per_group = weight.shape[0] // groups, weight.shape[1]
    outs, ins = per_group[::-1] if turned else per_group
    result = room((batch, outs * groups, h, w), x.dtype, torch.channels_last)
    bias = bias if bias is None else bias.to(x.dtype)
    x, add, mask, gate = channels_last(x), channels_last(add), channels_last(mask), channels_last(gate)
    of_type(x.dtype, "winograd")(
        *(pointer(x), ImageSize(batch, h, w), groups, ins, outs),
        Weights(weight.data_ptr(), *weight.stride(), turned),
        Epilogue(pointer(bias), pointer(add), pointer(mask), slope, pointer(gate), pointer(kept)),
        pointer(result),
        torch.get_num_threads(),
    )
    return result


def weight_gradients(x: Tensor, gradient: Tensor, weight: Tensor, groups: int = 1) -> tuple[Tensor, Tensor]:
    """Gradients of weight (o,c/groups,3,3) and bias (o,), from x (b,c,h,w) and that of the result (b,o,h,w)."""
    batch, _, h, w = x.shape
    result, bias = torch.empty_like(weight), weight.new_empty(len(weight))
    x, gradient = channels_last(x), channels_last(gradient)
    needed_kernels().winograd_weights(
        *(pointer(x), pointer(gradient), ImageSize(batch, h, w), groups, weight.shape[1], len(weight) // groups),
        Weights(result.data_ptr(), *result.stride(), False),
        pointer(bias),
        torch.get_num_threads(),
    )
    return result, bias
