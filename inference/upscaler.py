"""PCSR from Python: a model made ready once; an array or a tensor in, the same kind out."""

from collections.abc import Sequence
from dataclasses import dataclass
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
from utils.image import to_tensor

Picture = TypeVar("Picture", NDArray[Any], Tensor)
FINE = 65535  # levels of a result in floats, above 0


@dataclass(frozen=True)
class Info(Generic[Picture]):
    """How an image was restored; of a batch, sums and means over its images."""

    setting: str  # k=0, budget=0.6, adaptive, or heavy of a model with nothing to decide
    heavy_share: float  # of the HR pixels, the share of the heaviest upsampler
    assignment: Picture  # uint8 (H,W), of a batch (b,H,W): 0 = light .. M-1 = heavy
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
        encoder, parameters = type(self.model.encoder).__name__, sum(p.numel() for p in self.model.parameters())
        return (
            f"Upscaler({encoder}, {self.engine.upsamplers} upsamplers, {parameters} parameters, {self.engine.device})"
        )

    def upscale(
        self,
        image: Picture,
        *,
        scale: float = 4.0,
        k: float | None = None,
        budget: float | None = None,
        adaptive: bool = False,
        refinement: bool = True,
    ) -> tuple[Picture, Info[Picture]]:
        """Restore RGB or gray of any size; the result has the type, the channels and the device of the image.

        image: numpy (H,W,3) or (H,W), uint8, uint16, or float32 in [0,1]; torch (3,H,W) or (b,3,H,W), uint8, or
        float32 in [0,1]. Floats come back rounded to the levels of 16 bits. Sides are rounded to whole pixels.
        scale, k, budget, adaptive and refinement are those of models.setting.Setting; give at most one of k, budget and
        adaptive, k = 0 if nothing is said.

        Raises InputError, a ValueError, for anything else.
        """
        settings = possible(self.model, [choose(k, budget, adaptive, refinement, scale)])
        lr, bits = to_lr(image)
        results = [
            Encoding(self.engine, each[None], scale, bits, self.plan, keep=False).restore(settings)[0] for each in lr
        ]
        return as_given(stacked([each.pixels for each in results]), image), described(results, image)


def to_lr(image: NDArray[Any] | Tensor) -> tuple[Tensor, int]:
    """lr (b,3,h,w) float32, and the depth of the result that the model is asked for. Raises InputError."""
    shape = tuple(image.shape) if isinstance(image, (np.ndarray, Tensor)) else None
    if isinstance(image, np.ndarray):
        known = image.dtype in (np.uint8, np.uint16, np.float32) and (image.ndim == 2 or shape[2:] == (3,))
    elif isinstance(image, Tensor):
        known = image.dtype in (torch.uint8, torch.float32) and image.ndim in (3, 4) and image.shape[-3] == 3
    else:
        known = False
    if shape is None or not known or 0 in shape:
        what = type(image).__name__ + ("" if shape is None else f" {shape} {image.dtype}")
        raise InputError(
            f"the image is a {what}; give a numpy array (H,W,3) or (H,W) of uint8, uint16 or float32, "
            "or a torch tensor (3,H,W) or (b,3,H,W) of uint8 or float32"
        )
    lr = from_array(image) if isinstance(image, np.ndarray) else from_tensor(image)
    if not (lr.amin() >= 0 and lr.amax() <= 1):  # nan is neither
        raise InputError("the image's values must lie in [0,1]; clamp or scale them")
    return lr, 8 if image.dtype in (np.uint8, torch.uint8) else 16


def from_array(image: NDArray[Any]) -> Tensor:
    """(H,W,3) or (H,W) -> (1,3,H,W) float32, gray repeated."""
    if image.dtype == np.float32:
        lr = torch.from_numpy(np.array(np.atleast_3d(image).transpose(2, 0, 1)[None], order="C"))
    else:
        lr = to_tensor(image)
    return lr.repeat(1, 3 // lr.shape[1], 1, 1)


def from_tensor(image: Tensor) -> Tensor:
    """(3,H,W) or (b,3,H,W) -> (b,3,H,W) float32."""
    batch = image.detach() if image.ndim == 4 else image.detach()[None]
    return batch.float().div(255) if batch.dtype == torch.uint8 else batch


def as_given(pixels: NDArray[Any], image: Picture) -> Picture:
    """Results (b,H,W,3), uint8 or uint16, as what the image was."""
    if isinstance(image, Tensor):
        planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        made = torch.from_numpy(planes if image.dtype == torch.uint8 else planes.astype(np.float32) / FINE)
        return made.to(image.device) if image.ndim == 4 else made[0].to(image.device)
    (array,) = pixels
    if image.ndim == 2:
        array = grayed(array)[:, :, 0].copy()
    return array.astype(np.float32) / FINE if image.dtype == np.float32 else array


def described(results: Sequence[Restored], image: Picture) -> Info[Picture]:
    """What the results of one image, or of a batch, have to say."""
    assignments = stacked([each.assignment for each in results if each.assignment is not None])
    flops = sum((each.flops for each in results), Flops(0, 0))
    paper = sum(each.reference.paper for each in results)
    if isinstance(image, Tensor):
        made = torch.from_numpy(assignments).to(image.device)
        assignment = made if image.ndim == 4 else made[0]
    else:
        assignment = assignments[0]
    heavy_share = float(np.mean([each.heavy_share for each in results]))
    seconds = sum(each.seconds for each in results)
    return Info(results[0].setting, heavy_share, assignment, flops, flops.paper / paper, seconds)


def stacked(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """(b,...) of arrays (...), without a copy if there is one."""
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)
