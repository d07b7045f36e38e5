"""From the images that Python programs have to lr and back: numpy arrays, torch tensors, Pillow's images, files."""

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike, fspath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import Tensor

from inference.picture import as_kind_of, grayed, visible
from inference.reduce import other_colours
from utils.decode import decode_8, read_image, upright
from utils.errors import InputError
from utils.image import Array, Image
from utils.metadata import read_orientation, read_profile

PEAKS = {1: 255, 2: 65535, 4: 1}  # bytes of a channel -> the value of white


class Given:
    """An image or a batch that was given: lr for the model, and results made into the same kind of image.

    Raises InputError for what is no image, and for values out of range.
    """

    def __init__(self, image: Any) -> None:
        self.image = image
        self.picture = picture_of(image) if isinstance(image, (str, PathLike, Pillow.Image)) else None
        if self.picture is None:
            check_image(image)
        self.lr = to_lr(image) if self.picture is None else visible(self.picture)  # (b,3,h,w)
        self.bits = 8 if self.picture or image.dtype.itemsize == 1 else 16  # of results

    def like(self, results: Sequence[Array]) -> Any:
        """Results (H,W,3) of `bits`, one per image, as the kind that was given."""
        if self.picture is not None:
            return pillow_of(as_kind_of(self.picture, results[0]))
        return self.pack([levels_like(pixels, self.image) for pixels in results])

    def pack(self, arrays: Sequence[NDArray[Any]]) -> Any:
        """An array per image as one array or tensor, with a batch's dimension if a batch was given."""
        if isinstance(self.image, Tensor):
            made = torch.from_numpy(np.stack(arrays)).to(self.image.device)
            return made if self.image.ndim == 4 else made[0]
        return arrays[0]


def check_image(image: Any) -> None:
    """Raises InputError for arrays, tensors and other things that are no image."""
    if isinstance(image, np.ndarray):
        known = image.dtype in (np.uint8, np.uint16, np.float32) and (image.ndim == 2 or image.shape[2:] == (3,))
    else:
        known = isinstance(image, Tensor) and image.dtype in (torch.uint8, torch.float32)
        known = known and image.ndim in (3, 4) and image.shape[-3] == 3
    if not known or 0 in image.shape:
        facts = f" {tuple(image.shape)} {image.dtype}" if isinstance(image, (np.ndarray, Tensor)) else ""
        raise InputError(
            f"the image is a {type(image).__name__}{facts}; give a numpy array (H,W,3) or (H,W) of uint8, uint16 or "
            "float32, a torch tensor (3,H,W) or (b,3,H,W) of uint8 or float32, an image of Pillow, or a file's path"
        )


def picture_of(image: str | PathLike[str] | Pillow.Image) -> Image:
    """A file, or an image of Pillow, decoded. Raises InputError for more than 8 bits per channel, or no image."""
    deep = "more than 8 bits per channel; give a numpy array instead"
    if not isinstance(image, Pillow.Image):
        picture = read_image(fspath(image))
        if picture.bits > 8:
            raise InputError(f"{fspath(image)}: {deep}")
        return replace(picture, notes=(*picture.notes, *other_colours("an image of Pillow", picture)))
    if image.mode.startswith(("I", "F")):
        raise InputError(f"the image is one of Pillow's of mode {image.mode}: {deep}")
    if 0 in image.size:
        raise InputError("the image is one of Pillow's without a pixel")
    gray = image.mode in ("1", "L", "LA")
    try:
        pixels, alpha = decode_8(image, 8)
        profile = read_profile(image, gray)
    except Exception as error:  # of a damaged file that was opened but not yet read, Pillow may raise anything
        raise InputError(f"the image of Pillow cannot be read: {error}") from error
    colours = np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels
    turn = read_orientation(image, None)  # only now, as Pillow turns a TIFF while it reads it, and removes what it read
    return Image(upright(colours, turn), None if alpha is None else upright(alpha, turn), gray, profile)


def pillow_of(picture: Image) -> Pillow.Image:
    """8-bit pixels as an image of Pillow: L, LA, RGB or RGBA, with the colour profile, EXIF, XMP and resolution."""
    planes = [picture.pixels[:, :, :1] if picture.gray else picture.pixels]
    planes += [] if picture.alpha is None else [picture.alpha[:, :, None]]
    array = np.concatenate(planes, axis=2)
    made = Pillow.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    said = {"icc_profile": picture.icc, "exif": picture.exif, "xmp": picture.xmp, "dpi": picture.dpi}
    made.info |= {name: value for name, value in said.items() if value is not None}
    return made


def to_lr(image: NDArray[Any] | Tensor) -> Tensor:
    """An image as lr (b,3,h,w) float32, gray repeated. Raises InputError unless its values lie in [0,1]."""
    if isinstance(image, Tensor):
        planes = image.detach().float().view(-1, *image.shape[-3:])
    else:
        planes = torch.from_numpy(np.array(np.atleast_3d(image).transpose(2, 0, 1)[None], np.float32, order="C"))
    lr = planes.expand(-1, 3, -1, -1) / PEAKS[image.dtype.itemsize]
    if not (lr.amin() >= 0 and lr.amax() <= 1):  # nan is neither
        raise InputError("the image's values must lie in [0,1]; clamp or scale them")
    return lr


def levels_like(pixels: Array, image: NDArray[Any] | Tensor) -> NDArray[Any]:
    """A result (H,W,3) of 8 or 16 bits in the layout of one image, with the range of its values."""
    if isinstance(image, Tensor):
        pixels = pixels.transpose(2, 0, 1)
    elif image.ndim == 2:
        pixels = grayed(pixels)[:, :, 0].copy()
    return pixels.astype(np.float32) / PEAKS[2] if image.dtype.itemsize == 4 else pixels
