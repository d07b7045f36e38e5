"""Seconds per image of PCSR against its published formulation and the original model: python benchmarks/inference.py

All ways run in turns in one process, with the same memory settings, so that a busy machine slows them alike; medians,
after a warm-up of each. Shares of the FLOPs' peak are of the best matrix product that this machine's libraries reach.
"""

import argparse
import copy
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, Python looks only in its folder

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from benchmarks import published
from models.blocks import Backbone
from models.pcsr import PCSR
from utils.checkpoint import load_model
from utils.device import add_device_option, pick_device, synchronize
from utils.errors import InputError, Parser, run
from utils.files import list_images, write_atomic
from utils.flops import Flops, network_flops
from utils.image import read_image, to_tensor
from utils.resize import downscale
from utils.restore import Setting
from utils.restore_pcsr import REFINE, pcsr_restorer

SCALE = 4
SETTINGS = {
    "all light": Setting("k", math.inf),
    "k=1": Setting("k", 1),
    "k=0": Setting("k", 0),
    "all heavy": Setting("k", -math.inf),
    "ADM": Setting("adaptive"),
}
Way = Callable[[Tensor], Flops | None]  # restores lr (1,3,h,w); what that cost, if it counts it


def load_lr(path: Path) -> Tensor:
    """An image shrunk by SCALE, (1,3,h,w)."""
    hr = to_tensor(read_image(path).pixels)
    height, width = (side // SCALE * SCALE for side in hr.shape[-2:])
    return downscale(hr[..., :height, :width].double(), SCALE).float()


def peak(device: torch.device) -> float:
    """GFLOP/s of the faster of the two ways to multiply matrices, float32, 4096 rows of 512 channels."""
    a, b = torch.randn(8192, 512, device=device), torch.randn(512, 512, device=device)
    image = a.view(1, 1, -1, 512).permute(0, 3, 1, 2)
    ways: list[Callable[[], Tensor]] = [lambda: a @ b, lambda: F.conv2d(image, b[:, :, None, None])]
    best = math.inf
    for way in ways * 10:
        synchronize(device)
        start = time.perf_counter()
        way()
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * a.numel() * 512 / best / 1e9


def ways(pcsr: PCSR, original: Backbone, device: torch.device) -> dict[str, Way]:
    """Everything that is compared; the models of the other side keep their own memory layout."""

    def ours(setting: Setting) -> Way:
        restore = pcsr_restorer(pcsr, [setting], REFINE, device)
        return lambda lr: restore(lr, SCALE)[0].flops

    fast = {name: ours(setting) for name, setting in SETTINGS.items()}
    eager, last = (copy_of(original).to(device) for _ in range(2))
    last.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plain = copy_of(pcsr).to(device)
    assert isinstance(plain, PCSR)
    per_lr = network_flops(original)

    def full(model: torch.nn.Module, layout: torch.memory_format) -> Way:
        def restore(lr: Tensor) -> Flops:
            model(lr.to(device).contiguous(memory_format=layout))
            return per_lr * (lr.shape[2] * lr.shape[3])

        return restore

    def as_published(lr: Tensor) -> None:
        published.restore(plain, lr.to(device), (lr.shape[2] * SCALE, lr.shape[3] * SCALE), 0.0)

    return {
        "published k=0": as_published,
        "original eager": full(eager, torch.contiguous_format),
        "original channels-last": full(last, torch.channels_last),
        **fast,
    }


def copy_of(model: PCSR | Backbone) -> torch.nn.Module:
    return copy.deepcopy(model).to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


@torch.inference_mode()
def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--img_path", type=Path, required=True, help="HR image, or a folder of them; shrunk by 4")
    parser.add_argument("--model", default="save/carn-pcsr-phase1")
    parser.add_argument("--original", default="save/carn-x4")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each way per image")
    parser.add_argument("--csv", type=Path, default=Path("results/benchmarks/inference.csv"))
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    add_device_option(parser)
    args = parser.parse_args()
    device = pick_device(args.device)
    pcsr, original = load_model(args.model)[0], load_model(args.original)[0]
    if not isinstance(pcsr, PCSR) or not isinstance(original, Backbone):
        raise InputError("--model must be a PCSR model and --original an original one")
    paths = list_images(args.img_path) if args.img_path.is_dir() else [args.img_path]
    gemm = peak(device)
    compared = ways(pcsr, original, device)
    rows = []
    for path in paths:
        lr = load_lr(path)
        seconds: dict[str, list[float]] = {name: [] for name in compared}
        flops: dict[str, Flops | None] = {}
        for round_ in tqdm(range(args.rounds + 1), desc=path.name, disable=None):  # the first warms up
            for name, way in compared.items():
                synchronize(device)
                start = time.perf_counter()
                flops[name] = way(lr)
                synchronize(device)
                if round_:
                    seconds[name].append(time.perf_counter() - start)
        for name, times in seconds.items():
            median, cost = statistics.median(times), flops[name]
            rate = cost.executed / median / 1e9 if cost else math.nan
            rows.append(
                {
                    "image": path.name,
                    "output": f"{lr.shape[3] * SCALE}x{lr.shape[2] * SCALE}",
                    "name": name,
                    "seconds": median,
                    "vs_published": statistics.median(seconds["published k=0"]) / median,
                    "vs_original": statistics.median(seconds["original eager"]) / median,
                    "flops_paper": cost.paper if cost else math.nan,
                    "flops_executed": cost.executed if cost else math.nan,
                    "gflops_per_second": rate,
                    "share_of_peak": rate / gemm,
                }
            )
    table = pd.DataFrame(rows)
    print(f"{device}, {torch.get_num_threads()} threads, x{SCALE}, matrix product {gemm:.0f} GFLOP/s")
    print(table.drop(columns=["flops_paper", "flops_executed"]).to_string(index=False, float_format="%.3f"))
    write_atomic(args.csv, table.to_csv(index=False, float_format="%.6g").encode())
    if args.json:
        kept = table[["name", "seconds", "flops_paper", "flops_executed"]].astype(object)
        print(json.dumps(kept.where(kept.notna(), None).to_dict("records")))


if __name__ == "__main__":
    run(main)
