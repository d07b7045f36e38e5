"""The processes of one job, as torchrun started them; a plain `python` is a job of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

from utils.device import pick_device
from utils.errors import InputError


@dataclass(frozen=True)
class Ranks:
    rank: int
    world: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process logs and saves."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        if self.world > 1:
            distributed.all_reduce(value)
        return value / self.world

    def any(self, flag: bool) -> bool:
        """Whether a process says so."""
        if self.world == 1:
            return flag
        said = torch.tensor(float(flag))  # on the CPU, so that no device is waited for
        distributed.all_reduce(said)
        return said.item() > 0


def start_ranks(device_name: str) -> Ranks:
    """Join the job: NCCL between CUDA devices, gloo otherwise. Raises InputError for a device this machine lacks."""
    device = pick_device(device_name)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Ranks(0, 1, device)
    if device.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise InputError(
                f"--gpu: {local + 1} processes need {local + 1} GPUs, there are {torch.cuda.device_count()}"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    # the others wait in the next step while rank 0 validates
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=3)
    )
    return Ranks(distributed.get_rank(), world, device)


def stop_ranks(ranks: Ranks) -> None:
    if ranks.world > 1:
        distributed.destroy_process_group()


@contextmanager
def first_on_node(ranks: Ranks) -> Iterator[None]:
    """One process of each machine runs the block before the others do. If it fails, torchrun ends the others."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if ranks.world > 1 and local > 0:
        distributed.barrier()
    yield
    if ranks.world > 1 and local == 0:
        distributed.barrier()
