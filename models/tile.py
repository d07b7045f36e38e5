"""Parts of an image: a network that sees enough around a part gives the numbers that it gives for the whole."""

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.grid import span


class Part(NamedTuple):
    """A rectangle of pixels; of LR pixels, it stands for the HR pixels that are nearest to them too."""

    rows: slice
    cols: slice

    def window(self, lr: Tensor, size: tuple[int, int]) -> "Part":
        """Its HR rows and columns in an image of `size`."""
        return Part(span(lr.shape[2], size[0], self.rows), span(lr.shape[3], size[1], self.cols))

    def grown(self, lr: Tensor, by: int) -> "Part":
        """With `by` pixels more on all sides, as far as lr (b,3,h,w) has them."""
        rows, cols = (
            slice(max(line.start - by, 0), min(line.stop + by, n)) for line, n in zip(self, lr.shape[2:], strict=True)
        )
        return Part(rows, cols)

    def within(self, outer: "Part") -> "Part":
        """Counted from the start of a part that holds it."""
        rows, cols = (
            slice(line.start - start.start, line.stop - start.start) for line, start in zip(self, outer, strict=True)
        )
        return Part(rows, cols)

    def times(self, scale: int) -> "Part":
        """In an image `scale` times as large."""
        rows, cols = (slice(line.start * scale, line.stop * scale) for line in self)
        return Part(rows, cols)


def whole(lr: Tensor) -> Part:
    return Part(slice(0, lr.shape[2]), slice(0, lr.shape[3]))


def with_halo(lr: Tensor, part: Part, halo: int | None) -> tuple[Tensor, Part]:
    """A part of lr (b,3,h,w) with `halo` pixels around it, None for all there are; and where in that the part lies."""
    seen = whole(lr) if halo is None else part.grown(lr, halo)
    return lr[..., seen.rows, seen.cols], part.within(seen)


@torch.no_grad()
def reach(network: nn.Module, limit: int = 256) -> int | None:
    """How many LR pixels away the image still matters to what a network makes of it; None if beyond `limit`.

    Not-a-number spreads through every operation that reads it, so one bad pixel shows how far its influence goes.
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
