"""The original model: an encoder and a tail, around the mean of the data."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.flops import network_flops
from models.grid import bilinear, grid_over
from models.halo import find_halo
from models.tile import Halo


class OriginalModel(nn.Module):
    """A full SR network, the "original model": lr (b,3,h,w) in [0,1] -> sr (b,3,h*scale,w*scale), unclamped."""

    mean: Tensor

    def __init__(
        self, encoder: nn.Module, tail: nn.Module, scale: int, mean: Sequence[float], residual: bool = False
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.tail = tail
        self.scale = scale
        self.residual = residual
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(3, 1, 1))
        self.flops_per_lr = network_flops(self)  # here, so that a layer that cannot be counted raises before training

    def forward(self, lr: Tensor) -> Tensor:
        sr = self.tail(self.encoder(lr - self.mean)) + self.mean
        if self.residual:
            sr = sr + bilinear(lr, grid_over(lr, (lr.shape[2] * self.scale, lr.shape[3] * self.scale)))
        return sr

    @functools.cached_property
    def halo(self) -> Halo | None:
        """The pixels that the model must see around a tile; None: the whole image."""
        return find_halo(self)
