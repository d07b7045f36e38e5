"""A PCSR model as one graph of tensor operations, to be traced for other runtimes.

The numbers are those of models/pcsr.py. What differs: sizes are tensors, so that a trace holds for images of all sizes,
k is an input, nothing depends on a number in Python, and the image is worked through in one go.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.onnx.operators import shape_as_tensor

from models.blocks import Backbone
from models.decide import LARGE, priced, rates
from models.fast.engine import differences
from models.fast.fold import folded
from models.grid import between, nearest
from models.mlp import PixelMLP
from models.pcsr import PCSR, rows_of


@dataclass(frozen=True)
class Line:
    """One axis of the HR grid over the LR grid."""

    n: Tensor  # int64, LR pixels
    size: Tensor  # int64, HR pixels
    position: Tensor  # (size,) int64, 0 .. size-1
    centre: Tensor  # (size,) int64, see models/grid.py
    index: Tensor  # (size,) int64, the nearest LR pixel
    offset: Tensor  # (size,) float32, from it
    cell: Tensor  # float32

    def inside(self) -> Tensor:
        """Which positions are not at the border, (size,)."""
        return (self.position > 0) & (self.position < self.size - 1)


def line(n: Tensor, scale: float) -> Line:
    size = (n.double() * scale).round().long()
    position = torch.arange(size)  # type: ignore[call-overload]  # it takes tensors, its types do not say so
    centre = (2 * position + 1) * n
    return Line(n, size, position, centre, *nearest(centre, size), (2.0 / size.double() * n).float())


class OriginalGraph(nn.Module):
    """lr (1,3,h,w) in [0,1] -> sr (1,3,H,W), clamped to [0,1]."""

    def __init__(self, model: Backbone) -> None:
        super().__init__()
        self.model = folded(model)

    def forward(self, lr: Tensor) -> Tensor:
        return self.model(lr).clamp(0, 1)


class PCSRGraph(nn.Module):
    """lr (1,3,h,w) in [0,1] and a scalar k -> sr (1,3,H,W), clamped to [0,1], and assignment (1,H,W) uint8.

    Each upsampler runs on the pixels assigned to it. A k beyond +-1e30, infinity too, counts as that. A model of phase
    0 takes no k and returns sr alone.
    """

    def __init__(self, model: PCSR, scale: float, refinement: bool) -> None:
        super().__init__()
        self.model = cast(PCSR, folded(model))
        if self.model.classifier is not None:
            self.model.classifier = differences(self.model.mlps()[-1])
        self.scale, self.refinement = scale, refinement
        self.rates = rates(model.account().cost(scale))

    def forward(self, lr: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor] | Tensor:
        rows, cols = (line(n, self.scale) for n in shape_as_tensor(lr)[2:].unbind())
        feat = rows_of(self.model.encoder(lr - self.model.mean))  # (h*w,c)
        if k is None:
            sr = image(dense(self.model.mlps()[0], feat, rows, cols), rows, cols) + residual(lr, rows, cols)
            return sr.clamp(0, 1)
        chosen = self.assign(feat, rows, cols, k)  # (H*W,)
        sr = image(self.values(feat, rows, cols, chosen), rows, cols) + residual(lr, rows, cols)
        assignment = shaped(chosen, 1, rows.size, cols.size)
        if self.refinement:
            sr = refined(sr, assignment, rows, cols)
        return sr.clamp(0, 1), assignment

    def assign(self, feat: Tensor, rows: Line, cols: Line, k: Tensor) -> Tensor:
        """The k rule at every HR pixel: (H*W,) uint8."""
        log_odds = dense(self.model.mlps()[-1], feat, rows, cols).t()[None]  # (1,M-1,H*W)
        return priced(log_odds, [k.clamp(-LARGE, LARGE) * rate for rate in self.rates])[0]

    def values(self, feat: Tensor, rows: Line, cols: Line, chosen: Tensor) -> Tensor:
        """What the upsampler that a pixel chose gives there: (H*W,3)."""
        values = feat.new_zeros(chosen.shape[0], 3)
        for j, mlp in enumerate(self.model.mlps()[: len(self.model.upsamplers)]):
            where = (chosen == j).nonzero().squeeze(1)  # (n,), n may be 0
            row = torch.div(where, cols.size, rounding_mode="trunc")
            col = where - row * cols.size
            y, x = rows.offset[row], cols.offset[col]
            coords = torch.stack([y, x, rows.cell.expand_as(y), cols.cell.expand_as(x)], 1)
            pre = mlp.first_at(mlp.project(feat), rows.index[row] * cols.n + cols.index[col], coords)
            values = values.index_put((where,), mlp.finish_linear(pre))
        return values


def dense(mlp: PixelMLP, feat: Tensor, rows: Line, cols: Line) -> Tensor:
    """An MLP at every HR pixel: feat (h*w,c) -> (H*W,out)."""
    first = mlp.linears()[0]
    y, x, cell_y, cell_x = first.weight[:, mlp.in_channels :].unbind(1)
    table = mlp.project(feat) + (cell_y * rows.cell + cell_x * cols.cell)
    table = shaped(table, rows.n, cols.n, -1).index_select(0, rows.index).index_select(1, cols.index)
    pre = table + (rows.offset[:, None] * y)[:, None] + cols.offset[:, None] * x  # (H,W,C)
    return mlp.finish_linear(pre.flatten(0, 1))


def image(values: Tensor, rows: Line, cols: Line) -> Tensor:
    """(H*W,3) -> (1,3,H,W)."""
    return shaped(values, 1, rows.size, cols.size, 3).permute(0, 3, 1, 2)


def shaped(values: Tensor, *sides: int | Tensor) -> Tensor:
    """A view with sides that may be tensors, which torch takes, though its types do not say so."""
    return values.view(*sides)  # type: ignore[arg-type]


def residual(lr: Tensor, rows: Line, cols: Line) -> Tensor:
    """What `bilinear` in models/pcsr.py is, columns first: the rows that a runtime then copies are contiguous."""
    return blended(blended(lr, cols, 3), rows, 2)


def blended(lr: Tensor, axis: Line, dim: int) -> Tensor:
    """lr enlarged along one of its dimensions."""
    low, weight = between(axis.centre, axis.size)
    near, far = lr.index_select(dim, low), lr.index_select(dim, torch.minimum(low + 1, axis.n - 1))
    return near + (far - near) * (weight if dim == 3 else weight[:, None])


def refined(sr: Tensor, assignment: Tensor, rows: Line, cols: Line) -> Tensor:
    """What `refine` in models/pcsr.py is, for images of all sizes."""
    own = assignment[:, None].float()  # (1,1,H,W)
    lighter = F.max_pool2d(own, 3, 1, 1) > own
    return torch.where(lighter & rows.inside()[:, None] & cols.inside(), F.avg_pool2d(sr, 3, 1, 1), sr)
