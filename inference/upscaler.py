"""PCSR from Python: a model made ready once; an array or a tensor in, the same kind out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.encoding import Encoding, possible
from inference.picture import grayed
from inference.restore import Restored
from inference.tiles import TilePlan
from models.checkpoint import load_model
from models.fast.engine import Engine
from models.flops import Flops
from models.pcsr import PCSR
from models.setting import choose
from utils.device import pick_device
from utils.errors import InputError

Given = TypeVar("Given", NDArray[Any], Tensor)
PEAKS = {1: 255, 2: 65535, 4: 1}  # the value of white, by the bytes of a channel


@dataclass(frozen=True)
class Info(Generic[Given]):
    """How an image was restored; of a batch, sums and means over its images."""

    setting: str  # k=0, budget=0.6, adaptive, or heavy of a model with nothing to decide
    heavy_share: float  # of the HR pixels, the share of the heaviest upsampler
    assignment: Given = field(repr=False)  # uint8 (H,W), of a batch (b,H,W): 0 = light .. M-1 = heavy
    flops: Flops  # in both accounts
    flops_share: float  # of what the all-heavy model takes, paper account
    seconds: float


class Upscaler:
    """A PCSR model on a device. Nothing is trained through it: results carry no gradients. It can be pickled."""

    def __init__(self, model: PCSR, device: torch.device, plan: TilePlan | None = None) -> None:
        self.model, self.plan = model, plan
        self.engine = Engine(model, device)

    @classmethod
    def load(cls, weights: str | PathLike[str], device: str = "auto") -> "Upscaler":
        """From a folder under save/, a `.safetensors`, or a published `.pth`; `device` is auto, cpu, cuda or mps.

        Raises InputError, a ValueError, if there is no such file, it holds no PCSR model, or the device is lacking.
        """
        model, _ = load_model(Path(weights))
        if not isinstance(model, PCSR):
            raise InputError(f"{weights}: an original model; give the weights of a PCSR model")
        return cls(model, pick_device(device))

    def to(self, device: str | torch.device) -> "Upscaler":
        """The same model on another device."""
        return Upscaler(self.model, torch.device(device), self.plan)

    def __reduce__(self) -> tuple[Any, ...]:
        return Upscaler, (self.model, self.engine.device, self.plan)

    def __repr__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        parts = f"{type(self.model.encoder).__name__}, {self.engine.upsampler_count} upsamplers"
        return f"Upscaler({parts}, {parameters} parameters, {self.engine.device})"

    def upscale(
        self,
        image: Given,
        *,
        scale: float = 4.0,
        k: float | None = None,
        budget: float | None = None,
        adaptive: bool = False,
        refinement: bool = True,
    ) -> tuple[Given, Info[Given]]:
        """Restore RGB or gray of any size; the result has the type, the channels and the device of the image.

        image: numpy (H,W,3) or (H,W), uint8, uint16, or float32 in [0,1]; torch (3,H,W) or (b,3,H,W), uint8, or
        float32 in [0,1]. Floats come back rounded to the levels of 16 bits. Sides are rounded to whole pixels.
        scale, k, budget, adaptive and refinement are those of models.setting.Setting; give at most one of k, budget and
        adaptive, k = 0 if nothing is said.

        Raises InputError, a ValueError, for anything else.
        """
        settings = possible(self.model, [choose(k, budget, adaptive, refinement, scale)])
        check_image(image)
        bits = 8 if image.dtype.itemsize == 1 else 16
        results = [
            Encoding(self.engine, lr[None], scale, bits, self.plan, keep=False).restore(settings)[0]
            for lr in to_lr(image)
        ]
        pixels = like_given([levels_like(each.pixels, image) for each in results], image)
        return pixels, info_of(results, image)


def check_image(image: Any) -> None:
    """Raises InputError for what `Upscaler.upscale` does not take."""
    if isinstance(image, np.ndarray):
        known = image.dtype in (np.uint8, np.uint16, np.float32) and (image.ndim == 2 or image.shape[2:] == (3,))
    else:
        known = isinstance(image, Tensor) and image.dtype in (torch.uint8, torch.float32)
        known = known and image.ndim in (3, 4) and image.shape[-3] == 3
    if not known or 0 in image.shape:
        facts = f" {tuple(image.shape)} {image.dtype}" if isinstance(image, (np.ndarray, Tensor)) else ""
        raise InputError(
            f"the image is a {type(image).__name__}{facts}; give a numpy array (H,W,3) or (H,W) of uint8, uint16 or "
            "float32, or a torch tensor (3,H,W) or (b,3,H,W) of uint8 or float32"
        )


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


def levels_like(pixels: NDArray[Any], image: NDArray[Any] | Tensor) -> NDArray[Any]:
    """A result (H,W,3) of 8 or 16 bits in the layout of one image, with the range of its values."""
    if isinstance(image, Tensor):
        pixels = pixels.transpose(2, 0, 1)
    elif image.ndim == 2:
        pixels = grayed(pixels)[:, :, 0].copy()
    return pixels.astype(np.float32) / PEAKS[2] if image.dtype.itemsize == 4 else pixels


def like_given(arrays: Sequence[NDArray[Any]], image: Given) -> Given:
    """An array per image, as one of the kind of the image or batch that was given."""
    if isinstance(image, Tensor):
        made = torch.from_numpy(np.stack(arrays)).to(image.device)
        return made if image.ndim == 4 else made[0]
    return arrays[0]


def info_of(results: Sequence[Restored], image: Given) -> Info[Given]:
    """What the results of one image, or of a batch, have to say."""
    assignment = like_given([each.assignment for each in results if each.assignment is not None], image)
    flops = sum((each.flops for each in results), Flops(0, 0))
    share = flops.paper / sum(each.reference.paper for each in results)
    heavy_share = float(np.mean([each.heavy_share for each in results]))
    return Info(results[0].setting, heavy_share, assignment, flops, share, sum(each.seconds for each in results))
