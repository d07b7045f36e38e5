"""Folders of images: one folder of HR images, or HR and LR paired by name."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from datasets.degrade import degradation_of, degraded
from utils.config import DegradeSpec
from utils.decode import read_image, stored_size
from utils.errors import InputError
from utils.files import data_name, list_images
from utils.image import to_tensor
from utils.resize import downscale, scaled_size

MIN_SIDE = 2  # LR pixels; a smaller image cannot be restored


class Pair(NamedTuple):
    """One evaluation image; the model gets lr."""

    name: str
    hr: Tensor  # (1,3,H,W) in [0,1]
    lr: Tensor  # (1,3,h,w) in [0,1]


def by_stem(paths: Sequence[Path], folder: str | Path, strip_marker: bool = False) -> dict[str, Path]:
    """Files by their path in the folder, without suffix, and optionally without an LR marker such as `x4` or `_x2.5`.

    Raises InputError if two files get the same name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        stem = (re.sub(r"_?[xX]\d+(\.\d+)?$", "", path.stem) or path.stem) if strip_marker else path.stem
        name = (path.parent.relative_to(folder) / stem).as_posix()
        if name in found:
            raise InputError(f"{path}: has the name of {found[name].name}; rename one")
        found[name] = path
    return found


def lr_images(hr: Mapping[str, Path], folder: str | Path, paths: Sequence[Path]) -> list[Path]:
    """The LR image of each HR image, which are given by_stem: of the same name, or of that name with an LR marker.

    Raises InputError if one is missing.
    """
    found = by_stem(paths, folder)
    if not hr.keys() <= found.keys():
        others = [path for name, path in found.items() if name not in hr]
        found = by_stem(others, folder, strip_marker=True) | found
    if missing := [path.name for name, path in hr.items() if name not in found]:
        raise InputError(f"{folder}: no LR image for {missing[0]} ({len(missing)} missing); names must match")
    return [found[name] for name in hr]


class PairedFolder:
    """Iterates over evaluation pairs, in the order of the HR names, one in memory at a time.

    With `below` the images in subfolders count too. If there are several processes, each gets a share: every `world`-th
    image from the `rank`-th on. A share may be empty.

    HR is cut at the right and bottom to a multiple of the scale (for one that is not an integer: to the size that LR
    implies). Without an LR folder the LR images are made from HR by antialiased bicubic, rounded to 8 bits unless
    `float_lr`, and degraded if `degrade` is given, in a way that depends on their names.

    Raises InputError for a missing or empty folder, an HR image without an LR one, and a pair that does not fit.
    """

    def __init__(
        self,
        hr_folder: str,
        lr_folder: str | None,
        scale: float,
        float_lr: bool = False,
        rank: int = 0,
        world: int = 1,
        below: bool = False,
        degrade: DegradeSpec | None = None,
    ) -> None:
        hr = by_stem(list_images(hr_folder, below), hr_folder)
        lr: list[Path | None] = [None] * len(hr)
        if lr_folder is not None:
            found = lr_images(hr, lr_folder, list_images(lr_folder, below))
            check_stored(list(hr.values()), found, scale)
            lr = [*found]
        self.names, self.hr_paths, self.lr_paths = list(hr)[rank::world], [*hr.values()][rank::world], lr[rank::world]
        self.scale = scale
        self.float_lr, self.degrade = float_lr, degrade

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Pair]:
        return (self.load(number) for number in range(len(self)))

    def check(self) -> None:
        """Decode everything once. Raises InputError wherever iterating would raise it."""
        for number in range(len(self)):
            self.read(number)

    def read(self, number: int) -> tuple[Tensor, Tensor | None]:
        """HR, cut to fit, and LR if it is read from a file."""
        path, lr_path = self.hr_paths[number], self.lr_paths[number]
        hr = to_tensor(read_image(path).pixels)
        if lr_path is None:
            return mod_crop(hr, self.scale, path), None
        lr = check_side(to_tensor(read_image(lr_path).pixels), lr_path)
        return fit(hr, lr, self.scale, path, lr_path), lr

    def load(self, number: int) -> Pair:
        hr, lr = self.read(number)
        if lr is None:
            shrink = partial(downscale, scale=self.scale, eight_bit=not self.float_lr)
            degradations = [degradation_of(self.degrade, self.names[number])] if self.degrade else []
            lr = degraded(hr, degradations, shrink)
        return Pair(self.names[number], hr, lr)


