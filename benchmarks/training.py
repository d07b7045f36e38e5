"""Iterations per second of the training jobs against the straightforward formulation: python benchmarks/training.py

Both sides of a job do the same arithmetic on the same batches in the same process, in turns, so that a busy machine
slows both. What `published` is, benchmarks/published.py says.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, Python looks only in its folder

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from benchmarks.published import run_mlp
from models.build import build_original, build_pcsr
from models.fast.accelerate import accelerate
from models.grid import bilinear, grid_over
from models.pcsr import PCSR
from training.tasks import OriginalTask, Phase0, Phase1, Task
from utils.config import OriginalSpec, PCSRSpec, TrainSpec, load_config
from utils.device import add_device_option, pick_device, synchronize
from utils.dist import Ranks
from utils.errors import Parser, run
from utils.files import write_atomic

Step = Callable[[Tensor, Tensor], None]  # one iteration on a batch
RECIPE = {"original": 2_000_000, "phase 0": 2_000_000, "phase 1": 500_000}  # iterations that were published
QUEUE = 20  # iterations between two waits for a GPU, which a training loop does not wait for either


class PublishedTask(Task[PCSR]):
    """Both phases as the paper writes them down; the phase is told by the number of upsamplers."""

    def forward(self, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        model, size = self.model, (hr.shape[2], hr.shape[3])
        target = (hr - bilinear(lr, grid_over(lr, size))).flatten(2).permute(0, 2, 1)  # (b,N,3)
        if model.classifier is None:
            feat = model.encoder(lr - model.mean)
            return {"loss": (run_mlp(model.mlps()[0], feat, size) - target).abs().mean()}
        *upsamplers, classifier = model.mlps()
        with torch.no_grad():
            feat = model.encoder(lr - model.mean)
        prob = run_mlp(classifier, feat, size).softmax(-1)
        sr = sum(prob[..., j : j + 1] * run_mlp(mlp, feat, size) for j, mlp in enumerate(upsamplers))
        half = prob[..., -1].numel() / 2
        return {"loss": 1000 * (sr - target).abs().mean() + 3 * (prob[..., -1].sum() - half).abs() / half}


def published_phase1(model: PCSR, spec: TrainSpec) -> PublishedTask:
    task = PublishedTask(model, spec)
    task.train()
    for module in (model.encoder, model.upsamplers[-1]):
        module.requires_grad_(False).eval()
    return task


def step_of(
    task: Task[PCSR] | OriginalTask, device: torch.device, channels_last: bool, amp: bool = False, kernels: bool = False
) -> Step:
    """One iteration of the training loop: losses, gradients, Adam."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    task.to(device).to(memory_format=layout)  # type: ignore[call-overload]
    if kernels:
        accelerate(task)
    optimizer = Adam([p for p in task.parameters() if p.requires_grad], 1e-4, fused=True)

    def step(lr: Tensor, hr: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            loss = task(lr.contiguous(memory_format=layout), hr)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def jobs(backbone: str, device: torch.device, pixels: int) -> dict[str, dict[str, Step]]:
    """Per job its ways of doing it, the published one first."""
    ranks = Ranks(0, 1, device)

    def fresh(name: str) -> nn.Module:
        torch.manual_seed(0)
        spec = load_config(f"configs/{backbone}-{name}.yaml").model
        return build_original(spec) if isinstance(spec, OriginalSpec) else build_pcsr(pcsr_spec(spec))

    def recipe(name: str, pixels_per_patch: int | None = None) -> TrainSpec:
        spec = load_config(f"configs/{backbone}-{name}.yaml").train
        return spec.model_copy(update={"pixels_per_patch": pixels_per_patch})

    def original() -> OriginalTask:
        return OriginalTask(fresh("x4"), recipe("x4"))  # type: ignore[arg-type]

    def phase0(pixels_per_patch: int | None = None) -> Phase0:
        return Phase0(fresh("pcsr-phase0"), recipe("pcsr-phase0", pixels_per_patch))  # type: ignore[arg-type]

    def phase1(pixels_per_patch: int | None = None) -> Phase1:
        task = Phase1(fresh("pcsr-phase1"), recipe("pcsr-phase1", pixels_per_patch), ranks)  # type: ignore[arg-type]
        return task.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]

    def ways(published: Task[PCSR] | OriginalTask, ours: Callable[..., Task[PCSR]]) -> dict[str, Step]:
        return {
            "published": step_of(published, device, channels_last=False),
            **each("", ours),
            **each(f", {pixels} pixels", lambda: ours(pixels)),
        }

    def each(pixels: str, ours: Callable[[], Task[PCSR] | OriginalTask]) -> dict[str, Step]:
        """In float32 without and, on a CPU, with the compiled kernels, and in bfloat16."""
        found = {f"ours{pixels}": step_of(ours(), device, channels_last=True)}
        if device.type == "cpu":
            found[f"ours, kernels{pixels}"] = step_of(ours(), device, channels_last=True, kernels=True)
        return found | {f"ours, amp{pixels}": step_of(ours(), device, channels_last=True, amp=True)}

    return {
        "original": {"published": step_of(original(), device, channels_last=False), **each("", original)},
        "phase 0": ways(PublishedTask(fresh("pcsr-phase0"), recipe("pcsr-phase0")), phase0),  # type: ignore[arg-type]
        "phase 1": ways(published_phase1(fresh("pcsr-phase1"), recipe("pcsr-phase1")), phase1),  # type: ignore[arg-type]
    }


