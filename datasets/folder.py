"""Folders of images: one folder of HR images, or HR and LR paired by name."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from utils.errors import InputError
from utils.files import list_images
from utils.image import read_image, to_tensor
from utils.resize import downscale

MIN_SIDE = 2  # LR pixels; less is no image to restore


class Pair(NamedTuple):
    """One evaluation image; lr is what the model gets."""

    name: str
    hr: Tensor  # (1,3,H,W) in [0,1]
    lr: Tensor  # (1,3,h,w) in [0,1]


def stem(path: Path) -> str:
    """A file's name without suffix and without an LR marker such as `x4` or `_x2.5` at its end."""
    return re.sub(r"(_?[xX]\d+(\.\d+)?)$", "", path.stem) or path.stem


class PairedFolder:
    """Iterates over evaluation pairs, in the order of the HR names, one in memory at a time.

    Without an LR folder the LR images are made from HR by antialiased bicubic, rounded to 8 bits unless `float_lr`.
    HR is cut at the left and top to a multiple of the scale (for one that is not an integer: to the size LR implies).
    Raises InputError for a missing or empty folder, an HR image without an LR one, and a pair that does not fit.
    """

    def __init__(self, hr_folder: str, lr_folder: str | None, scale: float, float_lr: bool = False) -> None:
        self.hr_paths = list_images(hr_folder)
        self.scale = scale
        self.float_lr = float_lr
        self.lr_paths: dict[str, Path] | None = None
        if lr_folder is not None:
            self.lr_paths = {stem(path): path for path in list_images(lr_folder)}
            missing = [path.name for path in self.hr_paths if stem(path) not in self.lr_paths]
            if missing:
                raise InputError(
                    f"{lr_folder}: no LR image for {missing[0]} ({len(missing)} missing); names must match"
                )

    def __len__(self) -> int:
        return len(self.hr_paths)

    def __iter__(self) -> Iterator[Pair]:
        return (self.load(path) for path in self.hr_paths)

    def load(self, path: Path) -> Pair:
        hr = to_tensor(read_image(path).pixels)
        if self.lr_paths is None:
            hr = mod_crop(hr, self.scale, path)
            lr = downscale(hr.double(), self.scale, eight_bit=not self.float_lr).float()
            return Pair(path.stem, hr, lr)
        lr_path = self.lr_paths[stem(path)]
        lr = check_side(to_tensor(read_image(lr_path).pixels), lr_path)
        rows, cols = scaled_size(lr, self.scale)
        if not (0 <= hr.shape[-2] - rows < self.scale and 0 <= hr.shape[-1] - cols < self.scale):
            raise InputError(
                f"{path}: HR is {hr.shape[-1]}x{hr.shape[-2]} but {lr_path} at x{self.scale:g} gives {cols}x{rows}; "
                "check --scale and the pairing"
            )
        return Pair(path.stem, hr[..., :rows, :cols], lr)


def scaled_size(lr: Tensor, scale: float) -> tuple[int, int]:
    """The HR size (H, W) of an LR image at a scale."""
    return round(lr.shape[-2] * scale), round(lr.shape[-1] * scale)


def check_side(lr: Tensor, path: Path) -> Tensor:
    """Raises InputError for an LR image of less than MIN_SIDE pixels on a side."""
    if min(lr.shape[-2:]) < MIN_SIDE:
        raise InputError(f"{path}: {lr.shape[-1]}x{lr.shape[-2]} pixels; LR needs {MIN_SIDE} on each side")
    return lr


def mod_crop(hr: Tensor, scale: float, path: Path) -> Tensor:
    """Cut (..., H, W) at the left/top so that LR has whole pixels. Raises InputError if LR would be too small."""
    low = [int(size / scale + 1e-9) for size in hr.shape[-2:]]
    if min(low) < MIN_SIDE:
        raise InputError(f"{path}: {hr.shape[-1]}x{hr.shape[-2]} pixels are too few for x{scale:g}")
    return hr[..., : round(low[0] * scale), : round(low[1] * scale)]
