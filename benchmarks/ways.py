"""The methods that benchmarks/inference.py compares: published, original and ours; and their memory."""

import copy
import math
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import formulation
from benchmarks.common import SCALE, load_pcsr
from benchmarks.runtimes import OURS, session_of, usable
from inference.restorers import original_restorer, pcsr_restorer
from models.checkpoint import SAVE, WEIGHTS, load_model
from models.fast.build import has_half
from models.fast.fold import folded
from models.flops import Flops, PCSRFlops, both, network_flops
from models.original import OriginalModel
from models.pcsr import PCSR
from models.setting import Setting
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
SHOWN_IN_HALF = ("all light", "k=0", "all heavy")
IN_HALF = {f"{name} float16": replace(SETTINGS[name], precision="float16") for name in SHOWN_IN_HALF}
AS_PUBLISHED = SETTINGS["k=0"]  # the published formulation and the exported model do the same
STATUS = Path("/proc/self/status")
MB = 1e6

# restores lr (1,3,h,w) from the CPU to (1,3,H,W), clamped or not, or to (H,W,3), rounded; and returns its FLOPs
Way = Callable[[Tensor], tuple[Tensor | Array, Flops]]


def halves(device: torch.device) -> bool:
    """Whether float16 is compared: on GPUs, and on CPUs that have kernels for it."""
    return device.type == "cuda" or (device.type == "cpu" and has_half())


def load_models(weights: Path, original: Path | None) -> tuple[PCSR, OriginalModel | None]:
    """The PCSR model and the original model: the given one, or that of the same backbone if save/ has its weights.

    Raises InputError if a folder holds another kind of model.
    """
    pcsr, (_, spec) = load_pcsr(weights), load_model(weights)
    folder = original or SAVE / f"{spec.backbone}-x{SCALE}"
    if original is None and not (folder / WEIGHTS).exists():
        return pcsr, None
    model, _ = load_model(folder)
    if not isinstance(model, OriginalModel) or model.scale != SCALE:
        raise InputError(f"{folder}: must be an original model of x{SCALE}")
    return pcsr, model


def spent(flops: PCSRFlops, lr: Tensor, assignment: Tensor) -> Flops:
    """The FLOPs of an image with this assignment (1,H,W)."""
    counts = torch.bincount(assignment.flatten(), minlength=len(flops.upsamplers)).tolist()
    return flops.total(lr.shape[2] * lr.shape[3], counts)


def ways_of_original(original: OriginalModel, device: torch.device) -> dict[str, Callable[[], Way]]:
    """The original model in torch and in the installed runtimes, as `ways` returns them."""
    per_lr = network_flops(original)

    def way(run: Callable[[Tensor], Tensor]) -> Way:
        return lambda lr: (run(lr), per_lr * (lr.shape[2] * lr.shape[3]))

    def eager() -> Way:
        model = copy.deepcopy(original).to(device)
        return way(lambda lr: model(lr.to(device)))

    def channels_last() -> Way:
        model = folded(original).to(device)  # fusing the ReLUs too, by torch.jit, gains nothing measurable
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return way(lambda lr: model(lr.to(device, memory_format=torch.channels_last)))

    def kernels() -> Way:
        restore = original_restorer(original, device)

        def run(lr: Tensor) -> tuple[Array, Flops]:
            (restored,) = restore(lr)
            return restored.pixels, restored.flops

        return run

    def exported(runtime: str) -> Way:
        session = session_of(runtime, original, AS_PUBLISHED)
        return way(lambda lr: torch.from_numpy(session.run(None, {"lr": lr.numpy()})[0]))

    runtimes = {name: partial(exported, name) for name in usable(device) if name != OURS}
    return {"original eager": eager, "original channels-last": channels_last, "original kernels": kernels, **runtimes}


def ways(pcsr: PCSR, original: OriginalModel | None, device: torch.device) -> dict[str, Callable[[], Way]]:
    """All methods that work here, by name; each is made when it is called for, from its own copy of the model."""
    parts, encoder = pcsr.flops, network_flops(pcsr.encoder)

    def exported() -> Way:
        session, k = session_of(OURS, pcsr, AS_PUBLISHED), np.array(AS_PUBLISHED.value, np.float32)

        def way(lr: Tensor) -> tuple[Tensor, Flops]:
            sr, assignment = map(torch.from_numpy, session.run(None, {"lr": lr.numpy(), "k": k}))
            return sr, spent(parts, lr, assignment)  # it executes the same as ours

        return way

    def as_published() -> Way:
        model = copy.deepcopy(pcsr).to(device)
        mlps = [both(flops.paper) for flops in (parts.classifier, *parts.upsamplers)]  # it executes all of that
        published = PCSRFlops(encoder, mlps[0], tuple(mlps[1:]))

        def way(lr: Tensor) -> tuple[Tensor, Flops]:
            size = (lr.shape[2] * SCALE, lr.shape[3] * SCALE)
            sr, assignment = formulation.restore(model, lr.to(device), size, AS_PUBLISHED.value)
            return sr, spent(published, lr, assignment)

        return way

    def ours(setting: Setting) -> Way:
        restore = pcsr_restorer(pcsr, [setting], device)

        def way(lr: Tensor) -> tuple[Array, Flops]:
            (restored,) = restore(lr)
            return restored.pixels, restored.flops

        return way

    return {
        "published": as_published,
        **(ways_of_original(original, device) if original else {}),
        **({OURS: exported} if OURS in usable(device) else {}),
        **{name: partial(ours, setting) for name, setting in SETTINGS.items()},
        **({name: partial(ours, setting) for name, setting in IN_HALF.items()} if halves(device) else {}),
    }


def peak_mb(name: str, weights: Path, original: Path | None, device: torch.device, lr: Tensor) -> float:
    """The peak memory in MB of a process that imports, loads and restores lr once; on CUDA, of the GPU's memory.

    A new process is started, because earlier work in a process would count too. It gets LR and not HR, because
    shrinking an image could need more memory than restoring it.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(restore_once, name, weights, original, device.type, lr.numpy()).result()


def restore_once(name: str, weights: Path, original: Path | None, device_name: str, lr: Array) -> float:
    """Restore once, and return the peak memory of this process, for peak_mb."""
    device = pick_device(device_name)
    way = ways(*load_models(weights, original), device)[name]()
    with torch.inference_mode():
        way(torch.from_numpy(lr))
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MB
    if STATUS.exists():  # Linux: getrusage there begins with the memory of the parent process
        (peak,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024 / MB
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held / MB if sys.platform == "darwin" else held * 1024 / MB  # bytes, else KiB