def pcsr_spec(spec: object) -> PCSRSpec:
    assert isinstance(spec, PCSRSpec)
    return spec


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="carn", choices=("carn", "srresnet", "fsrcnn"))
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--patch_size", type=int, default=32, help="LR pixels")
    parser.add_argument("--pixels_per_patch", type=int, default=4096)
    parser.add_argument("--jobs", nargs="+", default=list(RECIPE), choices=list(RECIPE))
    parser.add_argument("--ways", default="", help="only the formulations whose name holds this, and the published one")
    parser.add_argument("--rounds", type=int, default=7, help="timed iterations of each")
    parser.add_argument("--csv", type=Path, default=Path("results/benchmarks/training.csv"))
    add_device_option(parser)
    args = parser.parse_args()
    device = pick_device(args.device)
    lr = torch.rand(args.batch_size, 3, args.patch_size, args.patch_size, device=device)
    hr = torch.rand(args.batch_size, 3, 4 * args.patch_size, 4 * args.patch_size, device=device)

    steps = {
        job: {way: step for way, step in ways.items() if way == "published" or args.ways in way}
        for job, ways in jobs(args.backbone, device, args.pixels_per_patch).items()
        if job in args.jobs
    }
    queue = 1 if device.type == "cpu" else QUEUE
    seconds: dict[tuple[str, str], list[float]] = {(job, way): [] for job, ways in steps.items() for way in ways}
    for round_ in tqdm(range(args.rounds + 2), unit="round", disable=None):  # two rounds to warm up
        for (job, way), times in seconds.items():
            elapsed = timed(steps[job][way], lr, hr, queue)
            if round_ >= 2:
                times.append(elapsed)
    rows = []
    for (job, way), times in seconds.items():
        median = statistics.median(times)
        row = {"backbone": args.backbone, "job": job, "formulation": way, "seconds": median, "it_per_s": 1 / median}
        row["speedup"] = statistics.median(seconds[job, "published"]) / median
        row["recipe_hours"] = RECIPE[job] * median / 3600
        if device.type == "cuda":
            row["gpu_busy"] = busy_share(steps[job][way], lr, hr)
        rows.append(row)
    table = pd.DataFrame(rows)
    patch = f"{args.patch_size}x{args.patch_size}"
    print(f"{device}, {torch.get_num_threads()} threads, batch {args.batch_size}, LR {patch}")
    print(table.to_string(index=False, float_format="%.3f"))
    write_atomic(args.csv, table.to_csv(index=False, float_format="%.5f").encode())


def timed(step: Step, lr: Tensor, hr: Tensor, queue: int) -> float:
    """Seconds per iteration."""
    synchronize(lr.device)
    start = time.perf_counter()
    for _ in range(queue):
        step(lr, hr)
    synchronize(lr.device)
    return (time.perf_counter() - start) / queue


def busy_share(step: Step, lr: Tensor, hr: Tensor) -> float:
    """Share of the time in which kernels run on a CUDA device, of one stream."""
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        elapsed = timed(step, lr, hr, QUEUE) * QUEUE
    return sum(event.self_device_time_total for event in recorded.key_averages()) / 1e6 / elapsed


if __name__ == "__main__":
    run(main)
