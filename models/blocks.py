"""Layers that the backbones share."""

from torch import nn


def conv3x3(in_channels: int, out_channels: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, groups=groups)


def shuffle_factors(scale: int) -> list[int]:
    """The factors of the pixel-shuffle steps for a scale: x4 is twice x2."""
    factors = {2: [2], 3: [3], 4: [2, 2]}.get(scale)
    if factors is None:
        raise ValueError(f"a pixel-shuffle tail exists for x2, x3 and x4, not for x{scale}")
    return factors
