"""Choosing the device, waiting for it before a clock is read, and memory settings without which CPUs are slow."""

import argparse
import ctypes
import math
import os
import platform
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from utils.errors import InputError

DEVICES = ("auto", "cpu", "cuda", "mps")
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h
LARGE_PIXELS = 1 << 20  # LR pixels of an image after which glibc may keep more memory than the next one needs
ALIGNED = 64  # bytes: a line of the cache, and the longest vector


def add_device_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=DEVICES, default="auto", help="where to compute (default: the best there is)"
    )


def pick_device(name: str | torch.device) -> torch.device:
    """The device of a name; `auto` is CUDA, else MPS, else the CPU.

    Calls use_all_cores, and for the CPU keep_memory. A name may end in a number, as `cuda:1`. Raises InputError for a
    device that this machine lacks, and for an unknown name.
    """
    kind, colon, number = str(name).partition(":")
    if kind not in DEVICES or (colon and not (number.isascii() and number.isdecimal() and kind != "auto")):
        raise InputError(f"device must be one of {', '.join(DEVICES)}, not {name}")
    counts = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    if kind == "auto":
        kind = next(each for each, count in counts.items() if count)
    if int(number or 0) >= counts[kind]:
        raise InputError(f"device {name} is not available here: use cpu or auto")
    if kind == "cpu":
        keep_memory()
    use_all_cores()
    return torch.device(f"{kind}{colon}{number}")


def usable_cores() -> int:
    """The processor cores that this process may use; a cluster often gives a job only some of them."""
    return len(allowed_cores()) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_all_cores() -> None:
    """Let this thread, and those that it will start, use all cores that the process may use.

    Where OpenMP is told to bind its threads to cores (OMP_PROC_BIND, GOMP_CPU_AFFINITY), it binds the main thread to
    one core when torch is imported. The kernels' threads and all workers would share it, because they inherit this.
    """
    if hasattr(os, "sched_setaffinity"):
        with suppress(OSError):  # a container may forbid it
            os.sched_setaffinity(0, allowed_cores())


def allowed_cores() -> set[int]:
    """The numbers of the cores that this process may use: where OpenMP has bound it to a place, those of all places."""
    openmp = ctypes.CDLL(None)
    allowed, places = os.sched_getaffinity(0), []
    for place in range(openmp.omp_get_num_places() if hasattr(openmp, "omp_get_num_places") else 0):
        cores = (ctypes.c_int * openmp.omp_get_place_num_procs(place))()
        openmp.omp_get_place_proc_ids(place, cores)
        places.append(set(cores))
    return set().union(*places) if allowed in places else allowed


def image_layout(device: torch.device) -> torch.memory_format:
    """The layout of images that convolutions take fastest: channels last, but not on MPS, where it has had errors."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all work that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def keep_memory() -> None:
    """Let glibc keep freed memory: by default every large tensor is mapped, zeroed page by page, and unmapped again.

    That took half the time of a training step or an inference on a CPU. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_TOP_PAD, 256 << 20)  # 256 MiB more each time, so that the system is seldom asked
        internals = getattr(getattr(np, "_core", None), "multiarray", None)  # numpy before 2.0 may have none
        huge_pages = getattr(internals, "_set_madvise_hugepage", None)
        if huge_pages is not None:  # numpy asks for them, and to zero those took half a second of a first image
            huge_pages(False)


def empty(
    shape: Sequence[int], dtype: torch.dtype, memory_format: torch.memory_format = torch.contiguous_format
) -> Tensor:
    """As torch.empty on a CPU, in less memory for large tensors that come and go.

    Torch asks glibc for aligned memory. glibc adds some bytes for the alignment, so a freed block is too small for the
    next request of the same size.
    """
    strides = torch.empty(shape, device="meta", memory_format=memory_format).stride()
    memory = torch.from_numpy(np.empty(math.prod(shape) * dtype.itemsize + ALIGNED, np.uint8))
    start = -memory.data_ptr() % ALIGNED // dtype.itemsize
    return torch.empty(0, dtype=dtype).set_(memory.untyped_storage(), start, shape, strides)  # no view of another


def give_back(lr: Tensor) -> None:
    """Return to the system what glibc keeps after lr (b,3,h,w) was restored, if it is worth the milliseconds."""
    if lr.shape[2] * lr.shape[3] > LARGE_PIXELS and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