def named_folders(folders: Sequence[str | Path]) -> dict[str, str]:
    """Folders by the name of their data set. Raises InputError for equal names and for a folder that is named twice."""
    named: dict[str, str] = {}
    for folder in map(str, folders):
        name = data_name(folder)
        other = named.get(name)
        if other is not None and Path(folder).resolve() == Path(other).resolve():
            raise InputError(f"{folder}: named twice; name every folder once")
        if other is not None:
            reason = f"data folders of the same name, {name}, so that their results could not be told apart; rename one"
            raise InputError(f"{other} and {folder}: {reason}")
        named[name] = folder
    return named


def fit(hr: Tensor, lr: Tensor, scale: float, path: Path, lr_path: Path) -> Tensor:
    """Cut (..., H, W) at the right and bottom to the size of LR. Raises InputError if it is not about that size."""
    check_sides(hr.shape[-2:], lr.shape[-2:], scale, path, lr_path)
    rows, cols = scaled_size(lr, scale)
    return hr[..., :rows, :cols]


def fits(hr: Sequence[int], lr: Sequence[int], scale: float) -> bool:
    """Whether the sides of HR are about those that LR gives: less than one LR pixel more, and none less."""
    return all(0 <= side - round(low * scale) < scale for side, low in zip(hr, lr, strict=True))


def check_stored(hr: Sequence[Path], lr: Sequence[Path], scale: float) -> None:
    """Compare the sizes that the files of all pairs claim; none is decoded, so that it takes about a second for 1000.

    Raises InputError for the first pair that does not fit. Files that cannot be read, and photographs that lie on their
    side, are only found when they are decoded.
    """
    unfit = []
    for path, lr_path in zip(hr, lr, strict=True):
        size, low = stored_size(path)[::-1], stored_size(lr_path)[::-1]
        if 0 not in (*size, *low) and not fits(size, low, scale) and not fits(size, low[::-1], scale):
            unfit.append((size, low, scale, path, lr_path))
    if unfit:
        check_sides(*unfit[0], unfit=len(unfit))


def check_sides(hr: Sequence[int], lr: Sequence[int], scale: float, path: Path, lr_path: Path, unfit: int = 1) -> None:
    """Raises InputError if the sides (rows, columns) of HR are not about those that LR gives.

    `unfit` is how many pairs do not fit.
    """
    if not fits(hr, lr, scale):
        rows, cols = (round(side * scale) for side in lr)
        raise InputError(
            f"{path}: HR is {hr[1]}x{hr[0]} but {lr_path} at x{scale:g} gives {cols}x{rows}; "
            f"{f'{unfit} pairs do not fit; ' if unfit > 1 else ''}check the scale and the pairing"
        )


def check_side(lr: Tensor, path: Path) -> Tensor:
    """Raises InputError for an LR image of less than MIN_SIDE pixels on a side."""
    if min(lr.shape[-2:]) < MIN_SIDE:
        raise InputError(f"{path}: {lr.shape[-1]}x{lr.shape[-2]} pixels; LR needs {MIN_SIDE} on each side")
    return lr


def lr_size(size: Sequence[int], scale: float) -> tuple[int, int]:
    """The whole LR pixels, height and width, that HR of a height and width gives."""
    height, width = (int(side / scale + 1e-9) for side in size)
    return height, width


def mod_crop(hr: Tensor, scale: float, path: Path) -> Tensor:
    """Cut (..., H, W) at the right and bottom to a size that gives whole LR pixels.

    Raises InputError if LR would be too small.
    """
    if min(lr_size(hr.shape[-2:], scale)) < MIN_SIDE:
        raise InputError(f"{path}: {hr.shape[-1]}x{hr.shape[-2]} pixels are too few for x{scale:g}")
    height, width = fitting_size(hr.shape[-2:], scale)
    return hr[..., :height, :width]


def fitting_size(size: Sequence[int], scale: float) -> tuple[int, int]:
    """The height and width of HR that belong to whole LR pixels."""
    height, width = lr_size(size, scale)
    return round(height * scale), round(width * scale)
