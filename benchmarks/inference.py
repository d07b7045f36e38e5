"""Seconds, memory, FLOPs and PSNR of PCSR against its published formulation and the original model.

python benchmarks/inference.py                                scikit-image's astronaut
python benchmarks/inference.py --img_path hr --plot ways.png  a folder of HR images, and a picture of PSNR over seconds
python benchmarks/inference.py --backbone fsrcnn              untrained models of that backbone's configs: seconds only

All ways run in turns in one process, with the same memory settings, so that a busy machine slows them alike; medians,
after a warm-up of each. Peak memory is that of a process which restores the image in this one way, once. Shares of the
FLOPs' peak are of the best matrix product that this machine's libraries reach.

With `pip install -r requirements-bench.txt` the original model also runs in ONNX Runtime and in OpenVINO, and ours, as
export.py writes it, in ONNX Runtime.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, Python looks only in its folder

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from benchmarks.memory import peak_mb
from benchmarks.runtimes import PACKAGES, usable
from benchmarks.show import KEYS, format_table, plot
from benchmarks.ways import AS_PUBLISHED, SCALE, Output, Source, Way, ways
from datasets.folder import mod_crop
from demo import ASTRONAUT
from evaluation.metrics import psnr
from evaluation.report import table_json
from inference.onnx import INSTALL
from models.build import BACKBONES
from utils.decode import read_image
from utils.device import add_device_option, pick_device, synchronize
from utils.errors import InputError, Parser, run
from utils.files import list_images, write_atomic
from utils.image import to_tensor
from utils.resize import downscale

REST = 0.02  # seconds before each timed run: threads of the way before may wait actively for more work


def gemm_peak(device: torch.device) -> float:
    """GFLOP/s of the faster of the two ways to multiply matrices, float32, rows of 512 channels."""
    rows = 1 << (13 if device.type == "cpu" else 18)  # enough that a GPU's start does not count
    a, b = torch.randn(rows, 512, device=device), torch.randn(512, 512, device=device)
    image = a.view(1, 1, -1, 512).permute(0, 3, 1, 2)
    products: list[Callable[[], Tensor]] = [lambda: a @ b, lambda: F.conv2d(image, b[:, :, None, None])]
    best = min(timed(product, device) for product in products * 3)
    return 2 * a.numel() * 512 / best / 1e9


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds with the device's queue drained at both ends."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


@torch.inference_mode()
def measure(
    compared: dict[str, Way], hr: Tensor, lr: Tensor, rounds: int, device: torch.device
) -> tuple[pd.DataFrame, float]:
    """A row per way: PSNR of a first round, which warms up, and the median seconds of the others.

    Also the best GFLOP/s of matrix products, tried in every round: a busy moment would make it too small.
    """
    seconds: dict[str, list[float]] = {name: [] for name in compared}
    rows = []
    for name, way in compared.items():
        output = way(lr)
        rows.append({"name": name, "psnr": psnr(shown(output), hr, SCALE), **accounts(output)})
    peak = gemm_peak(device)
    for _ in tqdm(range(rounds), desc="seconds", unit="round", disable=None):
        peak = max(peak, gemm_peak(device))
        for name, way in compared.items():
            time.sleep(REST)
            seconds[name].append(timed(partial(way, lr), device))
    medians = [statistics.median(times) for times in seconds.values()]
    return pd.DataFrame(rows).assign(seconds=medians, peak_mb=math.nan), peak


def shown(output: Output) -> Tensor:
    return output.image if isinstance(output.image, Tensor) else to_tensor(output.image)


def accounts(output: Output) -> dict[str, float]:
    return {"flops_paper": output.flops.paper, "flops_executed": output.flops.executed}


def with_rates(rows: pd.DataFrame, peak: float) -> pd.DataFrame:
    """Add what follows from the rows of one image, or from means."""
    seconds = rows.set_index("name")["seconds"]
    rate = rows["flops_executed"] / rows["seconds"] / 1e9
    return rows.assign(
        vs_published=seconds["published"] / rows["seconds"],
        vs_original=seconds["original eager"] / rows["seconds"],
        gflops_per_second=rate,
        share_of_peak=rate / peak,
    )


def parse_options() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--img_path", type=Path, help="HR image or folder, shrunk by 4 (default: astronaut)")
    parser.add_argument("--model", default="save/carn-pcsr-phase1")
    parser.add_argument("--original", default="save/carn-x4")
    parser.add_argument("--backbone", choices=sorted(BACKBONES), help="untrained models of its configs instead")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each way per image (default: 5)")
    parser.add_argument("--no_memory", action="store_true", help="leave out peak memory, a process start per way")
    parser.add_argument("--csv", type=Path, default=Path("results/benchmarks/inference.csv"))
    parser.add_argument("--plot", type=Path, help="PNG to write: PSNR against seconds")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON, means per way")
    add_device_option(parser)
    args = parser.parse_args()
    if args.rounds < 1:
        raise InputError(f"--rounds {args.rounds}: must be 1 or more")
    if args.plot and args.backbone:
        raise InputError("--plot: the PSNR of --backbone's untrained models means nothing")
    return args


def main() -> None:
    args = parse_options()
    device = pick_device(args.device)
    source = Source(args.model, args.original, args.backbone)
    paths = list_images(args.img_path) if args.img_path and args.img_path.is_dir() else [args.img_path]
    print(f"{device}, {torch.get_num_threads()} threads, x{SCALE}")
    if absent := [name for name in PACKAGES if name not in usable(device)]:
        print(f"left out {', '.join(absent)}: {INSTALL if device.type == 'cpu' else 'they are compared on CPUs'}")
    if args.backbone:
        print(
            f"untrained {args.backbone}: no PSNR; k is set for shares of heavy pixels (published: {AS_PUBLISHED[-1]})"
        )
    tables, peak = [], 0.0
    for chosen in paths:
        path = chosen or ASTRONAUT
        hr = mod_crop(to_tensor(read_image(path).pixels), SCALE, path)
        lr = downscale(hr, SCALE)
        settings = source.settings(lr)
        compared = {name: make() for name, make in ways(source, settings, device).items()}
        table, reached = measure(compared, hr, lr, args.rounds, device)
        peak = max(peak, reached)
        if not args.no_memory:
            bar = tqdm(table["name"], desc="memory", unit="way", disable=None)
            table["peak_mb"] = [peak_mb(name, source, settings, device, lr) for name in bar]
        if args.backbone:
            table["psnr"] = math.nan
        table.insert(0, "image", path.name)
        table.insert(1, "output", f"{hr.shape[3]}x{hr.shape[2]}")
        tables.append(table)
        print(f"\n{path.name}, {hr.shape[3]}x{hr.shape[2]}\n{format_table(with_rates(table, peak))}")
    print(f"\nmatrix product: {peak:.0f} GFLOP/s")
    table = pd.concat([with_rates(rows, peak) for rows in tables])
    measured = ["psnr", "seconds", "peak_mb", "flops_paper", "flops_executed"]
    means = with_rates(table.groupby("name", sort=False)[measured].mean().reset_index(), peak)
    if len(paths) > 1:
        print(f"\n{len(paths)} images, means\n{format_table(means)}")
    write_atomic(args.csv, table.to_csv(index=False, float_format="%.6g").encode())
    if args.plot:
        title = tables[0]["image"][0] if len(tables) == 1 else f"{len(tables)} images"
        write_atomic(args.plot, plot(means, f"{title}, x{SCALE}, {device}, {torch.get_num_threads()} threads"))
    if args.json:
        print(table_json(means[KEYS]))


if __name__ == "__main__":
    run(main)
