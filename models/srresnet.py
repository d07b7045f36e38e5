"""SRResNet without BatchNorm (MSRResNet; Ledig et al., CVPR 2017, arXiv 1609.04802). No long skip in the trunk."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import conv3x3, shuffle_factors

BLOCKS = 16
SLOPE = 0.1  # of the LeakyReLUs below zero
INIT_SCALE = 0.1  # small residual branches at the start keep 16 blocks without BatchNorm stable


def initialise(network: nn.Module) -> None:
    """Kaiming-normal weights scaled by INIT_SCALE, zero biases."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            assert layer.bias is not None
            with torch.no_grad():
                layer.weight *= INIT_SCALE
                layer.bias.zero_()


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(width, width)
        self.conv2 = conv3x3(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.conv1(x)))


class SRResNetEncoder(nn.Module):
    """lr (b,3,h,w) -> feat (b,width,h,w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.entry = conv3x3(3, width)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(BLOCKS)))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(F.leaky_relu(self.entry(x), SLOPE))


class SRResNetTail(nn.Module):
    """feat (b,width,h,w) -> (b,3,h*scale,w*scale), to which the backbone adds bilinear(lr)."""

    def __init__(self, width: int, scale: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for factor in shuffle_factors(scale):
            layers += [conv3x3(width, factor**2 * width), nn.PixelShuffle(factor), nn.LeakyReLU(SLOPE, inplace=True)]
        self.shuffle = nn.Sequential(*layers)
        self.last = conv3x3(width, width)
        self.exit = conv3x3(width, 3)
        initialise(self)

    def forward(self, feat: Tensor) -> Tensor:
        return self.exit(F.leaky_relu(self.last(self.shuffle(feat)), SLOPE))
