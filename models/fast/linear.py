"""Linear layers over rows of channels on CPUs, with gradients: 1x1 convolutions, the BatchNorm after them, MLPs.

linear.cpp contains the arithmetic. Rows (n,c) are contiguous and float32, or float16 for inference. A layer may have
several inputs. It then computes with their concatenation, which never exists in memory.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.fast.build import needed_kernels, of_type
from models.fast.pixels import address
from utils.device import empty

LINEAR_INPUTS = 8  # the length of the arrays in the struct Sources of linear_rows.h


class Sources(ctypes.Structure):
    """The inputs of a layer and the places for their gradients; linear_rows.h and linear.cpp have the same structs."""

    _fields_ = (
        ("x", ctypes.c_void_p * LINEAR_INPUTS),
        ("gradient", ctypes.c_void_p * LINEAR_INPUTS),
        ("more", ctypes.c_int * LINEAR_INPUTS),
        ("count", ctypes.c_int),
        ("ins", ctypes.c_int),
    )


class Matrix(ctypes.Structure):
    """The address and the strides of a weight (o,i)."""

    _fields_ = (("data", ctypes.c_void_p), ("out", ctypes.c_long), ("in", ctypes.c_long))


class Incoming(ctypes.Structure):
    """The gradient of a result, and the tensors that turn it into the gradient of the sums before."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("g", "mask", "z", "affine"))


class Gradient(NamedTuple):
    """The place for the gradient of an input: rows (n,c), and whether it is added to the values there."""

    rows: Tensor
    more: bool = False


def sources(inputs: Sequence[Tensor], gradients: Sequence[Gradient | None] = ()) -> Sources:
    result = Sources(count=len(inputs), ins=inputs[0].shape[1])
    for i, rows in enumerate(inputs):
        result.x[i] = address(rows).value
    for i, gradient in enumerate(gradients):
        if gradient is not None:
            result.gradient[i], result.more[i] = address(gradient.rows).value, gradient.more
    return result


def matrix(weight: Tensor) -> Matrix:
    return Matrix(weight.data_ptr(), *weight.stride()[:2])


def linear(
    inputs: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    add: Tensor | None = None,
    slope: float = 1.0,
    sums: Tensor | None = None,
) -> Tensor:
    """Inputs (n,c) side by side times weight (o,i), plus bias and `add` (n,o), then a leaky rectifier: (n,o).

    sums, if given, receives the sum of the products and of their squares, (2,o) float64.
    """
    rows, outs = len(inputs[0]), len(weight)
    result = empty((rows, outs), inputs[0].dtype)
    bias = bias if bias is None else bias.to(result.dtype)
    of_type(result.dtype, "linear")(
        *(sources(inputs), ctypes.c_long(rows), outs, matrix(weight), address(bias), address(add)),
        *(ctypes.c_float(slope), address(result), address(sums), torch.get_num_threads()),
    )
    return result


def linear_gradients(
    inputs: Sequence[Tensor],
    weight: Tensor,
    gradient: Tensor,
    to: Sequence[Gradient | None],
    *,
    rectified: bool = False,
    mask: Tensor | None = None,
    z: Tensor | None = None,
    affine: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of weight (o,i) and bias (o,) from that of the result (n,o); those of the inputs are written to `to`.

    rectified: the inputs come from a rectifier, whose derivative is included. mask (n,o): the layer's rectified result;
    its derivative is applied to `gradient` in place. z (n,o), affine (3,o): then a gradient g is affine[0] * g +
    affine[1] * z + affine[2].
    """
    rows, outs = gradient.shape
    of_weight, of_bias = torch.empty_like(weight), weight.new_empty(outs)
    needed_kernels().linear_gradients(
        *(sources(inputs, to), rectified, ctypes.c_long(rows), outs, matrix(weight)),
        Incoming(*(address(tensor).value for tensor in (gradient, mask, z, affine))),
        *(matrix(of_weight), address(of_bias), torch.get_num_threads()),
    )
    return of_weight, of_bias


class Rectified(torch.autograd.Function):
    """The layers of an MLP after the first: from the first's result (n,c), which is overwritten, to (n,o)."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, *parameters: Tensor) -> Tensor:
        layers = list(zip(parameters[::2], parameters[1::2], strict=True))
        activations = [pre.relu_()]
        for number, (weight, bias) in enumerate(layers, start=1):
            slope = 1.0 if number == len(layers) else 0.0
            activations.append(linear([activations[-1]], weight, bias, slope=slope))
        ctx.save_for_backward(*activations[:-1], *parameters)
        return activations[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        count = len(ctx.saved_tensors) // 3
        activations, weights = ctx.saved_tensors[:count], ctx.saved_tensors[count::2]
        gradient = gradient.contiguous()
        found: list[Tensor] = []
        for activation, weight in zip(reversed(activations), reversed(weights), strict=True):
            before = torch.empty_like(activation)
            found = [*linear_gradients([activation], weight, gradient, [Gradient(before)], rectified=True), *found]
            gradient = before
        return gradient, *found


class Joined(torch.autograd.Function):
    """A linear layer, weight (o,i), of the concatenation of inputs (n,c), which is not copied: (n,o)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(weight, *inputs)
        return linear(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, *inputs = ctx.saved_tensors
        to = [
            torch.empty_like(rows) if needed else None
            for rows, needed in zip(inputs, ctx.needs_input_grad[2:], strict=True)
        ]
        into = [rows if rows is None else Gradient(rows) for rows in to]
        return *linear_gradients(inputs, weight, gradient.contiguous(), into), *to


def as_image(rows: Tensor, shape: torch.Size) -> Tensor:
    """Rows (b*h*w,c) as an image (b,c,h,w), channels last, without a copy; `shape` gives the sizes except c."""
    return rows.view(shape[0], *shape[2:], rows.shape[1]).permute(0, 3, 1, 2)


def scale_and_rectify(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """relu(scale * x + shift) of rows (n,c), scale and shift (c,)."""
    result = torch.empty_like(x)
    needed_kernels().scale_and_rectify(
        *(address(x), ctypes.c_long(len(x)), x.shape[1], address(scale), address(shift), address(result)),
        torch.get_num_threads(),
    )
    return result


def rectifier_sums(gradient: Tensor, y: Tensor, z: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient g (n,c) of a rectifier's input from that of its result y; sums of g and g * (z - center), (2,c)."""
    result, sums = torch.empty_like(y), torch.empty(2, y.shape[1], dtype=torch.float64)
    needed_kernels().rectifier_sums(
        *map(address, (gradient, y, z, center)),
        *(ctypes.c_long(len(y)), y.shape[1], address(result), address(sums), torch.get_num_threads()),
    )
    return result, sums
