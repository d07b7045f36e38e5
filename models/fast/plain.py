"""The per-pixel MLP of the engine in plain torch, for devices and dtypes without a compiled kernel."""

import torch
from torch import Tensor

from models.grid import Grid
from models.mlp import PixelMLP, rows_of
from utils.patches import bands

BAND_PIXELS = 1 << 16  # HR pixels of a band: limits the memory, and keeps the activations near the cache


class TorchRunner:
    """One PixelMLP, see models.fast.engine.MLPRunner."""

    def __init__(self, mlp: PixelMLP) -> None:
        self.mlp, self.table_channels = mlp, mlp.linears()[0].out_features
        self.finish = finish_half if mlp.linears()[0].weight.dtype == torch.float16 else PixelMLP.finish

    def table(self, feat: Tensor) -> Tensor:
        return self.mlp.project(rows_of(feat)).view(len(feat), feat.shape[2] * feat.shape[3], -1)

    def add_to(self, planes: Tensor, table: Tensor, grid: Grid, w: int, assignment: Tensor | None, own: int) -> None:
        rows, cols = grid
        down, across = self.mlp.coordinate_terms(grid)
        height, width = planes.shape[1:]
        for band in bands(height, max(1, BAND_PIXELS // width)):
            nearest = (rows.index[band, None] * w + cols.index).flatten()
            pre = (down[band, None] + across).flatten(0, 1)  # (R*W,C)
            if assignment is None:
                made = self.finish(self.mlp, pre + table[nearest])  # (R*W,n)
                planes[:, band] += made.t().view(-1, band.stop - band.start, width)
                continue
            where = (assignment[band].flatten() == own).nonzero()[:, 0]  # waits for the device
            flat = planes[:, band].reshape(len(planes), -1)
            flat[:, where] += self.finish(self.mlp, pre[where] + table[nearest[where]]).t()
            planes[:, band] = flat.view(-1, band.stop - band.start, width)


def finish_half(mlp: PixelMLP, pre: Tensor) -> Tensor:
    """As PixelMLP.finish in float16. What exceeds its range becomes no number, which GuardedRunner looks for."""
    for layer in mlp.linears()[1:]:
        pre = layer(pre.relu() + pre * 0)
    return pre
