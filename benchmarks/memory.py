"""Peak memory of one way to restore an image, in a process of its own: what else ran would count as well."""

import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.ways import Source, ways
from models.setting import Setting
from utils.device import pick_device

STATUS = Path("/proc/self/status")
MB = 1e6


def peak_mb(name: str, source: Source, settings: dict[str, Setting], device: torch.device, lr: Tensor) -> float:
    """MB that a process needs at most which imports, loads and restores lr once; on CUDA, of the GPU's memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(restore_once, name, source, settings, device.type, lr.numpy()).result()


def restore_once(
    name: str, source: Source, settings: dict[str, Setting], device_name: str, lr: NDArray[np.float32]
) -> float:
    """What peak_mb tells, of this process. The LR image is given, as shrinking one could need more than restoring."""
    device = pick_device(device_name)
    way = ways(source, settings, device)[name]()
    with torch.inference_mode():
        way(torch.from_numpy(lr))
    return torch.cuda.max_memory_allocated(device) / MB if device.type == "cuda" else resident_mb()


def resident_mb() -> float:
    """The most memory that this process has held, MB."""
    if STATUS.exists():  # Linux: there getrusage begins with what the process had that started this one
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / MB
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held / MB if sys.platform == "darwin" else held * 1024 / MB  # bytes, else KiB
