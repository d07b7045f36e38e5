"""The processes of one job; a plain `python` is a job of one process.

dist.sh starts several on one machine: it runs this file, whose `main` hands the script to torchrun, and in each process
that torchrun starts the script calls `run_rank`.
"""

import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, distributed

from utils.cli import Parser, call, print_error, run
from utils.device import pick_device, usable_cores, use_all_cores
from utils.errors import InputError, StoppedError, one_line

T = TypeVar("T")
LAUNCHER = "PCSR_LAUNCHER"  # environment variable in which `main` tells the processes its own process id
# seconds that a process waits before it prints a traceback: if it only failed because another process is gone, torchrun
# ends it in about 0.1 s, and nothing is printed
CRASH_WAIT = 3.0
# seconds that all but the first process of a machine wait besides: torchrun ends them when the first has printed
TURN_WAIT = 3.0
AFTER = "after the signal"  # begins the note of an exception that came while a process was already asked to stop


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
        """Whether the flag is set in any process. It is exchanged on the CPU, so no process waits for its device."""
        return flag if self.world == 1 else self.mean(torch.tensor(float(flag))).item() > 0


def start_ranks(device_name: str) -> Ranks:
    """Join the job: NCCL between CUDA devices, gloo otherwise.

    Raises InputError for a device that this machine lacks or that processes cannot share, and for a job that torchrun
    could not restart as asked.
    """
    device, world = pick_device(device_name), int(os.environ.get("WORLD_SIZE", "1"))
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0:
        if job_id() is None:
            raise InputError("torchrun --max_restarts: also give --rdzv_id ID, by which a restarted job finds its run")
        # pytorch issue 135712: restarted processes find the addresses of those before them in torchrun's own store
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            raise InputError("torchrun --max_restarts: needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment")
    if world == 1:
        return Ranks(0, 1, device)
    if device.type == "cuda":
        local, found = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= found:
            raise InputError(f"torchrun --nproc_per_node: there are more processes than GPUs here, {found}")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if device.type == "mps":
        raise InputError("--device: several processes cannot share Apple's GPU; give --device cpu")
    # a day, because the others wait for the process that builds a cache, or whose images of an evaluation are largest
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=timedelta(days=1))
    return Ranks(distributed.get_rank(), world, device)


def stop_ranks(ranks: Ranks) -> None:
    if ranks.world > 1:
        distributed.destroy_process_group()


def job_id() -> str | None:
    """torchrun's name for this job, the same after a restart; None without torchrun or a name."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")  # "none" is torchrun's default
    return None if name == "none" else name


def gather(ranks: Ranks, value: T) -> list[T]:
    """The values of all processes, in the order of the ranks; no process goes on before all have called this."""
    if ranks.world == 1:
        return [value]
    values: list[T | None] = [None] * ranks.world
    distributed.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # every process has given one


def from_main(ranks: Ranks, make: Callable[[], T]) -> T:
    """Call `make` on rank 0 alone; all ranks get its result. For results that depend on the disk or on a clock."""
    return gather(ranks, make() if ranks.main else None)[0]  # type: ignore[return-value]  # rank 0 has made it


def first_on_node(ranks: Ranks, make: Callable[[], T]) -> T:
    """Call `make` in one process of each machine, then in the others, which find its files on the disk."""
    made = make() if os.environ.get("LOCAL_RANK", "0") == "0" else None
    gather(ranks, None)
    return make() if made is None else made


def run_rank(main: Callable[[], None]) -> None:
    """Call a script's main as utils.cli.run does, in any process of a job.

    If several processes meet the same error, only the first prints it: torchrun ends the others while they wait.
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
    except BrokenPipeError:  # the reader, for example `head`, closed the pipe
        code = 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        time.sleep(CRASH_WAIT + turn)  # perhaps it only failed because another process is gone
        told = next((note for note in getattr(error, "__notes__", []) if note.startswith(AFTER)), "")
        if told:  # very likely so: torchrun has sent the signal because of that
            print(one_line(f"rank {rank} failed {told}", f"{type(error).__name__}: {error}"), file=sys.stderr)
        else:
            print(f"rank {rank} failed:", file=sys.stderr)
            traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # not sys.exit: DistributedDataParallel leaves gloo threads behind that can abort Python's own way out
    # ("terminate called without an active exception", pytorch pull request 179291)
    os._exit(code)


def main() -> None:
    # these take a second to import, which only a launch has to wait for
    from torch.distributed import run as torchrun  # noqa: PLC0415
    from torch.distributed.elastic.multiprocessing import SignalException  # noqa: PLC0415
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: PLC0415

    parser = Parser(
        prog="./dist.sh",
        usage="./dist.sh SCRIPT OPTIONS... (--gpu 0,1 | --cpu N) [--max_restarts N]",
        description="Run a script as several processes: NCCL between GPUs, gloo between CPU processes.",
        epilog="OPTIONS are the script's own: python SCRIPT --help",
        allow_abbrev=False,  # the script's options may begin like these
    )
    parser.add_argument("script", help="train.py, train_pcsr.py, test.py, test_pcsr.py or demo.py")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--gpu", metavar="0,1", help="the GPUs to use, with one process on each")
    where.add_argument("--cpu", type=int, metavar="N", help="the number of processes on the CPU")
    restarts = "how often to start again after a crash (default: 0)"
    parser.add_argument("--max_restarts", type=int, default=0, metavar="N", help=restarts)
    args, options = parser.parse_known_args()
    if not Path(args.script).is_file():
        raise InputError(f"{args.script}: no such script")
    if args.max_restarts < 0:
        raise InputError(f"--max_restarts {args.max_restarts}: must be 0 or more")
    device, processes = "cpu", args.cpu
    if args.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = args.gpu  # the processes inherit it, and see only these
        device, processes = "cuda", len(args.gpu.split(","))
        if (found := torch.cuda.device_count()) != processes:
            raise InputError(f"--gpu {args.gpu}: {found} of {processes} can be used here; nvidia-smi lists the GPUs")
    elif processes < 1:
        raise InputError(f"--cpu {processes}: must be 1 or more")
    use_all_cores()  # else the processes would inherit a single one
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    if "LOGLEVEL" not in os.environ:  # torchrun and NCCL say so much about a failure that the error itself is lost
        logging.disable()
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", LAUNCHER: str(os.getpid())}  # the first: see start_ranks
    job = ["--standalone", "--local_addr=127.0.0.1"]  # as a Mac may not be able to resolve its own name
    job += [f"--nproc_per_node={processes}", f"--max_restarts={args.max_restarts}"]
    # without SIGINT: Ctrl-C reaches the processes as SIGTERM, which ends one quietly even while it imports
    job += ["--signals-to-handle=SIGTERM,SIGHUP,SIGQUIT,SIGUSR2"]
    try:
        torchrun.main([*job, args.script, *options, "--device", device])
    except SignalException as error:
        raise SystemExit(2 if error.sigval == signal.SIGUSR2 else 128 + error.sigval) from None  # see run_rank
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:  # the processes have explained all other exit codes themselves
            print_error(f"rank {rank} was ended by {signal.Signals(-failure.exitcode).name}")
        raise SystemExit(abs(failure.exitcode) + 128 * (failure.exitcode < 0)) from None


if __name__ == "__main__":
    run(main)
