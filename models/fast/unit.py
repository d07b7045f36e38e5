"""A residual unit of CARN and the fusion behind it on CPUs, for inference; unit.cpp contains the arithmetic."""

import ctypes
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from models.carn import GROUPS, ResidualUnit
from models.fast.build import of_type
from models.fast.linear import Matrix, Sources, as_image, matrix, sources
from models.fast.pixels import address
from models.fast.winograd import ImageSize, Weights, channels_last
from models.mlp import rows_of
from utils.device import empty


class Spatial(ctypes.Structure):
    """A 3x3 convolution; unit.cpp has the same structs."""

    _fields_ = (("weights", Weights), ("bias", ctypes.c_void_p))


class Pointwise(ctypes.Structure):
    """A 1x1 convolution."""

    _fields_ = (("weights", Matrix), ("bias", ctypes.c_void_p))


class UnitAndFusion(ctypes.Structure):
    """All that unit.cpp is given, which calls this Unit."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("image", ImageSize),
        ("groups", ctypes.c_int),
        *((name, Spatial) for name in ("first", "second")),
        *((name, Pointwise) for name in ("third", "fusion")),
        ("seen", Sources),
        *((name, ctypes.c_void_p) for name in ("u", "out")),
    )


def unit_and_fusion(
    x: Tensor, seen: Sequence[Tensor], unit: ResidualUnit, fusion: nn.Conv2d, kept: Tensor | None
) -> Tensor:
    """The folded fusion of `seen`, rows (n,c), and of the unit's result for x (b,c,h,w), channels last: (b,c,h,w).

    kept, rows (n,c), receives the unit's result.
    """
    batch, channels, h, w = x.shape
    out = empty((batch * h * w, channels), x.dtype)
    convs = [cast("nn.Conv2d", unit.body[i]) for i in (0, 2, 4)]
    biases = [cast("Tensor", conv.bias).to(x.dtype) for conv in (*convs, fusion)]  # kept alive until the call returns
    weights = [Weights(conv.weight.data_ptr(), *conv.weight.stride(), False) for conv in convs[:2]]
    matrices = [matrix(conv.weight) for conv in (convs[2], fusion)]
    asked = UnitAndFusion(
        x.data_ptr(),
        ImageSize(batch, h, w),
        GROUPS,
        *(Spatial(weight, bias.data_ptr()) for weight, bias in zip(weights, biases[:2], strict=True)),
        *(Pointwise(weight, bias.data_ptr()) for weight, bias in zip(matrices, biases[2:], strict=True)),
        sources(seen),
        *(address(kept), address(out)),
    )
    of_type(x.dtype, "unit")(asked, torch.get_num_threads())
    return as_image(out, x.shape)


def units_folded(x: Tensor, unit: ResidualUnit, fuse: nn.ModuleList) -> Tensor:
    """The cascading pattern of one unit and folded fusions, without gradients; x (b,c,h,w) -> (b,c,h,w)."""
    out = channels_last(x)
    seen = [rows_of(out)]
    for i, fusion in enumerate(fuse):
        kept = empty(seen[0].shape, x.dtype) if i + 1 < len(fuse) else None  # the last fusion alone sees the last unit
        conv = cast("nn.Conv2d", fusion[0])  # type: ignore[index]
        out = unit_and_fusion(out, seen, unit, conv, kept)
        if kept is not None:
            seen.append(kept)
    return out
