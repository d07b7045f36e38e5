"""The ways to restore an image that benchmarks/inference.py compares: published, original, ours."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import published, runtimes
from inference.encoding import pcsr_restorer
from models.blocks import Backbone
from models.build import build
from models.checkpoint import load_model
from models.fast.engine import Engine
from models.fast.fold import folded
from models.flops import Flops, network_flops
from models.pcsr import PCSR
from models.setting import Setting
from utils.config import load_config
from utils.errors import InputError
from utils.image import Array

SCALE = 4
SETTINGS = {
    "all light": Setting("k", math.inf),
    "k=1": Setting("k", 1),
    "k=0": Setting("k", 0),
    "all heavy": Setting("k", -math.inf),
    "adaptive": Setting("adaptive"),
}
HEAVY = {"15% heavy": 0.15, "30% heavy": 0.3}  # of untrained models: about what trained ones choose at k = 1 and 0
AS_PUBLISHED = ("k=0", "30% heavy")  # what the published formulation and the exported model do too


class Output(NamedTuple):
    image: Tensor | Array  # (1,3,H,W), clamped or not; ours is rounded already, (H,W,3)
    flops: Flops


Way = Callable[[Tensor], Output]  # restores lr (1,3,h,w), which lies on the CPU


@dataclass(frozen=True)
class Source:
    """Where the two models come from; can be sent to another process."""

    model: str
    original: str
    backbone: str | None = None  # untrained models of this backbone's configs instead

    def load(self) -> tuple[PCSR, Backbone]:
        """The PCSR model and the original one. Raises InputError if they are something else."""
        if self.backbone:
            torch.manual_seed(0)
            configs = (f"configs/{self.backbone}-pcsr-phase1.yaml", f"configs/{self.backbone}-x{SCALE}.yaml")
            pcsr, original = (build(load_config(config).model).eval() for config in configs)
        else:
            pcsr, original = (load_model(path)[0] for path in (self.model, self.original))
        if not isinstance(pcsr, PCSR) or not isinstance(original, Backbone):
            raise InputError("--model must be a PCSR model and --original an original one")
        if pcsr.classifier is None:
            raise InputError(f"{self.model}: a phase 0 model has nothing to decide; give one of phase 1")
        if original.scale != SCALE:
            raise InputError(f"{self.original}: this original model does x{original.scale}, not x{SCALE}")
        return pcsr, original

    def settings(self, lr: Tensor) -> dict[str, Setting]:
        """What ours is measured at. Untrained, a classifier's choice means nothing: k is set for a share of heavy."""
        if not self.backbone:
            return SETTINGS
        engine = Engine(self.load()[0])
        shares = {name: Setting("k", k_for(engine, lr, share)) for name, share in HEAVY.items()}
        return {"all light": SETTINGS["all light"], **shares, "all heavy": SETTINGS["all heavy"]}


@torch.inference_mode()
def k_for(engine: Engine, lr: Tensor, heavy: float) -> float:
    """The k at which this share of an image's pixels is heavy."""
    log_odds = engine.log_odds(engine.encode(lr), (lr.shape[2] * SCALE, lr.shape[3] * SCALE))[:, -1].flatten()
    cost = engine.account.cost(SCALE)
    threshold = log_odds.kthvalue(round((1 - heavy) * log_odds.numel())).values
    return float(threshold) / math.log(cost[-1] / cost[0])


def ways(source: Source, settings: dict[str, Setting], device: torch.device) -> dict[str, Callable[[], Way]]:
    """All that can be compared here, by name; each is made when called for, of its own copy of the model."""
    pcsr, original = source.load()

    def ours(setting: Setting) -> Way:
        restore = pcsr_restorer(pcsr, [setting], device)

        def way(lr: Tensor) -> Output:
            (restored,) = restore(lr)
            return Output(restored.pixels, restored.flops)

        return way

    (middle,) = (settings[name].value for name in AS_PUBLISHED if name in settings)

    def as_published() -> Way:
        return published_way(copy.deepcopy(pcsr).to(device), middle, device)

    def eager() -> Way:
        model = copy.deepcopy(original).to(device)
        return original_way(original, lambda lr: model(lr.to(device)))

    def channels_last() -> Way:
        model = folded(original).to(device)  # fusing the ReLUs too, by torch.jit, gains nothing measurable
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return original_way(original, lambda lr: model(lr.to(device, memory_format=torch.channels_last)))

    def in_runtime(name: str) -> Way:
        if name == runtimes.OURS:
            return exported_way(pcsr, middle)
        return original_way(original, runtimes.runtime(name, original))

    return {
        "published": as_published,
        "original eager": eager,
        "original channels-last": channels_last,
        **{name: partial(in_runtime, name) for name in runtimes.usable(device)},
        **{name: partial(ours, setting) for name, setting in settings.items()},
    }


def load_pcsr(path: Path) -> PCSR:
    """A PCSR model that has something to decide. Raises InputError for another."""
    model, _ = load_model(path)
    if not isinstance(model, PCSR) or model.classifier is None:
        raise InputError(f"{path}: has nothing to decide; give a PCSR model of phase 1")
    return model


def original_way(model: Backbone, run: Callable[[Tensor], Tensor]) -> Way:
    per_lr = network_flops(model)
    return lambda lr: Output(run(lr), per_lr * (lr.shape[2] * lr.shape[3]))


def exported_way(model: PCSR, k: float) -> Way:
    """Our exported model, which executes what ours does."""
    account, run = model.account(), runtimes.deciding(model, SCALE)

    def way(lr: Tensor) -> Output:
        sr, assignment = run(lr, k)
        counts = torch.bincount(assignment.flatten(), minlength=len(account.upsamplers)).tolist()
        return Output(sr, account.total(lr.shape[2] * lr.shape[3], counts))

    return way


def published_way(model: PCSR, k: float, device: torch.device) -> Way:
    """The published formulation, which executes what the paper account bills its MLPs."""
    account, encoder = model.account(), network_flops(model.encoder)

    def way(lr: Tensor) -> Output:
        size = (lr.shape[2] * SCALE, lr.shape[3] * SCALE)
        sr, assignment = published.restore(model, lr.to(device), size, k)
        counts = torch.bincount(assignment.flatten(), minlength=len(account.upsamplers)).tolist()
        lr_pixels = lr.shape[2] * lr.shape[3]
        paper = account.total(lr_pixels, counts).paper
        mlps = paper - account.per_lr.paper * lr_pixels
        return Output(sr, Flops(paper, encoder.executed * lr_pixels + mlps))

    return way
