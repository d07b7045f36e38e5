"""How an image that is too large for the memory is cut into tiles.

A tile gives the values that the whole image has there, but for the order of sums: before rounding they differ by about
a millionth, so that a few values may be rounded to the next level.
"""

import itertools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import psutil
import torch
from torch import Tensor
from tqdm import tqdm

from models.fast.engine import Engine
from models.original import OriginalModel
from models.tile import Tile, whole
from utils.errors import InputError, ending

# A tile may take this part of the free memory. A GPU has few users; a CPU's memory is shared with all programs.
GPU_SHARE, CPU_SHARE = 1 / 2, 1 / 4
MOST = 1 << 29  # the most bytes that a tile takes on a CPU: larger tiles are hardly faster
REFUSALS = (
    *("out of memory", "Invalid buffer size"),
    *("CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED", "unable to find an engine"),
)
QUARTERINGS = 4  # how often tiles are made smaller before giving up: then they have 1/256 of the area
MOST_TILE = 10_000_000  # LR pixels, the largest tile_size
LEAST = 32  # the fewest LR pixels across a tile: smaller ones would be mostly halo
MAPS = 12  # feature maps that an encoder holds at once: CARN's cascades hold 7, and convolutions need working memory

Done = TypeVar("Done")


@dataclass(frozen=True)
class TilePlan:
    """How large tiles are, what is left out, and whether a bar in the terminal shows how many are done.

    Raises InputError for values out of range.
    """

    tile_size: int | None = None  # a tile's area is about its square, in LR pixels; None: as the memory allows
    progress: bool = False
    skip_flat: float = 0.0  # levels of 255: a PCSR model leaves out what is flatter (inference/flat.py); 0: nothing
    quarterings: int = 0  # how often the area is divided by four, because the memory did not suffice

    def __post_init__(self) -> None:
        if self.tile_size is not None and not 1 <= self.tile_size <= MOST_TILE:
            raise InputError(f"tile_size {ending(str(self.tile_size), 20)}: must be a number from 1 to {MOST_TILE}")
        if not 0 <= self.skip_flat <= 255:
            raise InputError(f"skip_flat {self.skip_flat:g}: must lie between 0 (off) and 255 levels")

    def cut(self, lr: Tensor, model: Engine | OriginalModel, pixel_bytes: float) -> list[Tile]:
        """Tiles that cover lr (b,3,h,w), of which one LR pixel takes `pixel_bytes` while a model works on it.

        A model without a halo leaves a single tile.
        """
        if self.quarterings:  # gives back what the failed attempt held; its error, while handled, kept that alive
            torch.cuda.empty_cache()
        area = allowance(lr.device) / pixel_bytes if self.tile_size is None else self.tile_size**2
        area = area / 4**self.quarterings
        if lr.shape[2] * lr.shape[3] <= area or (halo := model.halo) is None:  # finding a halo takes time
            return [whole(lr)]
        return cut(lr, halo.farthest, area if self.tile_size is None else (math.sqrt(area) + 2 * halo.farthest) ** 2)

    def bar(self, total: int) -> "tqdm[Any]":
        """A bar that is shown in terminals, and only if there are several tiles."""
        return tqdm(total=total, unit="tile", leave=False, disable=None if self.progress and total > 1 else True)


def until_it_fits(plan: TilePlan, work: Callable[[TilePlan], Done]) -> Done:
    """work(plan); whenever a GPU's memory does not suffice for it, again with smaller tiles."""
    while True:
        try:
            return work(plan)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if plan.quarterings == QUARTERINGS:
                raise torch.OutOfMemoryError(str(error)) from error
        plan = replace(plan, quarterings=plan.quarterings + 1)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU's memory did not suffice. The libraries below torch say so in words of their own."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in REFUSALS)


def allowance(device: torch.device) -> int:
    """Bytes that a tile may take."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * GPU_SHARE)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # this job's on this machine
    return min(int(psutil.virtual_memory().available * CPU_SHARE / processes), MOST)


def cut(lr: Tensor, halo: int, area: float) -> list[Tile]:
    """Tiles that cover lr (b,3,h,w), row by row; each with its halo has at most about `area` pixels."""
    h, w = lr.shape[2:]
    if h * w <= area:
        return [whole(lr)]
    columns = even(w, max(LEAST, int(math.sqrt(area)) - 2 * halo))
    rows = even(h, max(LEAST, int(area / min(w, columns[0].stop + 2 * halo)) - 2 * halo))
    return [Tile(row, column) for row in rows for column in columns]


def even(length: int, most: int) -> list[slice]:
    """The fewest slices of at most `most` that cover a length, of about the same size."""
    count = -(-length // most)
    edges = [length * i // count for i in range(count + 1)]
    return [slice(*edge) for edge in itertools.pairwise(edges)]
