"""The processes of one job, as torchrun started them; a plain `python` is a job of one."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from utils.device import pick_device
from utils.errors import InputError, StoppedError, print_error, run

T = TypeVar("T")
LAUNCHER = "PCSR_LAUNCHER"  # names the process of utils.launch to its children
# seconds before a failed process speaks; torchrun takes about 0.1 s to end the others after one has ended
CRASH_WAIT, TURN_WAIT = 1.0, 3.0


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
        if self.world == 1:
            return value
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total / self.world

    def any(self, flag: bool) -> bool:
        """Whether a process says so."""
        if self.world == 1:
            return flag
        said = torch.tensor(float(flag))  # on the CPU, so that no device is waited for
        distributed.all_reduce(said)
        return said.item() > 0


def start_ranks(device_name: str) -> Ranks:
    """Join the job: NCCL between CUDA devices, gloo otherwise.

    Raises InputError for a device this machine lacks, and for a job that could not be restarted as it asks to be.
    """
    device = pick_device(device_name)
    check_restarts()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Ranks(0, 1, device)
    if device.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise InputError(f"{local + 1} processes need {local + 1} GPUs, there are {torch.cuda.device_count()}")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    # the longest wait is for the rank whose share of an evaluation has the largest images
    distributed.init_process_group(backend, timeout=timedelta(hours=1))
    return Ranks(distributed.get_rank(), world, device)


def job_id() -> str | None:
    """What torchrun calls this job, the same after a restart; None if it has no name."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")  # torchrun's own default
    return None if name == "none" else name


def check_restarts() -> None:
    """Raises InputError for `torchrun --max_restarts` without what utils.launch gives it."""
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) == 0:
        return
    if job_id() is None:
        raise InputError("--max_restarts: a restarted job finds its run by --rdzv_id; give it one of its own")
    # pytorch issue 135712: restarted processes find the addresses of those before them in torchrun's own store
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise InputError("--max_restarts: torchrun needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment")


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


def from_main(ranks: Ranks, make: Callable[[], T]) -> T:
    """What `make` returns on rank 0, on every rank; it runs there alone. For what depends on the disk."""
    if ranks.world == 1:
        return make()
    made: list[T | None] = [make() if ranks.main else None]
    distributed.broadcast_object_list(made, src=0)
    return made[0]  # type: ignore[return-value]  # rank 0 has made it


def gather(ranks: Ranks, value: T) -> list[T]:
    """Every rank's value, in the order of the ranks; no rank goes on before all have come here."""
    if ranks.world == 1:
        return [value]
    values: list[T | None] = [None] * ranks.world
    distributed.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # every rank has given one


def share_buffers(ranks: Ranks, module: nn.Module) -> None:
    """Give every rank the buffers of rank 0: each has its own running statistics of BatchNorm, from its own crops."""
    if ranks.world > 1:
        for buffer in module.buffers():
            distributed.broadcast(buffer, src=0)


def synchronize_batchnorm(ranks: Ranks, module: nn.Module) -> None:
    """Let every BatchNorm in `module` normalise with the whole batch instead of its rank's share of it.

    The names in the state_dict stay, and a job of one process has nothing to do. Raises InputError on CPU processes.
    """
    if ranks.world == 1:
        return
    if ranks.device.type != "cuda":
        raise InputError("train.sync_bn: torch's SyncBatchNorm runs between CUDA devices only; set it to false")
    nn.SyncBatchNorm.convert_sync_batchnorm(module)


def run_rank(main: Callable[[], None]) -> None:
    """Call a script's main as `utils.errors.run` does, in any process of a job.

    What ends several processes is printed once: the others wait before they speak, and are ended meanwhile.
    """
    if "LOCAL_RANK" not in os.environ:
        return run(main)
    try:
        code = exit_code(main)
    except KeyboardInterrupt:
        code = 130
    sys.stdout.flush()
    sys.stderr.flush()
    # not sys.exit: DistributedDataParallel leaves gloo threads behind that can abort Python's own way out
    # ("terminate called without an active exception", pytorch pull request 179291)
    os._exit(code)


def exit_code(main: Callable[[], None]) -> int:
    """Run main as one of a job's processes, and tell what ended it."""
    rank, turn = os.environ["RANK"], TURN_WAIT if int(os.environ["LOCAL_RANK"]) > 0 else 0.0
    try:
        main()
    except InputError as error:
        wait(turn)
        print_error(f"rank {rank}: {error}" if turn else str(error))
        if os.environ.get(LAUNCHER) == str(os.getppid()):
            os.kill(os.getppid(), signal.SIGUSR2)  # torchrun restarts after any exit code, but this would come again
        return 2
    except StoppedError as stopped:
        if rank == "0":  # all have stopped together
            print(stopped, file=sys.stderr)
        return stopped.code
    except SystemExit as end:
        return int(end.code or 0)
    except Exception:  # shown in full and told by the exit code; only run_rank's way out is not Python's
        wait(CRASH_WAIT + turn)  # it may only be that another process is gone
        print(f"rank {rank} failed:", file=sys.stderr)
        traceback.print_exc()
        return 1
    return 0


def wait(seconds: float) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # main may have had another use for it
    time.sleep(seconds)
