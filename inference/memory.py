"""How large the parts are in which a large image goes through a model."""

import itertools
import math

import psutil
import torch
from torch import Tensor, nn

from models.tile import Part, whole

SHARE = 4  # of the free memory, what a part may take
MOST = 1 << 30  # bytes on a CPU: larger parts are hardly faster
LEAST = 32  # LR pixels across a part, even where memory is short


def allowance(device: torch.device) -> int:
    """Bytes that a part may take."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) // 2
    return min(int(psutil.virtual_memory().available) // SHARE, MOST)


def width(encoder: nn.Module, device: torch.device) -> int:
    """Channels of an encoder's features."""
    return int(encoder(torch.zeros(1, 3, 8, 8, device=device)).shape[1])


def cut(lr: Tensor, halo: int, area: float) -> list[Part]:
    """Parts that cover lr (b,3,h,w), each with its halo of about `area` pixels at most, in rows of parts."""
    h, w = lr.shape[2:]
    if h * w <= area:
        return [whole(lr)]
    columns = even(w, max(LEAST, int(math.sqrt(area)) - 2 * halo))
    rows = even(h, max(LEAST, int(area / min(w, columns[0].stop + 2 * halo)) - 2 * halo))
    return [Part(row, column) for row in rows for column in columns]


def even(length: int, most: int) -> list[slice]:
    """The fewest slices of at most `most` that cover a length, of about the same size."""
    count = -(-length // most)
    edges = [length * i // count for i in range(count + 1)]
    return [slice(*edge) for edge in itertools.pairwise(edges)]
