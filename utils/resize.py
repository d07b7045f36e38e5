"""MATLAB-compatible antialiased bicubic resize: two small banded matrix products, batched, on any device.

The kernel is the cubic with a = -0.5; when shrinking it is stretched by the scale (antialiasing).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from utils.errors import InputError
from utils.image import Array

Border = Literal["symmetric", "clamp"]
ROWS_AT_ONCE = 64  # output rows per product: the matrix is banded, so a band needs a few input rows only


@dataclass(frozen=True)
class Taps:
    """The inputs that each output reads, and their weights."""

    index: Tensor  # (size, taps) int64, inside the image
    weight: Tensor  # (size, taps) float64, rows sum to 1


def cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel, a = -0.5."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, near, torch.where(x <= 2, far, torch.zeros_like(x)))


def bicubic_taps(n: int, size: int, border: Border) -> Taps:
    """Taps for one axis, n inputs -> size outputs, scale = size / n; pixel centres at half integers."""
    scale = size / n
    stretch = max(1.0, 1.0 / scale)  # only shrinking antialiases
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) / scale - 0.5
    left = torch.floor(centre - 2 * stretch).long()
    taps = torch.arange(int(4 * stretch) + 3)
    position = left[:, None] + taps  # (size, taps), partly outside the image
    weight = cubic((centre[:, None] - position) / stretch)
    weight = weight / weight.sum(1, keepdim=True)
    if border == "clamp":
        index = position.clamp(0, n - 1)
    else:
        mirrored = position.remainder(2 * n)  # ... 1 0 | 0 1 .. n-1 | n-1 n-2 ...
        index = torch.where(mirrored < n, mirrored, 2 * n - 1 - mirrored)
    return Taps(index, weight)


def resize_rows(image: Tensor, size: int, border: Border, dtype: torch.dtype | None = None) -> Tensor:
    """Resize the second last axis: (..., n, m) -> (..., size, m), as a matrix product per band of output rows.

    The computation and the result have `dtype`, or else the type of the input.
    """
    dtype = dtype or image.dtype
    taps = bicubic_taps(image.shape[-2], size, border)
    bands = []
    for top in range(0, size, ROWS_AT_ONCE):
        index, weight = taps.index[top : top + ROWS_AT_ONCE], taps.weight[top : top + ROWS_AT_ONCE]
        low, high = int(index.min()), int(index.max()) + 1
        matrix = torch.zeros(len(index), high - low, dtype=torch.float64).scatter_add_(1, index - low, weight)
        sent = matrix.to(dtype).to(image.device, non_blocking=image.is_cuda)  # CUDA need not be waited for
        bands.append(sent @ image[..., low:high, :].to(dtype))  # large images are copied in no other way
    return torch.cat(bands, dim=-2)


def imresize(image: Tensor, size: tuple[int, int], dtype: torch.dtype | None = None) -> Tensor:
    """Resize (..., h, w) of floats to (..., *size), not clamped; float through both passes.

    Any size, up or down. The computation and the result have `dtype`, or else the type of the input: float64 gives
    the same digits as the Python tools that the field uses. Raises InputError if a size is below 1.
    """
    if min(size) < 1:
        raise InputError(f"cannot resize {image.shape[-1]}x{image.shape[-2]} to {size[1]}x{size[0]} pixels")
    rows = resize_rows(image, size[0], "symmetric", dtype)  # (..., H, w)
    return resize_rows(rows.transpose(-1, -2), size[1], "symmetric").transpose(-1, -2)


def imresize_window(image: Tensor, size: tuple[int, int], rows: slice, cols: slice) -> Tensor:
    """imresize(image, size)[..., rows, cols] for image (c,h,w); nothing else of it is computed."""
    down, across = (bicubic_taps(n, m, "symmetric") for n, m in zip(image.shape[-2:], size, strict=True))
    read = across.index[cols]
    first = int(read.min())
    near = image[..., first : int(read.max()) + 1]  # (c,h,n)
    tall = near[:, down.index[rows]] * down.weight[rows, :, None].to(image.dtype)  # (c,R,taps,n)
    wide = tall.sum(2)[..., read - first] * across.weight[cols].to(image.dtype)  # (c,R,C,taps)
    return wide.sum(-1)


def round_8bit(image: Tensor) -> Tensor:
    """Values in [0,1] -> the nearest of the 256 levels an 8-bit file holds, half up, clipped."""
    return (image * 255 + 0.5).floor().clamp(0, 255) / 255


def imresize_matlab_uint8(image: Tensor, size: tuple[int, int]) -> Tensor:
    """MATLAB's imresize on uint8 (..., h, w): rows first, rounded to 8 bits after each pass, border pixel repeated."""
    rows = resize_rows(image.double(), size[0], "clamp").add(0.5).floor().clamp(0, 255)
    cols = resize_rows(rows.transpose(-1, -2), size[1], "clamp").transpose(-1, -2)
    return cols.add(0.5).floor().clamp(0, 255).to(torch.uint8)


def scaled_size(lr: Tensor | Array, scale: float) -> tuple[int, int]:
    """The HR size (H, W) of an LR image (..., h, w) at a scale."""
    return round(lr.shape[-2] * scale), round(lr.shape[-1] * scale)


def downscale(hr: Tensor, scale: float, eight_bit: bool = True, dtype: torch.dtype = torch.float64) -> Tensor:
    """The LR image of the protocol: hr (..., H, W) in [0,1] -> (..., round(H/scale), round(W/scale)) in [0,1].

    Rounded to 8 bits as real LR files are, or left float and unclipped as in the published evaluation. Computed in
    `dtype`: in float64 as the field's tools do, or faster in float32; the result has the type of hr.
    """
    size = (round(hr.shape[-2] / scale), round(hr.shape[-1] / scale))
    lr = imresize(hr, size, dtype=dtype)
    return (round_8bit(lr) if eight_bit else lr).to(hr.dtype)
