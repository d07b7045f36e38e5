"""3x3 convolutions on CPUs and their gradients, by Winograd's algorithm (Lavin and Gray, CVPR 2016, arXiv 1509.09308).

For tiles of 4x4 pixels it needs a quarter of the multiplications of the plain formula. winograd.cpp contains the
arithmetic. It agrees with torch except for rounding.
"""

import ctypes
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from models.fast.build import needed_kernels, of_type
from utils.device import empty


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
    """The address of an image that lies channels last, or of a vector; null for None."""
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def convolve(
    x: Tensor,
    weight: Tensor,
    groups: int = 1,
    bias: Tensor | None = None,
    *,
    add: Tensor | None = None,
    slope: float = 1.0,
    gate: Tensor | None = None,
    kept: Tensor | None = None,
) -> Tensor:
    """Convolution of x (b,c,h,w) with weight (o,c/groups,3,3), plus bias and `add`, then a leaky rectifier: (b,o,h,w).

    All have the type of x, which is float32, or float16 for inference; only weight is always float32.

    gate: instead of the rectifier, compute models.softgate.gated(gate, sums). kept, channels last, receives the sums
    before these operations.
    """
    batch, _, h, w = x.shape
    outs, ins = weight.shape[:2]
    result = empty((batch, outs, h, w), x.dtype, torch.channels_last)
    bias = bias if bias is None else bias.to(x.dtype)
    x, add, gate = channels_last(x), channels_last(add), channels_last(gate)
    of_type(x.dtype, "winograd")(
        *(pointer(x), ImageSize(batch, h, w), groups, ins, outs // groups),
        Weights(weight.data_ptr(), *weight.stride(), False),
        Epilogue(pointer(bias), pointer(add), pointer(None), slope, pointer(gate), pointer(kept)),
        pointer(result),
        torch.get_num_threads(),
    )
    return result


class ConvolutionGradients(NamedTuple):
    """Of a convolution's input (b,c,h,w), channels last, or empty if it was not asked for; of its weight and bias."""

    x: Tensor
    weight: Tensor
    bias: Tensor


def convolution_gradients(
    x: Tensor,
    gradient: Tensor,
    weight: Tensor,
    groups: int = 1,
    *,
    needs_x: bool = True,
    slope: float = 1.0,
    add: Tensor | None = None,
) -> ConvolutionGradients:
    """From x (b,c,h,w) and the gradient of its convolution with weight (o,c/groups,3,3), which is (b,o,h,w).

    slope: x comes from a leaky rectifier of this slope, whose derivative is included. add: to the gradient of x.
    """
    batch, channels, h, w = x.shape
    of_weight, of_bias = torch.empty_like(weight), weight.new_empty(len(weight))
    x, gradient, add = channels_last(x), channels_last(gradient), channels_last(add)
    of_x = torch.empty_like(x) if needs_x else x.new_empty(0)
    needed_kernels().winograd_gradients(
        *(pointer(x), pointer(gradient), ImageSize(batch, h, w), groups, channels // groups, len(weight) // groups),
        Weights(weight.data_ptr(), *weight.stride(), True),
        Epilogue(pointer(None), pointer(add), pointer(None if slope == 1 else x), slope, pointer(None), pointer(None)),
        pointer(of_x if needs_x else None),
        Weights(of_weight.data_ptr(), *of_weight.stride(), True),
        *(pointer(of_bias), torch.get_num_threads()),
    )
    return ConvolutionGradients(of_x, of_weight, of_bias)
