"""Flat parts of a clean image, where interpolation is as good as a network. They are left out; this is not the paper's.

A block of LR pixels is flat if the 3x3 neighbourhood of none of its pixels has a large range of values. Whatever is
computed must see a halo around it. Therefore the image is divided into rectangles that leave out flat blocks where this
makes the encoder see fewer pixels, halos included.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.flops import PCSRFlops
from models.tile import Halo, Tile, whole
from utils.errors import InputError
from utils.image import Array
from utils.patches import bands

BLOCK_SIDE = 16  # LR pixels on a side of a block
MOST_ROWS = 128  # of blocks: on larger images the blocks are larger, as the search takes the square of this number
LEAST_FLAT = 0.05  # of the blocks: where fewer are flat, there is nothing to gain
OVERHEAD = 4000  # LR pixels that could be computed in the time that a rectangle takes besides its pixels
LEVEL_ERROR = 1e-3  # levels, to which differences of 8-bit values in [0,1] are exact


class Division(NamedTuple):
    """An image, divided into rectangles of LR pixels that do not overlap."""

    busy: list[Tile]
    flat: list[Tile]
    seen: int  # LR pixels that the encoder sees for the busy ones, at most those of the image


def undivided(lr: Tensor) -> Division:
    """All of lr (1,3,h,w) is busy."""
    return Division([whole(lr)], [], lr.shape[2] * lr.shape[3])


def divide(lr: Tensor, levels: float, halo: Halo | None) -> Division:
    """lr (1,3,h,w) in [0,1] -> its flat and its busy rectangles, for an encoder with this halo.

    Blocks are flat if 3x3 pixels range over at most `levels` of 255 in every channel. Raises InputError without a halo.
    """
    if halo is None:
        raise InputError("skip_flat: this network must see the whole image; leave it out")
    height, width = lr.shape[2:]
    beyond = halo.farthest + 1  # the pixel that refinement reads
    block = BLOCK_SIDE * -(-height // (BLOCK_SIDE * MOST_ROWS))
    busy = busy_blocks(lr, levels, block)
    if busy.mean() > 1 - LEAST_FLAT:
        return undivided(lr)

    def seen(blocks: slice, length: int) -> int:
        return min(blocks.stop * block + beyond, length) - max(blocks.start * block - beyond, 0)

    def cost(band: slice, columns: slice) -> int:
        return seen(band, height) * seen(columns, width) + OVERHEAD

    def tile(band: slice, columns: slice) -> Tile:
        return Tile(
            slice(band.start * block, min(band.stop * block, height)),
            slice(columns.start * block, min(columns.stop * block, width)),
        )

    found, total = Division([], [], 0), 0
    for band, stretches in best_bands(busy, 2 * beyond // block, cost):
        found.busy.extend(tile(band, columns) for columns in stretches)
        total += sum(seen(band, height) * seen(columns, width) for columns in stretches)
        edges = [0, *(edge for columns in stretches for edge in (columns.start, columns.stop)), busy.shape[1]]
        gaps = [slice(*edge) for edge in list(pairwise(edges))[::2] if edge[0] < edge[1]]
        found.flat.extend(tile(band, columns) for columns in gaps)
    return found._replace(seen=min(total, height * width))


def busy_blocks(lr: Tensor, levels: float, block: int) -> Array:
    """Which blocks of lr (1,3,h,w) are not flat, (rows, columns) of bool."""
    height, width = lr.shape[2:]
    rows = []
    for band in bands(height, block):
        above = min(band.start, 1)
        seen = lr[..., band.start - above : band.stop + 1, :]  # with a line above and below, where there is one
        spread = (extreme(seen, torch.maximum) - extreme(seen, torch.minimum)).amax((0, 1))
        largest = spread[above : above + band.stop - band.start].amax(0)  # (w,)
        rows.append(F.pad(largest, (0, -width % block)).view(-1, block).amax(1))
    found: Array = (255 * torch.stack(rows) > levels + LEVEL_ERROR).cpu().numpy()
    return found


def extreme(image: Tensor, of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The maximum or minimum of the 3x3 pixels around each pixel. Several times as fast as torch's pooling."""
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    tall = of(of(padded[..., :-2, :], padded[..., 1:-1, :]), padded[..., 2:, :])
    return of(of(tall[..., :-2], tall[..., 1:-1]), tall[..., 2:])


Band = tuple[slice, list[slice]]  # rows of blocks, and the columns of blocks that are computed in them


def best_bands(busy: Array, joined: int, cost: Callable[[slice, slice], int]) -> list[Band]:
    """The bands of whole rows that cost least; `cost` is that of columns in a band, and gaps of `joined` are filled."""
    best: list[tuple[int, list[Band]]] = [(0, [])]  # for the rows above each row
    everything = [slice(0, busy.shape[1])]
    for stop in range(1, len(busy) + 1):
        used, stretches, choices = np.zeros(busy.shape[1], bool), list[slice](), []
        for start in reversed(range(stop)):
            if stretches != everything:
                used |= busy[start]
                stretches = stretches_of(used, joined)
            band = slice(start, stop)
            choices.append((best[start][0] + sum(cost(band, columns) for columns in stretches), start, stretches))
        total, start, stretches = min(choices, key=lambda choice: choice[:2])
        best.append((total, [*best[start][1], (slice(start, stop), stretches)]))
    return best[-1][1]


def stretches_of(used: Array, joined: int) -> list[slice]:
    """The stretches of columns that are used; those with at most `joined` columns between them are one."""
    columns = np.flatnonzero(used)
    if not len(columns):
        return []
    ends = np.flatnonzero(np.diff(columns) > joined + 1)
    firsts, lasts = columns[[0, *(ends + 1)]], columns[[*ends, -1]]
    return [slice(int(first), int(last) + 1) for first, last in zip(firsts, lasts, strict=True)]


def budget_left(budget: float, flops: PCSRFlops, scale: float, pixels: int, computed: int, seen: int) -> float:
    """The budget of the HR pixels that are `computed`, with which all `pixels` of an image take `budget`.

    The encoder sees `seen` LR pixels. The result is not less than `budget`, and at most 1.
    """
    heavy = flops.per_pixel(scale, with_classifier=True)[-1]
    halo = flops.per_lr.paper * (seen - computed / scale**2)
    return min(1.0, max(budget, (budget * heavy * pixels - halo) / (heavy * computed)))
