"""The content of an image file restored: the colours by a model; gray, alpha and metadata around it."""

from dataclasses import replace

import numpy as np
from torch import Tensor

from inference.restore import Restore, Restored
from utils.image import Array, Image, fill_transparent, to_pixels, to_tensor
from utils.resize import imresize


def restore_image(image: Image, restore: Restore) -> list[tuple[Image, Restored]]:
    """Restore an image of any size: for each setting of `restore`, the image to write and the facts about it.

    It has the depth, gray, alpha and metadata of the given one. Alpha is resized on its own, by bicubic; colours that
    it hides do not bleed into the edges. Raises InputError for an output that no image file holds.
    """
    results = restore(visible(image), bits=image.bits)
    return [(as_kind_of(image, restored.pixels), restored) for restored in results]


def visible(image: Image) -> Tensor:
    """The colours as lr (1,3,h,w) in [0,1] for a model; visible ones replace those that alpha hides."""
    return to_tensor(image.pixels if image.alpha is None else fill_transparent(image.pixels, image.alpha))


def notes_on_colours(image: Image) -> tuple[str, ...]:
    """What is left out where the colours of an image alone are taken."""
    transparent = image.alpha is not None and bool(image.alpha.min() < np.iinfo(image.alpha.dtype).max)
    return (*image.notes, *["its transparency is left out"] * transparent)


def as_kind_of(image: Image, pixels: Array) -> Image:
    """Restored colours (H,W,3), of the image's depth, with its gray, its metadata, and its alpha resized."""
    alpha = image.alpha
    if alpha is not None:
        alpha = to_pixels(imresize(to_tensor(alpha), (len(pixels), pixels.shape[1])), image.bits)
    return replace(image, pixels=grayed(pixels) if image.gray else pixels, alpha=alpha)


def grayed(pixels: Array) -> Array:
    """(H,W,3) of 8 or 16 bits -> the mean of its channels as a view (H,W,3), which takes memory for one channel."""
    mean = pixels.mean(axis=2, keepdims=True, dtype=np.float32).round().astype(pixels.dtype)
    return np.broadcast_to(mean, pixels.shape)
