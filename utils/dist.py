"""The processes of one job, as torchrun started them; a plain `python` is a job of one process."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed

from utils.device import pick_device
from utils.errors import InputError, StoppedError, call, print_error, run

T = TypeVar("T")
LAUNCHER = "PCSR_LAUNCHER"  # tells the processes of dist.sh the process id of utils.launch
# seconds that a failed process waits before it prints; torchrun ends it in about 0.1 s if another has ended before
CRASH_WAIT, TURN_WAIT = 1.0, 3.0


@dataclass(frozen=True)
class Ranks:
    """This process within its job: rank in 0 .. world-1, and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process logs and saves."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        if self.world == 1:
            return value
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total / self.world

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; it is exchanged on the CPU, so that no device is waited for."""
        return flag if self.world == 1 else self.mean(torch.tensor(float(flag))).item() > 0


def start_ranks(device_name: str) -> Ranks:
    """Join the job: NCCL between CUDA devices, gloo otherwise.

    Raises InputError for a device that this machine lacks, and for a job that torchrun could not restart as asked.
    """
    device, world = pick_device(device_name), int(os.environ.get("WORLD_SIZE", "1"))
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0:
        if job_id() is None:
            raise InputError("--max_restarts: a restarted job finds its run by --rdzv_id; give it one of its own")
        # pytorch issue 135712: restarted processes find the addresses of those before them in torchrun's own store
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            raise InputError("--max_restarts: torchrun needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment")
    if world == 1:
        return Ranks(0, 1, device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # an hour, because the others wait for the process whose share of an evaluation has the largest images
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=timedelta(hours=1))
    return Ranks(distributed.get_rank(), world, device)


def stop_ranks(ranks: Ranks) -> None:
    if ranks.world > 1:
        distributed.destroy_process_group()


def job_id() -> str | None:
    """torchrun's name for this job, the same after a restart; None without torchrun or a name."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")  # "none" is torchrun's default
    return None if name == "none" else name


def gather(ranks: Ranks, value: T) -> list[T]:
    """Every process's value, in the order of the ranks; no process goes on before all have come here."""
    if ranks.world == 1:
        return [value]
    values: list[T | None] = [None] * ranks.world
    distributed.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # every process has given one


def from_main(ranks: Ranks, make: Callable[[], T]) -> T:
    """What `make` returns on rank 0, on every rank; only rank 0 calls it. For what depends on the disk or a clock."""
    return gather(ranks, make() if ranks.main else None)[0]  # type: ignore[return-value]  # rank 0 has made it


def first_on_node(ranks: Ranks, make: Callable[[], T]) -> T:
    """What `make` returns; one process of each machine calls it before the others do, which find what it has made."""
    made = make() if os.environ.get("LOCAL_RANK", "0") == "0" else None
    gather(ranks, None)
    return make() if made is None else made


def run_rank(main: Callable[[], None]) -> None:
    """Call a script's main as `utils.errors.run` does, in any process of a job.

    An error that several processes meet is printed once: torchrun ends the others while they wait to print it.
    """
    if "LOCAL_RANK" not in os.environ:
        return run(main)
    code, rank, turn = 0, os.environ["RANK"], 0.0 if os.environ["LOCAL_RANK"] == "0" else TURN_WAIT
    try:
        call(main)
    except InputError as error:
        time.sleep(turn)
        print_error(f"rank {rank}: {error}" if turn else str(error))
        if os.environ.get(LAUNCHER) == str(os.getppid()):
            os.kill(os.getppid(), signal.SIGUSR2)  # or torchrun would start the job again, to fail again
        code = 2
    except StoppedError as stopped:
        if rank == "0":  # all processes have stopped together
            print(stopped, file=sys.stderr)
        code = stopped.code
    except SystemExit as end:
        code = int(end.code or 0)
    except KeyboardInterrupt:
        code = 130
    except Exception:
        time.sleep(CRASH_WAIT + turn)  # it may only be that another process is gone
        print(f"rank {rank} failed:", file=sys.stderr)
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # not sys.exit: DistributedDataParallel leaves gloo threads behind that can abort Python's own way out
    # ("terminate called without an active exception", pytorch pull request 179291)
    os._exit(code)
