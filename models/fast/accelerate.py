"""Makes networks faster on CPUs: convolutions and the layers around them run as compiled code.

`accelerate` gives the blocks of a network another forward by changing their class (FASTER). Parameters, buffers and
their names stay the same. Other networks benefit as well, because every plain 3x3 convolution is replaced. The forward
that runs depends on the mode and on the input:

  on a CPU, no autocast, training mode, float32                             compiled code, hand-written gradients
  on a CPU, no autocast, torch.inference_mode(), float32, or float16 where
  the processor computes in it                                              compiled code, no gradients
  everything else, for example eval mode with torch.no_grad()               the usual forward, in torch
Weights are in float32 throughout.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.carn import CARNEncoder, CascadingBlock, ResidualUnit
from models.fast.build import has_half, load_kernels
from models.fast.cascade import Fusion, cascade_folded, cascading_block, is_folded, run_unit, usual
from models.fast.gate import Gated
from models.fast.linear import Joined, Rectified, as_image
from models.fast.unit import units_folded
from models.fast.winograd import channels_last, convolution_gradients, convolve
from models.mlp import PixelMLP, rows_of
from models.softgate import GatedBlock, SoftgateEncoder
from models.srresnet import ResidualBlock, SRResNetEncoder


def accelerate(network: nn.Module) -> None:
    """Give the blocks of a network the fast forward. Does nothing where the kernels cannot be built."""
    if load_kernels() is None:
        return
    for part in network.modules():
        part.__class__ = FASTER.get(type(part), type(part))


def fast(x: Tensor, *dtypes: torch.dtype) -> bool:
    """Whether the kernels accept this input: on a CPU, of one of these types, without autocast."""
    return x.device.type == "cpu" and x.dtype in dtypes and not torch.is_autocast_enabled("cpu")


def readable(part: nn.Module) -> bool:
    """Whether the kernels accept the weights."""
    return next(part.parameters()).dtype == torch.float32


def trains(part: nn.Module, x: Tensor) -> bool:
    """Whether the fast forward of training is used for this input."""
    return part.training and readable(part) and fast(x, torch.float32)


def infers(part: nn.Module, x: Tensor) -> bool:
    """Whether the fast forward of inference, which has no gradients, is used for this input."""
    dtypes = [torch.float32, torch.float16] if has_half() else [torch.float32]
    return torch.is_inference_mode_enabled() and readable(part) and fast(x, *dtypes)


def knows_half(encoder: nn.Module) -> bool:
    """Whether the kernels compute all layers of this accelerated encoder. Then they compute them in float16 too."""
    return type(encoder) in (FastCARNEncoder, SRResNetEncoder, FastSoftgateEncoder)


def fits_winograd(layer: nn.Conv2d) -> bool:
    """Whether winograd.cpp computes this convolution."""
    shape = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    return shape == ((3, 3), (1, 1), (1, 1), (1, 1)) and layer.padding_mode == "zeros"


class Convolution(torch.autograd.Function):
    """A 3x3 convolution of stride 1 and padding 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.groups, ctx.has_bias = groups, bias is not None
        return convolve(x, weight, groups, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x = ctx.needs_input_grad[0]
        found = convolution_gradients(x, gradient, weight, ctx.groups, needs_x=needs_x)
        return found.x if needs_x else None, None, found.weight, found.bias if ctx.has_bias else None


class FastConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        if fits_winograd(self) and (trains(self, x) or infers(self, x)):
            return Convolution.apply(x, self.groups, self.weight, self.bias)
        return super().forward(x)


class Residual(torch.autograd.Function):
    """x + conv2(relu(conv1(x))), x (b,c,h,w)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
        inner = convolve(x, weight1, bias=bias1, slope=0.0)
        ctx.save_for_backward(x, inner, weight1, weight2)
        return convolve(inner, weight2, bias=bias2, add=x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        x, inner, weight1, weight2 = ctx.saved_tensors
        of_inner, *found2 = convolution_gradients(inner, gradient, weight2, slope=0.0)
        of_x, *found1 = convolution_gradients(x, of_inner, weight1, add=gradient)
        return of_x, *found1, *found2


class FastResidualBlock(ResidualBlock):
    def forward(self, x: Tensor) -> Tensor:
        if trains(self, x) or infers(self, x):
            return Residual.apply(x, self.conv1.weight, self.conv1.bias, self.conv2.weight, self.conv2.bias)
        return super().forward(x)


class FastResidualUnit(ResidualUnit):
    def forward(self, x: Tensor) -> Tensor:
        if infers(self, x):  # in training, FastCascadingBlock computes it
            return run_unit(channels_last(x), list(self.parameters())).out
        return super().forward(x)


class FastCascadingBlock(CascadingBlock):
    def forward(self, x: Tensor) -> Tensor:
        if infers(self, x) and is_folded(self.fuse):
            return units_folded(x, self.unit, self.fuse)
        if trains(self, x) and all(map(usual, self.fuse)):
            return cascading_block(self, x)
        return super().forward(x)


class FastCARNEncoder(CARNEncoder):
    def forward(self, x: Tensor) -> Tensor:
        if infers(self, x) and is_folded(self.fuse):
            return cascade_folded(self.entry(x), self.blocks, self.fuse)
        if not (trains(self, x) and all(map(usual, self.fuse))):
            return super().forward(x)
        seen = [self.entry(x)]
        out = seen[0]
        for block, fusion in zip(self.blocks, self.fuse, strict=True):
            seen.append(block(out))
            out = Fusion.apply(fusion[1], *fusion.parameters(), *seen)  # type: ignore[index]
        return out


class FastGatedBlock(GatedBlock):
    def forward(self, x: Tensor) -> Tensor:
        if trains(self, x) or infers(self, x):
            return Gated.apply(x, *self.parameters())
        return super().forward(x)


class FastSoftgateEncoder(SoftgateEncoder):
    def fused(self, seen: Sequence[Tensor]) -> Tensor:
        if trains(self, seen[0]) or infers(self, seen[0]):
            images = map(channels_last, seen)
            rows = Joined.apply(self.fuse.weight.flatten(1), self.fuse.bias, *map(rows_of, images))
            return as_image(rows, seen[0].shape)
        return super().fused(seen)


class FastMLP(PixelMLP):
    def trains_from(self, pre: Tensor) -> bool:
        """Whether the kernels compute the layers after the first in training, with gradients, from this input."""
        return bool(self.linears()[1:] and pre.numel() and trains(self, pre))

    def project(self, feat: Tensor) -> Tensor:
        if not trains(self, feat):
            return super().project(feat)
        first = self.linears()[0]
        table: Tensor = Joined.apply(first.weight[:, : self.in_channels], first.bias, feat.contiguous())
        return table

    def finish(self, pre: Tensor) -> Tensor:
        if not self.trains_from(pre):
            return super().finish(pre)
        rest = self.linears()[1:]
        rows = Rectified.apply(pre.flatten(0, -2), *(tensor for layer in rest for tensor in (layer.weight, layer.bias)))
        return rows.view(*pre.shape[:-1], -1)


FASTER: dict[type[nn.Module], type[nn.Module]] = {
    CARNEncoder: FastCARNEncoder,
    CascadingBlock: FastCascadingBlock,
    ResidualUnit: FastResidualUnit,
    ResidualBlock: FastResidualBlock,
    SoftgateEncoder: FastSoftgateEncoder,
    GatedBlock: FastGatedBlock,
    nn.Conv2d: FastConv,
    PixelMLP: FastMLP,
}
