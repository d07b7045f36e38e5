"""The ways to restore an image that benchmarks/inference.py compares, published, original, ours; and their memory."""

import copy
import math
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import published
from benchmarks.common import SCALE, load_pcsr
from benchmarks.runtimes import OURS, session_of, usable
from inference.encoding import pcsr_restorer
from models.blocks import OriginalModel
from models.build import build_original, build_pcsr
from models.checkpoint import load_model
from models.fast.engine import Engine
from models.fast.fold import folded
from models.flops import Flops, PCSRFlops, both, network_flops
from models.pcsr import PCSR
from models.setting import Setting
from utils.config import OriginalSpec, PCSRSpec, load_config
from utils.device import pick_device
from utils.errors import InputError
from utils.image import Array

SETTINGS = {
    "all light": Setting("k", math.inf),
    "k=1": Setting("k", 1),
    "k=0": Setting("k", 0),
    "all heavy": Setting("k", -math.inf),
    "adaptive": Setting("adaptive"),
}
HEAVY = {"15% heavy": 0.15, "30% heavy": 0.3}  # of untrained models: about what trained ones choose at k = 1 and 0
AS_PUBLISHED = ("k=0", "30% heavy")  # what the published formulation and the exported model do too
STATUS = Path("/proc/self/status")
MB = 1e6

# restores lr (1,3,h,w), which lies on the CPU, to (1,3,H,W), clamped or not, or (H,W,3), rounded; and says what it took
Way = Callable[[Tensor], tuple[Tensor | Array, Flops]]


@dataclass(frozen=True)
class Source:
    """Where the two models come from; can be sent to another process."""

    model: str
    original: str
    backbone: str | None = None  # untrained models of this backbone's configs instead

    def load(self) -> tuple[PCSR, OriginalModel]:
        """The PCSR model and the original one. Raises InputError if they are something else."""
        if self.backbone:
            torch.manual_seed(0)
            specs = [load_config(f"configs/{self.backbone}-{name}.yaml").model for name in ("pcsr-phase1", "x4")]
            assert isinstance(specs[0], PCSRSpec) and isinstance(specs[1], OriginalSpec)
            return build_pcsr(specs[0]).eval(), build_original(specs[1]).eval()
        pcsr, (original, _) = load_pcsr(self.model), load_model(self.original)
        if not isinstance(original, OriginalModel) or original.scale != SCALE:
            raise InputError(f"{self.original}: must be an original model of x{SCALE}")
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
    """The k at which this share of the pixels of lr (1,3,h,w) is heavy."""
    log_odds = engine.classify(engine.encode(lr), (lr.shape[2] * SCALE, lr.shape[3] * SCALE))[:, -1].flatten()
    cost = engine.account.cost(SCALE)
    threshold = log_odds.kthvalue(round((1 - heavy) * log_odds.numel())).values
    return float(threshold) / math.log(cost[-1] / cost[0])


def spent(account: PCSRFlops, lr: Tensor, assignment: Tensor) -> Flops:
    """What an image of this assignment (1,H,W) takes."""
    counts = torch.bincount(assignment.flatten(), minlength=len(account.upsamplers)).tolist()
    return account.total(lr.shape[2] * lr.shape[3], counts)


def ways(source: Source, settings: dict[str, Setting], device: torch.device) -> dict[str, Callable[[], Way]]:
    """All that can be compared here, by name; each is made when called for, of its own copy of the model."""
    pcsr, original = source.load()
    (middle,) = (settings[name] for name in AS_PUBLISHED if name in settings)
    account, encoder, per_lr = pcsr.account(), network_flops(pcsr.encoder), network_flops(original)

    def of_original(run: Callable[[Tensor], Tensor]) -> Way:
        return lambda lr: (run(lr), per_lr * (lr.shape[2] * lr.shape[3]))

    def eager() -> Way:
        model = copy.deepcopy(original).to(device)
        return of_original(lambda lr: model(lr.to(device)))

    def channels_last() -> Way:
        model = folded(original).to(device)  # fusing the ReLUs too, by torch.jit, gains nothing measurable
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return of_original(lambda lr: model(lr.to(device, memory_format=torch.channels_last)))

    def original_in(runtime: str) -> Way:
        session = session_of(runtime, original, middle)
        return of_original(lambda lr: torch.from_numpy(session.run(None, {"lr": lr.numpy()})[0]))

    def ours_in(runtime: str) -> Way:
        session, k = session_of(runtime, pcsr, middle), np.array(middle.value, np.float32)

        def way(lr: Tensor) -> tuple[Tensor, Flops]:
            sr, assignment = map(torch.from_numpy, session.run(None, {"lr": lr.numpy(), "k": k}))
            return sr, spent(account, lr, assignment)  # it executes what ours does

        return way

    def as_published() -> Way:
        model = copy.deepcopy(pcsr).to(device)
        mlps = [both(flops.paper) for flops in (account.classifier, *account.upsamplers)]  # it executes all of that
        bill = PCSRFlops(encoder, mlps[0], tuple(mlps[1:]))

        def way(lr: Tensor) -> tuple[Tensor, Flops]:
            size = (lr.shape[2] * SCALE, lr.shape[3] * SCALE)
            sr, assignment = published.restore(model, lr.to(device), size, middle.value)
            return sr, spent(bill, lr, assignment)

        return way

    def ours(setting: Setting) -> Way:
        restore = pcsr_restorer(pcsr, [setting], device)

        def way(lr: Tensor) -> tuple[Array, Flops]:
            (restored,) = restore(lr)
            return restored.pixels, restored.flops

        return way

    return {
        "published": as_published,
        "original eager": eager,
        "original channels-last": channels_last,
        **{name: partial(ours_in if name == OURS else original_in, name) for name in usable(device)},
        **{name: partial(ours, setting) for name, setting in settings.items()},
    }


def peak_mb(name: str, source: Source, settings: dict[str, Setting], device: torch.device, lr: Tensor) -> float:
    """MB that a process needs at most which imports, loads and restores lr once; on CUDA, of the GPU's memory.

    The process is one of its own, as what else ran would count too; and LR is given, as to shrink an image could need
    more than to restore it.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(restore_once, name, source, settings, device.type, lr.numpy()).result()


def restore_once(name: str, source: Source, settings: dict[str, Setting], device_name: str, lr: Array) -> float:
    """What peak_mb tells, of this process."""
    device = pick_device(device_name)
    way = ways(source, settings, device)[name]()
    with torch.inference_mode():
        way(torch.from_numpy(lr))
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MB
    if STATUS.exists():  # Linux: there getrusage begins with what the process had that started this one
        (peak,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024 / MB
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held / MB if sys.platform == "darwin" else held * 1024 / MB  # bytes, else KiB
