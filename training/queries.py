"""The HR pixels that a loss of PCSR is taken over: all of a batch or random ones, in groups that fit a CPU's cache."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from models.grid import Grid, bilinear, grid_over

GROUP_PIXELS = 1 << 13  # 8192 pixels of 74 channels are 2.4 MB
CACHED = ("cpu",)  # devices on which small groups are faster

Interpolate = Callable[[Tensor, Grid], Tensor]  # lr (b,3,h,w) at a grid's pixels, (b,3,H,W)


class Group(NamedTuple):
    """n HR pixels, all of which read the same rows of the feature tables."""

    rows: slice  # of the tables (b*h*w,C)
    nearest: Tensor  # (n,) the row each pixel reads, counted from the slice's start
    coords: Tensor  # (n,4) the paper's rel_coord and rel_cell, y before x
    target: Tensor  # (n,3) HR minus the bilinear residual: what the upsamplers have to give
    images: int  # how many images the pixels are of, one after the other and as many of each
    share: float  # n / all pixels of the batch


class Queries(NamedTuple):
    """The HR pixels of a batch that the loss is taken over, N per image."""

    positions: int  # h*w
    across: int  # w
    nearest: Tensor  # (b,N) LR pixel of its image
    coords: Tensor  # (b,N,4)
    target: Tensor  # (b,N,3)

    def groups(self, whole_images: bool = False) -> list[Group]:
        """On a CPU small groups of single images, or all pixels of each image; elsewhere the batch as one group."""
        batch, count = self.nearest.shape
        if self.nearest.device.type not in CACHED:
            image = torch.arange(batch, device=self.nearest.device)[:, None] * self.positions
            nearest = (image + self.nearest).flatten()
            return [Group(slice(None), nearest, self.coords.flatten(0, 1), self.target.flatten(0, 1), batch, 1.0)]
        size = count if whole_images else GROUP_PIXELS
        groups = []
        for b in range(batch):
            rows = slice(b * self.positions, (b + 1) * self.positions)
            of_image = (each[b].split(size) for each in (self.nearest, self.coords, self.target))
            for nearest, coords, target in zip(*of_image, strict=True):
                groups.append(Group(rows, nearest, coords, target, 1, len(nearest) / (batch * count)))
        return groups


def queries(
    lr: Tensor, hr: Tensor, pixels_per_patch: int | None = None, interpolate: Interpolate = bilinear
) -> Queries:
    """All pixels of hr (b,3,H,W) over lr (b,3,h,w), or that many of each image, drawn from torch's generator."""
    (batch, _, h, w), (height, width) = lr.shape, hr.shape[2:]
    rows, cols = grid = grid_over(lr, (height, width))
    nearest = (rows.index[:, None] * w + cols.index).flatten()  # (H*W,)
    coords = torch.empty(height, width, 4, device=lr.device)
    coords[..., 0], coords[..., 1] = rows.offset[:, None], cols.offset
    coords[..., 2], coords[..., 3] = rows.cell, cols.cell
    coords = coords.flatten(0, 1)  # (H*W,4)
    residual = interpolate(lr, grid)
    target = (hr - residual).permute(0, 2, 3, 1).flatten(1, 2)  # (b,H*W,3)
    if pixels_per_patch is None or pixels_per_patch >= height * width:
        target = target.contiguous()
        return Queries(h * w, w, nearest.expand(batch, -1), coords.expand(batch, -1, -1), target)
    chosen = drawn(batch, pixels_per_patch, height * width, lr.device)
    target = target.gather(1, chosen[..., None].expand(-1, -1, 3))
    return Queries(h * w, w, nearest[chosen], coords[chosen], target)


def drawn(batch: int, count: int, pixels: int, device: torch.device) -> Tensor:
    """Random pixels of each image, (batch,count), in the order in which they lie in memory.

    An image is cut into `count` equal lengths and one pixel drawn from each, which spreads them evenly; each pixel of
    the image is as likely as any other. Where the lengths are no whole pixels, one that two of them share may be drawn
    twice.
    """
    place = torch.randint(pixels, (batch, count), device=device)  # in a length, in units of 1 / count of a pixel
    place += torch.arange(count, device=device) * pixels
    chosen = torch.div(place, count, rounding_mode="trunc")
    return chosen.clamp_max_(pixels - 1)  # for MPS, whose division is not exact
