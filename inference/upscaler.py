"""PCSR from Python: a model is prepared once, and then restores images; the result is of the kind that was given."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.encoding import Encoding
from inference.kinds import Given
from inference.precision import dtype_of, engine_for, name_of
from inference.restore import Restored, possible_scale
from inference.restorers import original_restorer, settings_for
from inference.tiles import TilePlan
from models.checkpoint import load_model
from models.decide import probabilities
from models.flops import Flops
from models.original import OriginalModel
from models.pcsr import PCSR
from models.setting import Precision, Setting, choose, number, truth
from utils.device import pick_device
from utils.errors import InputError


@dataclass(frozen=True, repr=False, eq=False)
class Info:
    """How an image was restored; of a batch, sums and means over its images.

    assignment and prob are torch tensors if the image is one, else numpy arrays; of a batch they have its dimension.
    """

    setting: str  # k=0, budget=0.6, adaptive, heavy of a model with nothing to decide, or original
    heavy_share: float  # the share of HR pixels that took the heaviest upsampler
    assignment: Any  # uint8 (H,W): 0 = light .. M-1 = heavy; None for an original model
    flops: Flops  # in both accounts
    flops_share: float  # compared with the same model when every pixel is heavy, paper account
    seconds: float
    prob: Any = None  # float32 (M,H,W), the classifier's probability of each upsampler, if it was asked for

    def __repr__(self) -> str:
        shares = f"{self.heavy_share:.1%} of the pixels heavy, {self.flops_share:.1%} of the FLOPs of all heavy"
        return f"Info({self.setting}: {shares}, {self.seconds:.2g} s)"


class Upscaler:
    """A model on a device. Nothing is trained through it: results carry no gradients. It can be pickled for a
    program that can import this project.
    """

    def __init__(
        self,
        model: PCSR | OriginalModel,
        device: torch.device,
        plan: TilePlan | None = None,
        precision: Precision = "float32",
    ) -> None:
        self.model, self.device, self.plan, self.precision = model, device, plan, precision
        self.precision_used = name_of(dtype_of(model, device, precision))  # never `auto`
        if isinstance(model, PCSR):
            self.engine = engine_for(model, device, self.precision_used)
        else:
            self.restore = original_restorer(model, device, plan, self.precision_used)

    @classmethod
    def load(
        cls, weights: str | PathLike[str], device: str | torch.device = "auto", precision: Precision = "auto"
    ) -> "Upscaler":
        """From a folder under save/, a `.safetensors`, or a file of torch.save (models/published.py).

        `device` is auto, cpu, cuda, cuda:1 or mps, `precision` that of a Setting. Raises InputError, a ValueError, if
        there is no such file, it holds no model, the device is lacking, or the precision is unknown.
        """
        return cls(load_model(Path(weights))[0], pick_device(device), precision=precision)

    def to(self, device: str | torch.device) -> "Upscaler":
        """The same model on another device. Raises InputError as `load` does."""
        return Upscaler(self.model, pick_device(device), self.plan, self.precision)

    def __reduce__(self) -> tuple[Any, ...]:
        return Upscaler, (self.model, self.device, self.plan, self.precision)

    def __repr__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        kind = f"{len(self.model.upsamplers)} upsamplers" if isinstance(self.model, PCSR) else "original"
        return f"Upscaler({type(self.model.encoder).__name__}, {kind}, {parameters} parameters, {self.device})"

    def upscale(
        self,
        image: Any,
        *,
        scale: float | None = None,
        k: float | None = None,
        budget: float | None = None,
        adaptive: bool = False,
        refinement: bool = True,
        skip_flat: float | None = None,
        prob: bool = False,
    ) -> tuple[Any, Info]:
        """Restore RGB or gray of any size; the result has the type, the channels and the device of the image.

        image: numpy (H,W,3) or (H,W), uint8, uint16, or float32 in [0,1]; torch (3,H,W) or (b,3,H,W), uint8, or
        float32 in [0,1]; an image of Pillow, with or without transparency; or the path of a file, whose result is an
        image of Pillow. Float results are rounded to the levels of 16 bits. Sides are rounded to whole pixels.
        scale, k, budget, adaptive and refinement are those of models.setting.Setting; give at most one of k, budget and
        adaptive, k = 0 if nothing is said. The scale is 4 if nothing is said; an original model has its own and decides
        nothing. skip_flat is in levels of 255: where 3x3 LR pixels range over no more, the image is only interpolated,
        and its pixels count as light; 0 turns this off. With prob, the classifier's probabilities are in the Info.

        Raises InputError, a ValueError, for anything else.
        """
        if isinstance(k, list | tuple):
            raise InputError(f"k must be one number, not {k!r}; upscale_each takes several")
        own = possible_scale(self.model, scale)
        setting = choose(k, budget, adaptive, refinement, own, self.precision_used)
        (result,) = self.results(image, [setting], self.plan_with(skip_flat), prob)
        return result

    def upscale_each(
        self,
        image: Any,
        k: Sequence[float] | NDArray[Any],
        *,
        scale: float | None = None,
        refinement: bool = True,
        skip_flat: float | None = None,
        prob: bool = False,
    ) -> list[tuple[Any, Info]]:
        """As `upscale`, for several k: the image is encoded once, and each has a result of its own."""
        own = possible_scale(self.model, scale)
        settings = [
            choose(each, None, False, refinement, own, self.precision_used) for each in np.atleast_1d(k).tolist()
        ]
        if not settings:
            raise InputError("k must be at least one number")
        return self.results(image, settings, self.plan_with(skip_flat), prob)

    def plan_with(self, skip_flat: float | None) -> TilePlan:
        """Raises InputError for what is no number of levels, and for an original model, which computes everything."""
        plan = self.plan or TilePlan()
        if skip_flat is not None:
            plan = replace(plan, skip_flat=number("skip_flat", skip_flat))
        if plan.skip_flat and not isinstance(self.model, PCSR):
            raise InputError("an original model computes the whole image: leave out skip_flat")
        return plan

    def results(self, image: Any, settings: Sequence[Setting], plan: TilePlan, prob: bool) -> list[tuple[Any, Info]]:
        given, prob = Given(image), truth("prob", prob)
        if given.picture and given.picture.notes:  # stacklevel: the line that called upscale or upscale_each
            warnings.warn(f"{fspath(image)}: {'; '.join(given.picture.notes)}", stacklevel=3)
        images = [self.restored(lr[None], settings, given.bits, plan, prob) for lr in given.lr]
        maps = given.pack([each for _, each in images if each is not None]) if prob else None
        return [
            (given.like([each.pixels for each in results]), info_of(results, given, maps))
            for results in zip(*(results for results, _ in images), strict=True)
        ]

    def restored(
        self, lr: Tensor, settings: Sequence[Setting], bits: int, plan: TilePlan, prob: bool
    ) -> tuple[list[Restored], NDArray[np.float32] | None]:
        """One image, lr (1,3,h,w), under each setting; and the probabilities, if asked for."""
        if not isinstance(self.model, PCSR):
            plain = ("k", 0.0)  # with or without refinement, so that one loop serves all models
            if prob or len(settings) != 1 or (settings[0].rule, settings[0].value) != plain:
                raise InputError("an original model has nothing to decide: leave out k, budget, adaptive and prob")
            return self.restore(lr, bits=bits), None
        settings = settings_for(self.model, settings)
        encoding = Encoding(self.engine, lr, settings[0].scale, bits, plan, keep=prob)
        results, log_odds = encoding.restore_once(settings), encoding.log_odds
        return results, None if log_odds is None else probabilities(log_odds)[0].cpu().numpy()


def info_of(results: Sequence[Restored], given: Given, prob: Any) -> Info:
    """The facts about the results of one image, or of a batch."""
    maps = [each.assignment for each in results if each.assignment is not None]
    flops = sum((each.flops for each in results), Flops(0, 0))
    share = flops.paper / sum(each.reference.paper for each in results)
    heavy_share = float(np.mean([each.heavy_share for each in results]))
    seconds = sum(each.seconds for each in results)
    return Info(results[0].setting, heavy_share, given.pack(maps) if maps else None, flops, share, seconds, prob)
