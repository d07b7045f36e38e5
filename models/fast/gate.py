"""The blocks of models/softgate.py on CPUs: the gate runs with the last convolution; gradients are hand-written."""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.fast.build import needed_kernels
from models.fast.winograd import channels_last, convolution_gradients, convolve, pointer
from models.softgate import LEAK


def gate_gradients(gradient: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and y from that of models.softgate.gated(x, y); images (b,c,h,w), channels last."""
    of_x, of_y = torch.empty_like(x), torch.empty_like(y)
    inputs, results = [*map(pointer, (gradient, x, y))], [*map(pointer, (of_x, of_y))]
    needed_kernels().gate_gradients(*inputs, ctypes.c_long(x.numel()), *results, torch.get_num_threads())
    return of_x, of_y


class Gated(torch.autograd.Function):
    """A block: x (b,c,h,w), then weight and bias of each of its convolutions -> (b,c,h,w)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        x = channels_last(x)
        weights, biases = parameters[::2], parameters[1::2]
        inputs = [x]  # the input of each convolution
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            inputs.append(convolve(inputs[-1], weight, bias=bias, slope=LEAK))
        y = None if torch.is_inference_mode_enabled() else torch.empty_like(x)
        result = convolve(inputs[-1], weights[-1], bias=biases[-1], gate=x, kept=y)
        if y is not None:
            ctx.save_for_backward(y, *weights, *inputs)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        y, *saved = ctx.saved_tensors
        count = len(saved) // 2
        weights, inputs = saved[:count], saved[count:]
        of_x, gradient = gate_gradients(channels_last(gradient), inputs[0], y)
        found: list[Tensor] = []
        for i in reversed(range(count)):
            into: dict[str, Any] = {"slope": LEAK} if i else {"add": of_x}
            gradient, *of_layer = convolution_gradients(inputs[i], gradient, weights[i], **into)
            found = [*of_layer, *found]
        return gradient, *found
