"""Tiles of an image. A network that sees enough pixels around a tile computes there what it does in the whole image."""

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Tile(NamedTuple):
    """A rectangle of pixels. A tile of LR pixels stands for the HR pixels that are nearest to them too."""

    rows: slice
    cols: slice

    def window(self, lr: Tensor, size: tuple[int, int]) -> "Tile":
        """Its HR pixels in an image of `size` = (H,W) over lr (b,3,h,w). Tiles that cover LR cover HR, not twice."""
        rows, cols = (slice(*span(n, length, line)) for n, length, line in zip(lr.shape[2:], size, self, strict=True))
        return Tile(rows, cols)

    def grown(self, lr: Tensor, by: int) -> "Tile":
        """With `by` more pixels on all sides, as far as lr (b,3,h,w) has them."""
        rows, cols = (
            slice(max(line.start - by, 0), min(line.stop + by, n)) for line, n in zip(self, lr.shape[2:], strict=True)
        )
        return Tile(rows, cols)

    def within(self, outer: "Tile") -> "Tile":
        """The same tile in coordinates of `outer`, which contains it."""
        rows, cols = (
            slice(line.start - start.start, line.stop - start.start) for line, start in zip(self, outer, strict=True)
        )
        return Tile(rows, cols)

    def times(self, scale: int) -> "Tile":
        """In an image `scale` times as large."""
        rows, cols = (slice(line.start * scale, line.stop * scale) for line in self)
        return Tile(rows, cols)


def whole(image: Tensor) -> Tile:
    """All pixels of an image (b,c,h,w)."""
    return Tile(slice(0, image.shape[2]), slice(0, image.shape[3]))


def with_halo(lr: Tensor, tile: Tile, halo: int | None) -> tuple[Tensor, Tile]:
    """A tile of lr (b,3,h,w) with `halo` pixels around it (None: all there are), and where in that the tile lies."""
    seen = whole(lr) if halo is None else tile.grown(lr, halo)
    return lr[..., seen.rows, seen.cols], tile.within(seen)


def span(n: int, size: int, stretch: slice) -> tuple[int, int]:
    """The half-open range of `size` HR positions whose nearest of `n` LR pixels lies in `stretch`."""
    first, stop = (max(0, -(-(2 * size * pixel + 1 - n) // (2 * n))) for pixel in (stretch.start, stretch.stop))
    return first, stop


@torch.no_grad()
def reach(network: nn.Module, limit: int = 256) -> int | None:
    """How far, in LR pixels, an input pixel influences the output of a network; None if farther than `limit`.

    Not-a-number spreads through all arithmetic, so one such pixel shows how far its influence goes.
    """
    probe = copy.deepcopy(network).cpu().float().eval()
    radius = 16
    while radius <= limit:
        image = torch.zeros(1, 3, 2 * radius + 1, 2 * radius + 1)
        image[..., radius, radius] = math.nan
        result = probe(image)
        reached = result[0].isnan().any(0).nonzero() // (result.shape[-1] // image.shape[-1])
        far = int((reached - radius).abs().max())
        if far < radius:
            return far
        radius *= 2
    return None
