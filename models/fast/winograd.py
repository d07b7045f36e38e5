"""3x3 convolutions on CPUs and their gradients, by Winograd's algorithm (Lavin and Gray, CVPR 2016, arXiv 1509.09308).

For tiles of 4x4 pixels it needs a quarter of the multiplications of the plain formula. winograd.cpp contains the
arithmetic. It agrees with torch except for rounding.
"""

import ctypes
from typing import TypeVar

import torch
from torch import Tensor

from models.fast.build import needed_kernels, of_type
from utils.device import room


class ImageSize(ctypes.Structure):
    """The sizes of an image; winograd_tiles.h has the same structs and calls this one Image."""

    _fields_ = tuple((name, ctypes.c_int) for name in ("batch", "h", "w"))


class Weights(ctypes.Structure):
    """The address and the strides of a weight (o,i,3,3); turned: for the convolution of the gradient."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_long) for name in ("out", "in", "row", "col")),
        ("turned", ctypes.c_int),
    )


class Epilogue(ctypes.Structure):
    """The operations on every sum of the convolution."""

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

    All have the type of x, which is float32, or float16 for inference; only weight is always float32.

    turned: computes the gradient of a convolution's input; x is then the gradient of its result. mask: instead of the
    rectifier, multiply by the derivative of the rectifier at mask. gate: instead of the rectifier, compute
    models.softgate.gated(gate, sums). kept, channels last, receives the sums before these operations.
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
