"""PCSR: pixel-level classifier for single image super-resolution (ECCV 2024, arXiv 2407.21448).

Differs from the paper's formulation in the order of the arithmetic only: see models/mlp.py and models/grid.py.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.grid import Axis, axis
from models.mlp import FirstLayer, PixelMLP
from utils.flops import Countable, PCSRFlops, pcsr_flops

BLOCK_PIXELS = (
    1 << 16
)  # HR pixels per block at inference: bounds memory, and keeps a block's activations near the cache


class Encoded(NamedTuple):
    """An image encoded once; any output size and any decision can be made from it."""

    lr: Tensor  # (b,3,h,w)
    tables: tuple[Tensor, ...]  # per MLP (upsamplers light .. heavy, then classifier) its `project`, (b*h*w,C)


class Pixels:
    """The HR grid over one encoded batch: evaluates first layers at all pixels of a row block or at chosen ones."""

    def __init__(self, lr: Tensor, size: tuple[int, int]) -> None:
        self.batch, _, self.h, self.w = lr.shape
        self.size = size
        self.rows: Axis = axis(self.h, size[0], lr.device)
        self.cols: Axis = axis(self.w, size[1], lr.device)

    def blocks(self) -> Iterator[slice]:
        """Slices of HR rows of about BLOCK_PIXELS pixels each."""
        height, width = self.size
        step = max(1, BLOCK_PIXELS // (self.batch * width))
        return (slice(top, min(top + step, height)) for top in range(0, height, step))

    def lr_index(self, block: slice) -> Tensor:
        """Row of the feature tables each HR pixel of the block reads: (b,R,W) int64."""
        image = torch.arange(self.batch, device=self.rows.index.device)[:, None, None] * (self.h * self.w)
        return image + self.rows.index[block][None, :, None] * self.w + self.cols.index

    def dense(self, first: FirstLayer, block: slice) -> Tensor:
        """First layer at every pixel of a block: (b,R,W,C)."""
        return first.table[self.lr_index(block)] + first.row[block, None] + first.col

    def sparse(self, first: FirstLayer, block: slice, chosen: Tensor) -> Tensor:
        """First layer at the n chosen pixels of a block, indices into its flat (b,R,W): (n,C)."""
        width = self.size[1]
        row = torch.div(chosen, width, rounding_mode="floor") % (block.stop - block.start) + block.start
        nearest = self.lr_index(block).view(-1)[chosen]
        return first.table[nearest] + first.row[row] + first.col[chosen % width]


class PCSR(nn.Module):
    """Encoder, M upsamplers ordered light .. heavy, and a classifier over them.

    With a single upsampler and no classifier it is the model of training phase 0 (paper).
    """

    mean: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        upsamplers: Sequence[PixelMLP],
        classifier: PixelMLP | None,
        mean: Sequence[float],
    ) -> None:
        super().__init__()
        if (classifier is None) != (len(upsamplers) == 1):
            raise ValueError("several upsamplers need a classifier, a single one needs none")
        if classifier is not None and classifier.out_channels != len(upsamplers):
            raise ValueError("the classifier must have one logit per upsampler")
        self.encoder = encoder
        self.upsamplers = nn.ModuleList(upsamplers)
        self.classifier = classifier
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(3, 1, 1))

    def mlps(self) -> list[PixelMLP]:
        """All per-pixel MLPs: upsamplers light .. heavy, then the classifier if there is one."""
        upsamplers = cast("list[PixelMLP]", list(self.upsamplers))
        return upsamplers if self.classifier is None else [*upsamplers, self.classifier]

    def account(self) -> PCSRFlops:
        """What the model's parts cost, in both FLOPs accounts."""
        upsamplers = self.mlps()[: len(self.upsamplers)]
        return pcsr_flops(cast("Countable", self.encoder), upsamplers, self.classifier)

    def encode(self, lr: Tensor) -> Encoded:
        """lr (b,3,h,w) in [0,1] -> features and every MLP's first layer, once per LR pixel."""
        feat = self.encoder(lr - self.mean)  # (b,c,h,w)
        return Encoded(lr, tuple(mlp.project(rows_of(feat)) for mlp in self.mlps()))

    def logits(self, encoded: Encoded, size: tuple[int, int]) -> Tensor:
        """Classifier output at every HR pixel, (b,H,W,M); differentiable."""
        return self._dense(encoded, size, len(self.upsamplers))

    def classify(self, encoded: Encoded, size: tuple[int, int]) -> Tensor:
        """prob (b,M,H,W), the softmax over the upsamplers."""
        return self.logits(encoded, size).softmax(-1).permute(0, 3, 1, 2)

    def upsample_with(self, encoded: Encoded, size: tuple[int, int], index: int) -> Tensor:
        """sr (b,3,H,W) with upsampler `index` at every pixel, unclamped; differentiable."""
        values = self._dense(encoded, size, range(len(self.upsamplers))[index])
        return values.permute(0, 3, 1, 2) + bilinear(encoded.lr, size)

    def upsample(self, encoded: Encoded, size: tuple[int, int], assignment: Tensor) -> Tensor:
        """sr (b,3,H,W), unclamped, each pixel by the upsampler that assignment (b,H,W) names; for inference."""
        pixels = Pixels(encoded.lr, size)
        mlps = self.mlps()
        first = [
            mlp.first_layer(table, pixels.rows, pixels.cols) for mlp, table in zip(mlps, encoded.tables, strict=True)
        ]
        sr = bilinear(encoded.lr, size)
        for block in pixels.blocks():
            chosen = assignment[:, block].reshape(-1)  # (b*R*W,)
            values = torch.empty(chosen.numel(), 3, dtype=sr.dtype, device=sr.device)
            for j in range(len(self.upsamplers)):
                where = (chosen == j).nonzero().squeeze(1)  # waits for the device: the count decides the shape
                if where.numel():
                    values[where] = mlps[j].finish(pixels.sparse(first[j], block, where))
            sr[:, :, block] += values.view(pixels.batch, -1, size[1], 3).permute(0, 3, 1, 2)
        return sr

    def _dense(self, encoded: Encoded, size: tuple[int, int], index: int) -> Tensor:
        """One MLP at every HR pixel, (b,H,W,out), block by block."""
        pixels = Pixels(encoded.lr, size)
        mlp = self.mlps()[index]
        first = mlp.first_layer(encoded.tables[index], pixels.rows, pixels.cols)
        return torch.cat([mlp.finish(pixels.dense(first, block)) for block in pixels.blocks()], dim=1)


