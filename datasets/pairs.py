"""Checks before a training: of its folders, of all pairs of HR and LR files, and whether some pairs show the same."""

import os
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from datasets.degrade import Pixels
from datasets.folder import PairedFolder
from utils.config import DataSpec, listed
from utils.errors import InputError
from utils.files import check_separate, existing, list_images, with_subfolders

SAMPLED = 8  # this many pairs are compared, which is enough to notice a wrong folder
MIDDLE = 256  # LR pixels on a side of the square that is compared, in the middle of each image
FAINT = 25.0  # levels: a smaller difference may be noise, or the image shows too little to tell


def check_data(spec: DataSpec) -> list[str]:
    """Compare the folders of a training, and the names and sizes of all pairs in them; no image is decoded.

    Returns a note if there are LR images without an HR image. Raises InputError for folders in each other, validation
    images that would be trained on, an HR image without an LR image, and a pair that does not fit.
    """
    train, train_lr, val, val_lr = map(listed, (spec.train, spec.train_lr, spec.val, spec.val_lr))
    check_separate([*train, *train_lr])
    check_separate([*val, *val_lr])
    check_apart([*val, *val_lr], [*train, *train_lr])
    unused: list[Path] = []
    for hr, lr in [*zip(train, train_lr, strict=False), *zip(val, val_lr, strict=False)]:  # as many of LR, or none
        used = set(PairedFolder(hr, lr, spec.scales[1], below=True).lr_paths)
        unused += [path for path in list_images(lr, below=True) if path not in used]
    note = "note: LR images without an HR image, which are not used"
    return [f"{note}: {len(unused)}, the first is {unused[0]}"] if unused else []


def check_apart(val: Sequence[str], train: Sequence[str]) -> None:
    """Raises InputError if a folder of validation images shares images with one of training images."""
    for folder, other in product(val, train):
        one, two = Path(folder).resolve(), Path(other).resolve()
        if one.is_relative_to(two) or two.is_relative_to(one) or searched(folder) & searched(other):
            where = "is a folder of training images, too" if one == two else f"shares images with {other}"
            remedy = "keep validation images apart"
            raise InputError(f"{folder}: {where}, so that it would be trained on as well; {remedy}")


def searched(folder: str) -> set[str]:
    """The folders in which images are found, with those that links lead to."""
    return {os.path.realpath(place) for place in with_subfolders(existing(folder))}


def doubts(files: Sequence[tuple[Path, Path]], images: Callable[[int], tuple[Pixels, Pixels]], scale: int) -> list[str]:
    """A warning if some of the pairs (HR, LR) show different things; a few pairs are compared."""
    numbers = np.unique(np.linspace(0, len(files) - 1, SAMPLED).round().astype(int)).tolist() if files else []
    strange = [number for number in numbers if not alike(*images(number), scale)]
    if not strange:
        return []
    share, (hr, lr) = f"{len(strange)} of {len(numbers)}", files[strange[0]]
    return [
        f"warning: {share} pairs that were compared show different things, such as {lr} and {hr}; check the pairing"
    ]


def alike(hr: Pixels, lr: Pixels, scale: int) -> bool:
    """Whether shrunk HR, whatever its brightness, is nearer to LR than a plain colour, or differs by at most FAINT."""
    height, width = (min(side, MIDDLE) for side in lr.shape[:2])
    top, left = (lr.shape[0] - height) // 2, (lr.shape[1] - width) // 2
    window = hr[scale * top : scale * (top + height), scale * left : scale * (left + width)]
    made = window.reshape(height, scale, width, scale, 3).mean((1, 3), dtype=np.float32)
    given = lr[top : top + height, left : left + width].astype(np.float32)
    made, given = (each - each.mean((0, 1)) for each in (made, given))
    return float((made - given).std()) <= max(float(made.std()), FAINT)
