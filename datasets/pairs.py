"""A look at training pairs of HR and LR images from files: do they show the same?"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.pool import Pool

SAMPLED = 8  # pairs
MIDDLE = 256  # LR pixels on a side, in the middle of an image
FAINT = 25.0  # levels: LR that differs by no more is noisy, or of an image that shows little


def doubts(hr: Pool, lr: Pool, scale: int, files: Sequence[Path]) -> Iterator[str]:
    """A line of some pairs that show different things, if there are any, and one of LR files without an HR image."""
    numbers = np.unique(np.linspace(0, len(hr) - 1, SAMPLED).round().astype(int)).tolist()
    strange = [number for number in numbers if not alike(hr.image(number), lr.image(number), scale)]
    if strange:
        share, first = f"{len(strange)} of {len(numbers)}", f"{lr.paths[strange[0]]} and {hr.paths[strange[0]]}"
        yield f"warning: {share} pairs that were compared show different things, such as {first}; check the pairing"
    paired = set(lr.paths)
    if alone := [path for path in files if path not in paired]:
        yield f"note: LR images without an HR image, which are not used: {len(alone)}, the first is {alone[0]}"


def alike(hr: NDArray[np.uint8], lr: NDArray[np.uint8], scale: int) -> bool:
    """Whether HR made small, whatever its brightness, is nearer to LR than a plain colour is, or near in any case."""
    height, width = (min(side, MIDDLE) for side in lr.shape[:2])
    top, left = (lr.shape[0] - height) // 2, (lr.shape[1] - width) // 2
    window = hr[scale * top : scale * (top + height), scale * left : scale * (left + width)]
    made = window.reshape(height, scale, width, scale, 3).mean((1, 3), dtype=np.float32)
    given = lr[top : top + height, left : left + width].astype(np.float32)
    made, given = (each - each.mean((0, 1)) for each in (made, given))
    return float((made - given).std()) <= max(float(made.std()), FAINT)
