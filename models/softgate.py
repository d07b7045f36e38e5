"""Softgate: dense 3x3 convolutions in residual blocks that end in a gate without parameters.

The encoder suits vector and matrix units: it has no groups, no 1x1 convolutions inside the blocks, and activations
that take almost no time. The trunk and the idea of a gate without parameters come from SPAN (Wan et al., CVPR workshops
2024, arXiv 2311.12770). Two things differ: the activation is a leaky ReLU instead of SiLU, and the gate is softsign
instead of sigmoid minus one half. With these, training reaches a higher PSNR in equal time (docs/experiments.md).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.blocks import conv3x3

CONVOLUTIONS = 3  # per block
LEAK = 0.1  # slope of the leaky ReLUs below zero


def gated(x: Tensor, y: Tensor) -> Tensor:
    """(x + y) * y / (1 + |y|) / 2: the sum of a block's input and result, gated by the size of the result."""
    return (x + y) * nn.functional.softsign(y) / 2


class GatedBlock(nn.Module):
    """Three 3x3 convolutions with leaky ReLUs between them, and the gate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv3x3(width, width) for _ in range(CONVOLUTIONS))

    def forward(self, x: Tensor) -> Tensor:
        first, *later = self.convs
        y = first(x)
        for conv in later:
            y = conv(nn.functional.leaky_relu(y, LEAK))
        return gated(x, y)


class SoftgateEncoder(nn.Module):
    """lr (b,3,h,w), mean subtracted -> feat (b,width,h,w)."""

    def __init__(self, width: int, depth: int = 4) -> None:
        super().__init__()
        self.entry = conv3x3(3, width)
        self.blocks = nn.ModuleList(GatedBlock(width) for _ in range(depth))
        self.last = conv3x3(width, width)
        self.fuse = nn.Conv2d(4 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = [self.entry(x)]
        for block in self.blocks:
            seen.append(block(seen[-1]))
        return self.fused([seen[0], self.last(seen[-1]), seen[1], seen[-2]])

    def fused(self, seen: Sequence[Tensor]) -> Tensor:
        """Four images (b,width,h,w) -> feat (b,width,h,w)."""
        return self.fuse(torch.cat(list(seen), dim=1))


class SoftgateTail(nn.Module):
    """feat (b,width,h,w) -> (b,3,h*scale,w*scale), to which the backbone adds bilinear(lr)."""

    def __init__(self, width: int, scale: int) -> None:
        super().__init__()
        self.exit = conv3x3(width, 3 * scale**2)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, feat: Tensor) -> Tensor:
        return self.shuffle(self.exit(feat))
