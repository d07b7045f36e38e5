"""Which type of number the networks compute in: the one place where the precision of a setting gets its meaning."""

from typing import cast

import torch

from models.fast.build import has_half
from models.fast.engine import Engine
from models.original import OriginalModel
from models.pcsr import PCSR
from models.setting import Precision, check_precision


def dtype_of(model: OriginalModel | PCSR, device: torch.device, precision: Precision) -> torch.dtype:
    """The type of number that a precision means for a model on a device.

    `auto` is float16 for PCSR on a CPU that computes in it: there it is faster than float32, and the shipped models
    lose at most 0.003 dB (tests/quality). Elsewhere it is float32. Raises InputError for an unknown name.
    """
    check_precision(precision)
    if precision != "auto":
        return cast("torch.dtype", getattr(torch, precision))
    return torch.float16 if isinstance(model, PCSR) and device.type == "cpu" and has_half() else torch.float32


def name_of(dtype: torch.dtype) -> Precision:
    """The precision that a type of number is called by, which is never `auto`."""
    return cast("Precision", str(dtype).rpartition(".")[2])


def engine_for(model: PCSR, device: torch.device, precision: Precision) -> Engine:
    """A PCSR model made ready to restore in a precision. Raises InputError for an unknown name."""
    return Engine(model, device, dtype_of(model, device, precision))
