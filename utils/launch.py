"""Several processes of a script on one machine, through torchrun: what dist.sh calls."""

import logging
import os
import signal
from pathlib import Path

import torch
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from utils.dist import LAUNCHER
from utils.errors import InputError, Parser, print_error, run


def main() -> None:
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
        os.environ["CUDA_VISIBLE_DEVICES"] = args.gpu  # for the processes too: they see these alone
        device, processes = "cuda", len(args.gpu.split(","))
        if (found := torch.cuda.device_count()) != processes:
            raise InputError(f"--gpu {args.gpu}: {found} of {processes} can be used here; nvidia-smi lists the GPUs")
    elif processes < 1:
        raise InputError(f"--cpu {processes}: must be 1 or more")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    if "LOGLEVEL" not in os.environ:  # what torchrun and NCCL tell of a failure buries the error itself
        logging.disable()
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", LAUNCHER: str(os.getpid())}  # the first: see start_ranks
    job = ["--standalone", f"--nproc_per_node={processes}", f"--max_restarts={args.max_restarts}"]
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
