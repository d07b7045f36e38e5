"""Choosing the device, and waiting for it where a clock needs that."""

import argparse

import torch

from utils.allocator import keep_blocks
from utils.errors import InputError

CHOICES = ("auto", "cpu", "cuda", "mps")


def add_device_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=CHOICES, default="auto", help="where to compute (default: the best there is)"
    )


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA, else MPS, else CPU. Raises InputError for one this machine lacks, or that is none.

    Picking the CPU sets up the C library's memory for it.
    """
    if name not in CHOICES:
        raise InputError(f"--device {name}: must be one of {', '.join(CHOICES)}")
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, present in available.items() if present)
    if not available[name]:
        raise InputError(f"--device {name} is not available here: use --device cpu or auto")
    if name == "cpu":
        keep_blocks()
    return torch.device(name)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
