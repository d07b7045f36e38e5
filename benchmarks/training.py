"""Iterations per second of the training jobs against the straightforward formulation: python benchmarks/training.py

All methods of a job work on the same batches in the same process, alternately, so that a busy machine slows all of
them. They do the same arithmetic, unless their name says otherwise (bfloat16, fewer pixels of each patch). `published`
is the formulation in benchmarks/formulation.py.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, Python looks only in its folder

import pandas as pd
import torch
from torch import Tensor
from torch.optim import Adam
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from benchmarks.common import OUT_DIR, SCALE, benchmark_parser, timed
from benchmarks.formulation import training_loss
from evaluation.tables import write_csv
from models.build import BACKBONES, build
from models.fast.accelerate import accelerate
from training.tasks import build_task
from utils.cli import count, run
from utils.device import pick_device
from utils.dist import Ranks
from utils.errors import InputError
from utils.files import output_file
from utils.parse import load_config

Step = Callable[[], None]  # one iteration
QUEUE = 20  # iterations between two waits for a GPU, because a training loop seldom waits either
WARM_UP = 2  # rounds

# the end of the config's name, after the backbone, and the published number of iterations
JOBS = {"original": ("x4", 2_000_000), "phase 0": ("pcsr-phase0", 2_000_000), "phase 1": ("pcsr-phase1", 500_000)}


class TrainingWay(NamedTuple):
    """How a job is done; without pixels_per_patch the loss sees all pixels."""

    published: bool = False
    pixels_per_patch: int | None = None
    kernels: bool = False
    amp: bool = False
    compile: bool = False

    def step(self, config_path: str, lr: Tensor, hr: Tensor) -> Step:
        """One iteration of the training loop on a batch: losses, gradients, Adam."""
        config = load_config(config_path)
        same = {"loss": "l1", "phase1_loss": "mixture"}  # those of the published formulation
        spec = config.train.model_copy(update={**same, "pixels_per_patch": self.pixels_per_patch})
        torch.manual_seed(0)
        task = build_task(spec, build(config.model), Ranks(0, 1, lr.device)).to(lr.device).train()
        layout = torch.contiguous_format if self.published else torch.channels_last
        task.to(memory_format=layout)  # type: ignore[call-overload]
        if self.kernels:
            accelerate(task)
        module = torch.compile(task) if self.compile else task
        optimizer = Adam([p for p in task.parameters() if p.requires_grad], 1e-4, fused=True)

        def step() -> None:
            with torch.autocast(lr.device.type, torch.bfloat16, enabled=self.amp):
                given = lr.contiguous(memory_format=layout)
                loss = training_loss(task, given, hr) if self.published else module(given, hr)["loss"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        return step


def ways(job: str, pixels: int, device: torch.device) -> dict[str, TrainingWay]:
    """The ways to do a job, by name: as published, and ours in float32, with compiled kernels and in bfloat16."""
    found = {"published": TrainingWay(published=True)}
    for ending, number in (("", None), (f", {pixels} pixels", pixels)):
        if number is None or job != "original":  # an original model is trained on all pixels
            found[f"ours{ending}"] = TrainingWay(pixels_per_patch=number)
            if device.type == "cpu":
                found[f"ours, kernels{ending}"] = TrainingWay(pixels_per_patch=number, kernels=True)
            found[f"ours, amp{ending}"] = TrainingWay(pixels_per_patch=number, amp=True)
    return found


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--backbone", default="carn", choices=BACKBONES)
    parser.add_argument("--batch_size", type=count, default=16)
    parser.add_argument("--patch_size", type=count, default=32, help="LR pixels")
    parser.add_argument("--pixels_per_patch", type=count, default=4096)
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--ways", default="", help="only the published way and those whose name contains this")
    parser.add_argument(
        "--rounds", type=count, default=7, help="timed rounds of each way: an iteration on a CPU, 20 on a GPU"
    )
    parser.add_argument("--csv", type=output_file(".csv"), default=OUT_DIR / "training.csv")
    args = parser.parse_args()
    device = pick_device(args.device)
    lr, hr = (torch.rand(args.batch_size, 3, *[args.patch_size * n] * 2, device=device) for n in (1, SCALE))
    steps = {
        (job, name): way.step(f"configs/{args.backbone}-{JOBS[job][0]}.yaml", lr, hr)
        for job in JOBS
        if job in args.jobs
        for name, way in ways(job, args.pixels_per_patch, device).items()
        if name == "published" or args.ways in name
    }
    if args.ways and all(name == "published" for _, name in steps):
        raise InputError(f"--ways {args.ways}: no way has this in its name")
    queue = 1 if device.type == "cpu" else QUEUE
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    for _ in tqdm(range(WARM_UP + args.rounds), unit="round", disable=None):
        for key, step in steps.items():
            seconds[key].append(timed(step, device, queue))
    medians = {key: median(times[WARM_UP:]) for key, times in seconds.items()}
    rows = []
    for (job, name), each in medians.items():
        row = {"backbone": args.backbone, "job": job, "formulation": name, "seconds": each, "it_per_s": 1 / each}
        row["speedup"] = medians[job, "published"] / each
        row["recipe_hours"] = JOBS[job][1] * each / 3600
        if device.type == "cuda":
            row["gpu_busy"] = busy_share(steps[job, name], device)
        rows.append(row)
    table = pd.DataFrame(rows)
    patch = f"{args.patch_size}x{args.patch_size}"
    print(f"{device}, {torch.get_num_threads()} threads, batch {args.batch_size}, LR {patch}")
    print(table.to_string(index=False, float_format="%.3f"))
    write_csv(args.csv, table, "%.5f")


def busy_share(step: Step, device: torch.device) -> float:
    """The share of the time in which kernels run on a CUDA device, in one stream."""
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        elapsed = timed(step, device, QUEUE) * QUEUE
    return sum(event.self_device_time_total for event in recorded.key_averages()) / 1e6 / elapsed


if __name__ == "__main__":
    run(main)
