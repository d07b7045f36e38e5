"""How an image is cut: into bands of rows that fit into memory, and into the overlapping patches of the evaluation.

Where patches overlap, their SR is averaged, as in the published per-patch evaluations.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, product

import torch
from torch import Tensor

from utils.errors import InputError
from utils.resize import scaled_size

EXACT = 1e-6  # pixels, to which floating-point products are exact: 1.1 * 10 is not 11
PATCHES_AT_ONCE = 64  # in one batch: of 32x32 LR pixels they are as many pixels as an image of 256x256


def bands(height: int, rows: int = 256, shared: int = 0) -> Iterator[slice]:
    """Bands of `rows` rows that cover a height; the last may be lower. Each also has `shared` rows of the next one.

    Floating-point copies of a whole large image would not fit into memory; those of a band do.
    """
    return (slice(top, min(top + rows + shared, height)) for top in range(0, height - shared, rows))


def starts(length: int, patch: int, step: int, remainder: int = 0) -> list[int]:
    """Where patches begin on an axis; if more than `remainder` pixels are left over, one more ends with the axis."""
    if length <= patch:
        return [0]
    regular = list(range(0, length - patch + 1, step))
    return [*regular, length - patch] if length - patch - regular[-1] > remainder else regular


def crop_length(length: int, patch: int, step: int) -> int:
    """The longest n * step + patch in `length`, or `length` itself if it holds no patch."""
    return length if length <= patch else (length - patch) // step * step + patch


@dataclass(frozen=True)
class Patches:
    """A grid of LR patches of patch_size x patch_size pixels, `step` pixels apart."""

    patch_size: int
    step: int

    def split(self, lr: Tensor) -> list[Tensor]:
        """(1,3,h,w) -> batches (b,3,p,p) of patches; p is patch_size, or the side of the image if that is smaller."""
        return [*torch.stack([lr[0, :, rows, cols] for rows, cols in self.windows(lr)]).split(PATCHES_AT_ONCE)]

    def windows(self, lr: Tensor, scale: float = 1) -> list[tuple[slice, slice]]:
        """Where the patches lie, row by row: in LR, or in HR at a scale.

        Raises InputError if the scale puts an edge between two pixels.
        """
        rows, cols = (self.spans(length, scale) for length in lr.shape[-2:])
        return list(product(rows, cols))

    def spans(self, length: int, scale: float) -> list[slice]:
        """Where the patches lie on an axis of `length` LR pixels."""
        firsts = starts(length, self.patch_size, self.step)
        edges = [(first * scale, min(first + self.patch_size, length) * scale) for first in firsts]
        if length > self.patch_size and any(abs(edge - round(edge)) > EXACT for pair in edges for edge in pair):
            raise InputError(f"scale {scale:g}: patches do not fall on whole pixels; work on whole images")
        return [slice(round(first), round(last)) for first, last in edges]

    def merge(self, batches: Iterable[Tensor], lr: Tensor, scale: float) -> Tensor:
        """Batches (b,3,P,P) -> (1,3,H,W), the mean where patches overlap. One batch is in memory at a time."""
        patches = chain.from_iterable(batches)
        first = next(patches)
        total = first.new_zeros(1, len(first), *scaled_size(lr, scale))
        count = first.new_zeros(1, 1, *scaled_size(lr, scale))
        for patch, (rows, cols) in zip(chain([first], patches), self.windows(lr, scale), strict=True):
            total[0, :, rows, cols] += patch
            count[0, :, rows, cols] += 1
        return total.div_(count)

    def merge_heaviest(self, batches: Sequence[Tensor], lr: Tensor, scale: float) -> Tensor:
        """Assignments (b,P,P) -> (1,H,W), the heaviest upsampler where patches overlap."""
        patches = torch.cat(list(batches))
        whole = patches.new_zeros(1, *scaled_size(lr, scale))
        for patch, (rows, cols) in zip(patches, self.windows(lr, scale), strict=True):
            whole[0, rows, cols] = torch.maximum(whole[0, rows, cols], patch)
        return whole
