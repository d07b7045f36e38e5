"""PCSR: pixel-level classifier for single image super-resolution (ECCV 2024, arXiv 2407.21448).

Differs from the paper's formulation in the order of the arithmetic only: see models/mlp.py and models/grid.py.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from models.flops import PCSRFlops, pcsr_flops
from models.grid import Axis, axis, blend
from models.mlp import FirstLayer, PixelMLP
from models.tile import Part, reach, whole, with_halo

BLOCK_PIXELS = (
    1 << 16
)  # HR pixels per block at inference: bounds memory, and keeps a block's activations near the cache


class Encoded(NamedTuple):
    """An image or a part of one, encoded once; any output size and any decision can be made from it.

    Methods take the size of the whole image, and answer for the part's window of it.
    """

    lr: Tensor  # (b,3,H,W), the whole image
    part: Part
    tables: tuple[Tensor, ...]  # per MLP (upsamplers light .. heavy, then classifier) its `project`, (b*h*w,C)


class Pixels:
    """The HR grid over one encoded batch: evaluates first layers at all pixels of a row block or at chosen ones."""

    def __init__(self, encoded: Encoded, size: tuple[int, int]) -> None:
        lr, part = encoded.lr, encoded.part
        self.batch = len(lr)
        self.h, self.w = part.rows.stop - part.rows.start, part.cols.stop - part.cols.start
        self.rows: Axis = axis(lr.shape[2], size[0], lr.device, part.rows)
        self.cols: Axis = axis(lr.shape[3], size[1], lr.device, part.cols)
        self.size = len(self.rows.index), len(self.cols.index)

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
        return pcsr_flops(self.encoder, self.mlps()[: len(self.upsamplers)], self.classifier)

    @functools.cached_property
    def halo(self) -> int | None:
        """How many LR pixels away the image still matters to a feature; None if there is no end to it."""
        return reach(self.encoder)

    def encode(self, lr: Tensor, part: Part | None = None) -> Encoded:
        """lr (b,3,h,w) in [0,1] -> features and every MLP's first layer, once per LR pixel of the image or a part."""
        part = part or whole(lr)
        return self.project(lr, part, self.features(lr, part))

    def features(self, lr: Tensor, part: Part) -> Tensor:
        """feat (b,c,h,w) of a part, the same numbers as in the whole: the encoder sees `halo` pixels around it."""
        if part == whole(lr):
            return self.encoder(lr - self.mean)
        seen, inside = with_halo(lr, part, self.halo)
        return self.encoder(seen - self.mean)[..., inside.rows, inside.cols]

    def project(self, lr: Tensor, part: Part, feat: Tensor) -> Encoded:
        """The feature part of every MLP's first layer."""
        return Encoded(lr, part, tuple(mlp.project(rows_of(feat)) for mlp in self.mlps()))

    def log_odds(self, encoded: Encoded, size: tuple[int, int]) -> Tensor:
        """log(prob_j / prob_0) of the upsamplers j = 1 .. M-1 at every HR pixel, (b,M-1,H,W); differentiable."""
        if self.classifier is None:
            pixels = Pixels(encoded, size)
            return encoded.lr.new_empty(pixels.batch, 0, *pixels.size)
        logits = self._dense(encoded, size, len(self.upsamplers)).permute(0, 3, 1, 2)
        return logits[:, 1:] - logits[:, :1]

    def classify(self, encoded: Encoded, size: tuple[int, int]) -> Tensor:
        """prob (b,M,H,W), the softmax over the upsamplers."""
        log_odds = self.log_odds(encoded, size)
        return torch.cat([torch.zeros_like(log_odds[:, :1]), log_odds], 1).softmax(1)

    def upsample_with(self, encoded: Encoded, size: tuple[int, int], index: int) -> Tensor:
        """sr (b,3,H,W) with upsampler `index` at every pixel, unclamped; differentiable."""
        values = self._dense(encoded, size, range(len(self.upsamplers))[index])
        return values.permute(0, 3, 1, 2) + bilinear(encoded.lr, size, encoded.part)

    def upsample(self, encoded: Encoded, size: tuple[int, int], assignment: Tensor) -> Tensor:
        """sr (b,3,H,W), unclamped, each pixel by the upsampler that assignment (b,H,W) names; for inference."""
        pixels = Pixels(encoded, size)
        mlps = self.mlps()
        first = [
            mlp.first_layer(table, pixels.rows, pixels.cols) for mlp, table in zip(mlps, encoded.tables, strict=True)
        ]
        sr = bilinear(encoded.lr, size, encoded.part)
        for block in pixels.blocks():
            chosen = assignment[:, block].reshape(-1)  # (b*R*W,)
            values = torch.empty(chosen.numel(), 3, dtype=sr.dtype, device=sr.device)
            for j in range(len(self.upsamplers)):
                where = (chosen == j).nonzero().squeeze(1)  # waits for the device: the count decides the shape
                if where.numel():
                    values[where] = mlps[j].finish(pixels.sparse(first[j], block, where))
            sr[:, :, block] += values.view(pixels.batch, -1, pixels.size[1], 3).permute(0, 3, 1, 2)
        return sr

    def _dense(self, encoded: Encoded, size: tuple[int, int], index: int) -> Tensor:
        """One MLP at every HR pixel, (b,H,W,out), block by block."""
        pixels = Pixels(encoded, size)
        mlp = self.mlps()[index]
        first = mlp.first_layer(encoded.tables[index], pixels.rows, pixels.cols)
        return torch.cat([mlp.finish(pixels.dense(first, block)) for block in pixels.blocks()], dim=1)


def rows_of(feat: Tensor) -> Tensor:
    """feat (b,c,h,w) as a row per LR pixel, (b*h*w,c); no copy if feat is channels-last."""
    return feat.permute(0, 2, 3, 1).reshape(-1, feat.shape[1])


def bilinear(lr: Tensor, size: tuple[int, int], part: Part | None = None) -> Tensor:
    """lr (b,3,h,w) at `size`, half-pixel centres, border replicated: the residual under every upsampler."""
    part = part or whole(lr)
    rows = blend(lr.shape[2], size[0], lr.device, part.rows)
    cols = blend(lr.shape[3], size[1], lr.device, part.cols)
    near, inside = with_halo(lr, part, 1)
    above, left = part.rows.start - inside.rows.start, part.cols.start - inside.cols.start  # where `near` begins
    down, across = rows.weight[:, None].to(lr.dtype), cols.weight.to(lr.dtype)
    tall = near.index_select(2, rows.low - above).lerp(near.index_select(2, rows.high - above), down)
    return tall.index_select(3, cols.low - left).lerp(tall.index_select(3, cols.high - left), across)


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