def rows_of(feat: Tensor) -> Tensor:
    """feat (b,c,h,w) as a row per LR pixel, (b*h*w,c); no copy if feat is channels-last."""
    return feat.permute(0, 2, 3, 1).reshape(-1, feat.shape[1])


def bilinear(lr: Tensor, size: tuple[int, int]) -> Tensor:
    """lr (b,3,h,w) at `size`, half-pixel centres, border replicated: the residual under every upsampler."""
    return F.interpolate(lr, size=size, mode="bilinear", align_corners=False)


def refine(sr: Tensor, assignment: Tensor) -> Tensor:
    """Pixel-wise refinement (paper): a pixel with a heavier 3x3 neighbour takes its neighbourhood's mean.

    sr (b,3,H,W) and assignment (b,H,W) -> (b,3,H,W). The image's border rows and columns are left alone.
    """
    if min(sr.shape[-2:]) < 3:
        return sr
    chosen = assignment.to(torch.uint8)
    rows = chosen[:, :-2].maximum(chosen[:, 1:-1]).maximum(chosen[:, 2:])  # the largest of each column of three
    heaviest = rows[..., :-2].maximum(rows[..., 1:-1]).maximum(rows[..., 2:])  # (b,H-2,W-2)
    columns = sr[..., :-2, :] + sr[..., 1:-1, :] + sr[..., 2:, :]  # (b,3,H-2,W)
    mean = (columns[..., :-2] + columns[..., 1:-1]).add_(columns[..., 2:]).div_(9)
    refined = sr.clone()
    refined[..., 1:-1, 1:-1] = torch.where((heaviest > chosen[:, 1:-1, 1:-1])[:, None], mean, sr[..., 1:-1, 1:-1])
    return refined
