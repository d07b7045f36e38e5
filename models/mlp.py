"""The per-pixel MLP of the upsamplers and the classifier, with its first Linear factorised.

The paper runs an MLP on [feat, rel_coord, rel_cell] of every HR pixel. All three parts of its first Linear are
separable; with f the features, r the offset and c the cell,
    W1 [f; r; c] + b = (W1f f + b)[nearest LR pixel] + W1y r_y + (W1x r_x + W1c c).
The feature part is computed once per LR pixel, the rest once per row and column. This is exact for every scale.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.grid import Grid

COORD_CHANNELS = 4  # rel_coord (y, x) and rel_cell (y, x), after the features


class PixelMLP(nn.Module):
    """Linear and ReLU per hidden width, then a Linear to `out_channels`; no hidden width means a single Linear."""

    def __init__(self, in_channels: int, hidden: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        widths = (in_channels + COORD_CHANNELS, *hidden)
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            # the ReLUs are never called; they keep the layer numbers of the published checkpoints
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU(inplace=True)]
        layers.append(nn.Linear(widths[-1], out_channels))
        self.layers = nn.Sequential(*layers)
        self.in_channels = in_channels
        self.out_channels = out_channels

    def linears(self) -> list[nn.Linear]:
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def forward(self, feat: Tensor, grid: Grid) -> Tensor:
        """The MLP at every HR pixel: feat (b,c,h,w) -> (b,H,W,out_channels)."""
        batch, _, h, w = feat.shape
        table = self.project(rows_of(feat)).view(batch, h, w, -1)
        nearest = table.index_select(1, grid.rows.index).index_select(2, grid.cols.index)  # (b,H,W,C)
        down, across = self.coordinate_terms(grid)
        return self.finish(nearest + down[:, None] + across)

    def at_pixels(self, feat: Tensor, grid: Grid, where: Tensor) -> Tensor:
        """The MLP at the n HR pixels `where` (n,), which are indices into the flattened (b,H,W) -> (n,out_channels)."""
        (rows, cols), (_, _, h, w) = grid, feat.shape
        line, x = divided(where, cols.index.shape[0])
        image, y = divided(line, rows.index.shape[0])
        nearest = (image * h + rows.index[y]) * w + cols.index[x]
        down, across = self.coordinate_terms(grid)
        return self.finish(self.project(rows_of(feat)).index_select(0, nearest) + down[y] + across[x])

    def project(self, feat: Tensor) -> Tensor:
        """The feature part of the first Linear, with its bias: a row per LR pixel, (n,c) -> (n,C)."""
        first = self.linears()[0]
        return F.linear(feat, first.weight[:, : self.in_channels], first.bias)

    def coordinate_terms(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """The other parts of the first Linear: for every HR row (H,C), and for every HR column and the cell (W,C)."""
        first = self.linears()[0]
        y, x, cell_y, cell_x = first.weight[:, self.in_channels :].unbind(1)  # (C,) each
        constant = cell_y * grid.rows.cell + cell_x * grid.cols.cell
        down = grid.rows.offset[:, None] * y
        across = grid.cols.offset[:, None] * x + constant
        return down.to(first.weight.dtype), across.to(first.weight.dtype)

    def at(self, table: Tensor, nearest: Tensor, coords: Tensor) -> Tensor:
        """The MLP at n HR pixels that read the rows `nearest` (n,) of a table; coords (n,4) -> (n,out_channels)."""
        gathered = table.index_select(0, nearest)  # its backward is several times as fast as that of table[nearest]
        return self.finish(torch.addmm(gathered, coords, self.linears()[0].weight[:, self.in_channels :].t()))

    def finish(self, pre: Tensor) -> Tensor:
        """The layers after the first Linear: (...,C) -> (...,out_channels). Overwrites `pre`.

        On CPUs a Linear runs as a 1x1 convolution over an image of one row, which is up to 2.6 times as fast (oneDNN
        instead of the BLAS). A trace, as for ONNX, keeps the matrix products.
        """
        rest = self.linears()[1:]
        if pre.device.type != "cpu" or torch._C._get_tracing_state() is not None or pre.numel() == 0:
            for layer in rest:
                pre = layer(pre.relu_())
            return pre
        image = pre.reshape(1, 1, -1, pre.shape[-1]).permute(0, 3, 1, 2)  # (1,C,1,n), channels-last
        for layer in rest:
            image = F.conv2d(image.relu_(), layer.weight[:, :, None, None], layer.bias)
        return image.permute(0, 2, 3, 1).reshape(*pre.shape[:-1], -1)


def rows_of(feat: Tensor) -> Tensor:
    """feat (b,c,h,w) with a row per LR pixel, (b*h*w,c); no copy if feat is channels-last."""
    return feat.permute(0, 2, 3, 1).reshape(-1, feat.shape[1])


def divided(index: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Quotient and remainder of non-negative indices (n,), in operations that ONNX has."""
    quotient = torch.div(index, length, rounding_mode="trunc")
    return quotient, index - quotient * length
