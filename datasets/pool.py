"""The images of several caches as if they were one, and squares cut out of them by the CPU or a CUDA device."""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.cache import Cache, Caches
from datasets.folder import by_stem, lr_images

COPIED_PIXELS = 2**24  # copied to the device at a time: 48 MiB, so that the copy on the host stays small
Integers = NDArray[np.int64]


class Pool:
    """Images by number: the images of all caches in order, or only the `chosen` numbers, in that order.

    Pixels are numbered too, through all caches.
    """

    def __init__(self, caches: Sequence[Cache], device: torch.device, chosen: Sequence[int] | None = None) -> None:
        self.pixels = [cache.pixels for cache in caches]  # (N,3) each
        self.starts = np.cumsum([0, *map(len, self.pixels[:-1])]).tolist()  # the number of each cache's first pixel
        paths = [path for cache in caches for path in cache.paths]
        order = np.arange(len(paths)) if chosen is None else np.array(chosen)
        self.paths = [paths[number] for number in order.tolist()]
        shifted = [cache.offset + start for cache, start in zip(caches, self.starts, strict=True)]
        self.offset: Integers = np.concatenate(shifted)[order]
        self.height: Integers = np.concatenate([cache.height for cache in caches])[order]
        self.width: Integers = np.concatenate([cache.width for cache in caches])[order]
        self.device = device
        self.resident = resident(self.pixels, device)

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, number: int) -> NDArray[np.uint8]:
        """(H,W,3), a view of the mapped file."""
        first, height, width = (int(each[number]) for each in (self.offset, self.height, self.width))
        cache = bisect_right(self.starts, first) - 1
        begin = first - self.starts[cache]
        return self.pixels[cache][begin : begin + height * width].reshape(height, width, 3)

    def strides(self, image: Integers, top: Integers, left: Integers, flips: NDArray[np.bool_], size: int) -> Integers:
        """The pixels of squares, (3,B): the first pixel, the stride to the next row, and that to the next column.

        `flips` are horizontal, vertical and diagonal, (3,B). A flip only changes the first pixel and the strides.
        """
        horizontal, vertical, diagonal = flips
        width = self.width[image]
        top, down = np.where(vertical, top + size - 1, top), np.where(vertical, -width, width)
        left, right = np.where(horizontal, left + size - 1, left), np.where(horizontal, -1, 1)
        first = self.offset[image] + top * width + left
        return np.stack([first, np.where(diagonal, right, down), np.where(diagonal, down, right)])

    def squares(self, strides: Integers, size: int) -> Tensor:
        """Contiguous (b,3,P,P) uint8 on the device; strides (3,b)."""
        if self.resident is not None:
            return gather_resident(self.resident, strides, size)
        cuda = self.device.type == "cuda"
        squares = torch.empty((strides.shape[1], 3, size, size), dtype=torch.uint8, pin_memory=cuda)
        for square, (first, down, right) in zip(squares.numpy(), strides.T.tolist(), strict=True):
            cache = bisect_right(self.starts, first) - 1
            begin = 3 * (first - self.starts[cache])
            # copying a view is faster than indexing; numpy refuses a view that goes beyond the file
            square[:] = np.ndarray((3, size, size), np.uint8, self.pixels[cache], begin, (1, 3 * down, 3 * right))
        return squares.to(self.device, non_blocking=cuda)  # pinned memory is used again only when its copy is done


def lr_numbers(caches: Caches) -> list[int]:
    """The number of the LR image of each HR image, found by name. Raises InputError if one is missing."""
    numbers: list[int] = []
    start = 0
    for hr, lr in zip(caches.hr, caches.lr, strict=True):
        number = {path: start + place for place, path in enumerate(lr.paths)}
        numbers += [number[path] for path in lr_images(by_stem(hr.paths, hr.folder), lr.folder, lr.paths)]
        start += len(lr.paths)
    return numbers


def resident(parts: Sequence[NDArray[np.uint8]], device: torch.device) -> Tensor | None:
    """The pixels (N,3) of all caches on a CUDA device, if they take at most half of its free memory; otherwise None."""
    if device.type != "cuda" or sum(part.nbytes for part in parts) > torch.cuda.mem_get_info(device)[0] // 2:
        return None
    target = torch.empty((sum(map(len, parts)), 3), dtype=torch.uint8, device=device)
    place = 0
    for part in parts:
        for start in range(0, len(part), COPIED_PIXELS):
            copied = torch.from_numpy(part[start : start + COPIED_PIXELS].copy())
            target[place : place + len(copied)] = copied
            place += len(copied)
    return target


def gather_resident(pixels: Tensor, strides: Integers, size: int) -> Tensor:
    """Squares (b,3,P,P) from pixels (N,3) on the same device, without waiting for it; strides (3,b)."""
    sent = torch.from_numpy(strides).pin_memory() if pixels.is_cuda else torch.from_numpy(strides)
    first, down, right = sent.to(pixels.device, non_blocking=True)[:, :, None, None]  # (b,1,1) each
    line = torch.arange(size, device=pixels.device)
    index = first + down * line[:, None] + right * line  # (b,P,P)
    return pixels[index].permute(0, 3, 1, 2).contiguous()
