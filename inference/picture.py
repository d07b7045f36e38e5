"""An image file's content restored: what stands around the model, for alpha, gray, depth and metadata."""

from dataclasses import replace

import numpy as np
from torch import Tensor

from inference.restore import Restore, Restored
from utils.image import Array, Image, fill_transparent, to_pixels, to_tensor
from utils.resize import imresize


def restore_image(image: Image, restore: Restore) -> list[tuple[Image, Restored]]:
    """An image of any size, from one pixel on, restored: for each setting of `restore`, what to write and its facts.

    What is written has the depth, gray, alpha and metadata of the original. Alpha is resized on its own, by bicubic;
    what lies hidden under it does not bleed into the edges.
    Raises InputError for an output that no image file holds.
    """
    results = restore(visible(image), bits=image.bits)
    return [(like(image, restored.pixels), restored) for restored in results]


def visible(image: Image) -> Tensor:
    """What the model gets: the colours as lr (1,3,h,w) in [0,1], without those that alpha hides."""
    return to_tensor(image.pixels if image.alpha is None else fill_transparent(image.pixels, image.alpha))


def notes_on_colours(image: Image) -> tuple[str, ...]:
    """What is left out where the colours of an image alone are taken."""
    transparent = image.alpha is not None and bool(image.alpha.min() < np.iinfo(image.alpha.dtype).max)
    return (*image.notes, *["its transparency is left out"] * transparent)


def like(image: Image, pixels: Array) -> Image:
    """Restored colours (H,W,3) of the image's depth as an image of its kind: gray, alpha and metadata are its own."""
    alpha = image.alpha
    if alpha is not None:
        alpha = to_pixels(imresize(to_tensor(alpha), (len(pixels), pixels.shape[1])), image.bits)
    return replace(image, pixels=grayed(pixels) if image.gray else pixels, alpha=alpha)


def grayed(pixels: Array) -> Array:
    """(H,W,3) of 8 or 16 bits -> the mean of its channels, repeated, (H,W,3); no room for three."""
    mean = pixels.mean(axis=2, keepdims=True, dtype=np.float32).round().astype(pixels.dtype)
    return np.broadcast_to(mean, pixels.shape)
