"""What the page shows of a result that is larger than a screen: the whole of it made smaller, and a window as it is."""

from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
from torch import Tensor

from inference.picture import as_kind_of
from inference.reduce import reduce_to
from utils.image import Array, Image, to_pixels
from utils.resize import imresize, imresize_window

SCREEN = 1600  # pixels: the longer side of what is shown as a whole
LOUPE = 360, 480  # (H,W) of the window
VIEW = ".webp"  # the kind of file of a view: small, and with alpha


class Place(NamedTuple):
    """A point of a picture, as shares of its height and width."""

    down: float
    across: float

    def window(self, size: tuple[int, int]) -> tuple[slice, slice]:
        """LOUPE pixels around it, within a picture of (H,W)."""
        ranges = []
        for share, most, length in zip(self, LOUPE, size, strict=True):
            start = min(max(0, round(share * length) - most // 2), max(0, length - most))
            ranges.append(slice(start, min(length, start + most)))
        return ranges[0], ranges[1]


def most_difficult(assignment: Array) -> Place:
    """The centre of what the heaviest upsampler was used for most, of (H,W)."""
    size = tuple(max(1, round(length / most)) for length, most in zip(assignment.shape, LOUPE, strict=True))
    shares = cv2.resize((assignment == assignment.max()).astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    row, col = np.unravel_index(int(shares.argmax()), shares.shape)
    return Place((int(row) + 0.5) / size[0], (int(col) + 0.5) / size[1])


def screen_size(size: tuple[int, int]) -> tuple[int, int]:
    """(H,W) of a picture as the page shows the whole."""
    share = min(1.0, SCREEN / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


def shrunk(array: Array, interpolation: int = cv2.INTER_AREA) -> Array:
    """(H,W) or (H,W,3) as the page shows the whole."""
    height, width = screen_size((array.shape[0], array.shape[1]))
    if (height, width) == array.shape[:2]:
        return array
    return np.asarray(cv2.resize(array, (width, height), interpolation=interpolation))


def view(image: Image) -> Image:
    """An image as a browser shows it: without what it says beside its colours."""
    return reduce_to(VIEW, Image(image.pixels, image.alpha, image.gray, image.icc))[0]


def whole_views(image: Image, lr: Tensor, result: Image) -> tuple[Image, Image]:
    """The picture `image`, whose colours are lr (1,3,h,w), by bicubic, and its result; both of a screen's size."""
    alpha = None if result.alpha is None else shrunk(result.alpha)
    after = replace(result, pixels=shrunk(result.pixels), alpha=alpha)
    before = to_pixels(imresize(lr, screen_size((result.pixels.shape[0], result.pixels.shape[1]))), image.bits)
    return view(as_kind_of(image, before)), view(after)


def loupe_views(image: Image, lr: Tensor, result: Image, place: Place) -> tuple[Image, Image]:
    """The same, as they are, around a place."""
    size = result.pixels.shape[0], result.pixels.shape[1]
    rows, cols = place.window(size)
    alpha = None if result.alpha is None else result.alpha[rows, cols]
    after = replace(result, pixels=result.pixels[rows, cols], alpha=alpha)
    before = to_pixels(imresize_window(lr[0], size, rows, cols)[None], image.bits)
    return view(replace(after, pixels=before)), view(after)
