"""The training step of the backbones, faster on CPUs: their convolutions and what surrounds them as compiled code.

`accelerate` gives the blocks of a network a forward of their own, for float32 in training mode, with gradients written
by hand. Parameters, buffers and their names stay what they are, and in eval mode so does the arithmetic.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.carn import CARNEncoder, CascadingBlock
from models.fast.build import load_kernels
from models.fast.cascade import Fusion, cascading_block, usual
from models.fast.linear import Rectified
from models.fast.winograd import convolve, weight_gradients
from models.mlp import PixelMLP
from models.srresnet import SLOPE, ResidualBlock, SRResNetTail


def accelerate(network: nn.Module) -> None:
    """Let a network's blocks take the fast forward from now on. Does nothing where the kernels cannot be built."""
    if load_kernels() is None:
        return
    for part in network.modules():
        part.__class__ = FASTER.get(type(part), type(part))


def applies(part: nn.Module, x: Tensor) -> bool:
    """Whether the fast forward is for this input: training, in float32, on a CPU."""
    if not part.training:  # asked first: in eval mode modules are also traced, with stand-ins for tensors
        return False
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


class Convolution(torch.autograd.Function):
    """A 3x3 convolution, one group, stride 1, padding 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return convolve(x, weight, bias=bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return convolve(gradient, weight, turned=True), *weight_gradients(x, gradient, weight)


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
        of_inner = convolve(gradient, weight2, turned=True, mask=inner, slope=0.0)
        of_x = convolve(of_inner, weight1, turned=True, add=gradient)
        return of_x, *weight_gradients(x, of_inner, weight1), *weight_gradients(inner, gradient, weight2)


class FastResidualBlock(ResidualBlock):
    def forward(self, x: Tensor) -> Tensor:
        if not applies(self, x):
            return super().forward(x)
        return Residual.apply(x, self.conv1.weight, self.conv1.bias, self.conv2.weight, self.conv2.bias)


class FastTail(SRResNetTail):
    def forward(self, feat: Tensor) -> Tensor:
        if not applies(self, feat):
            return super().forward(feat)
        for layer in self.shuffle:
            feat = Convolution.apply(feat, layer.weight, layer.bias) if isinstance(layer, nn.Conv2d) else layer(feat)
        last = Convolution.apply(feat, self.last.weight, self.last.bias)
        return self.exit(F.leaky_relu(last, SLOPE))


class FastCascadingBlock(CascadingBlock):
    def forward(self, x: Tensor) -> Tensor:
        if not (applies(self, x) and all(map(usual, self.fuse))):
            return super().forward(x)
        return cascading_block(self, x)


class FastCARNEncoder(CARNEncoder):
    def forward(self, x: Tensor) -> Tensor:
        if not (applies(self, x) and all(map(usual, self.fuse))):
            return super().forward(x)
        seen = [self.entry(x)]
        out = seen[0]
        for block, fusion in zip(self.blocks, self.fuse, strict=True):
            seen.append(block(out))
            out = Fusion.apply(fusion[1], *fusion.parameters(), *seen)  # type: ignore[index]
        return out


class FastMLP(PixelMLP):
    def finish(self, pre: Tensor) -> Tensor:
        rest = self.linears()[1:]
        if not (rest and pre.numel() and applies(self, pre)):
            return super().finish(pre)
        rows = Rectified.apply(pre.flatten(0, -2), *(tensor for layer in rest for tensor in (layer.weight, layer.bias)))
        return rows.view(*pre.shape[:-1], -1)


FASTER: dict[type[nn.Module], type[nn.Module]] = {
    CARNEncoder: FastCARNEncoder,
    CascadingBlock: FastCascadingBlock,
    ResidualBlock: FastResidualBlock,
    SRResNetTail: FastTail,
    PixelMLP: FastMLP,
}
