"""CARN-M: cascading residual network (Ahn et al., ECCV 2018, arXiv 1803.08664), the mobile variant.

Inside a cascading block one residual unit is used three times (shared weights); its 3x3 convolutions are grouped.
"""

import torch
from torch import Tensor, nn

from models.blocks import conv3x3, shuffle_factors

GROUPS = 4


class ResidualUnit(nn.Module):
    """Two grouped 3x3 and a 1x1 convolution around an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv3x3(width, width, GROUPS),
            nn.ReLU(inplace=True),
            conv3x3(width, width, GROUPS),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + x)


def fusions(width: int) -> nn.ModuleList:
    """The three 1x1 fusions of the running concatenation: 2, 3 and 4 times `width` channels -> `width`."""
    return nn.ModuleList(
        nn.Sequential(nn.Conv2d(n * width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        for n in (2, 3, 4)
    )


def cascade(x: Tensor, steps: list[nn.Module], fuse: nn.ModuleList) -> Tensor:
    """The cascading pattern: each step takes the result of the last fusion; each fusion takes all results so far."""
    seen, out = x, x
    for step, fusion in zip(steps, fuse, strict=True):
        seen = torch.cat([seen, step(out)], dim=1)
        out = fusion(seen)
    return out


class CascadingBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.unit = ResidualUnit(width)
        self.fuse = fusions(width)

    def forward(self, x: Tensor) -> Tensor:
        return cascade(x, [self.unit] * 3, self.fuse)


class CARNEncoder(nn.Module):
    """lr (b,3,h,w), mean subtracted -> feat (b,width,h,w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.entry = conv3x3(3, width)
        self.blocks = nn.ModuleList(CascadingBlock(width) for _ in range(3))
        self.fuse = fusions(width)

    def forward(self, x: Tensor) -> Tensor:
        return cascade(self.entry(x), list(self.blocks), self.fuse)


class CARNTail(nn.Module):
    """feat (b,width,h,w) -> (b,3,h*scale,w*scale)."""

    def __init__(self, width: int, scale: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for factor in shuffle_factors(scale):
            layers += [conv3x3(width, factor**2 * width, GROUPS), nn.ReLU(inplace=True), nn.PixelShuffle(factor)]
        self.shuffle = nn.Sequential(*layers)
        self.exit = conv3x3(width, 3)

    def forward(self, feat: Tensor) -> Tensor:
        return self.exit(self.shuffle(feat))
