"""Seconds, memory, FLOPs and PSNR of PCSR against its published formulation and the original model.

python benchmarks/inference.py                                scikit-image's astronaut
python benchmarks/inference.py --img_path hr --plot ways.png  a folder of HR images, and a picture of PSNR over cost
python benchmarks/inference.py --model save/fsrcnn-pcsr-phase1                another model than CARN

All methods run alternately in one process, with the same memory settings, so that a busy machine slows all of them;
seconds are medians, after a warm-up of each. Peak memory is measured in a process that restores the image once, with
one method. "Of peak" compares with the fastest matrix product that this machine's libraries reach. If save/ has no
weights of the backbone's original model, its rows are left out.

With `pip install -r requirements-bench.txt` the original model also runs in ONNX Runtime and in OpenVINO, and ours, as
export.py writes it, in ONNX Runtime.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, Python looks only in its folder

import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from benchmarks.common import OUT_DIR, SCALE, benchmark_parser, timed
from benchmarks.runtimes import PACKAGES, usable
from benchmarks.ways import IN_HALF, SETTINGS, Way, load_models, peak_mb, ways
from datasets.folder import mod_crop
from demo import ASTRONAUT
from evaluation.metrics import psnr
from evaluation.tables import Column, format_columns, table_json, write_csv
from inference.onnx import INSTALL
from inference.visual import VERBATIM, figure_png
from utils.cli import count, run
from utils.decode import read_image
from utils.device import pick_device
from utils.files import list_images, output_file, write_atomic
from utils.image import to_tensor
from utils.resize import downscale

REST = 0.02  # seconds before each timed run, as threads of the method before may still wait actively for more work
KEYS = ["name", "seconds", "peak_mb", "flops_paper", "flops_executed"]  # --json has all of these
RATES = {
    "vs_published": Column("vs published", "{:.1f}x"),
    "vs_original": Column("vs original", "{:.1f}x"),
    "peak_mb": Column("peak MB", "{:.0f}"),
    "gflops_per_second": Column("GFLOP/s", "{:.0f}"),
    "share_of_peak": Column("of peak %", "{:.0f}", 100),
}
SHOWN = ["name", "seconds", "vs_published", "vs_original", "psnr", "peak_mb", "flops_paper", "flops_executed"]
SHOWN += ["gflops_per_second", "share_of_peak"]


def gemm_peak(device: torch.device) -> float:
    """GFLOP/s of the faster of the two ways to multiply matrices, float32, rows of 512 channels."""
    rows = 1 << (13 if device.type == "cpu" else 18)  # enough for the start on a GPU not to count
    a, b = torch.randn(rows, 512, device=device), torch.randn(512, 512, device=device)
    image = a.view(1, 1, -1, 512).permute(0, 3, 1, 2)
    products: list[Callable[[], Tensor]] = [lambda: a @ b, lambda: F.conv2d(image, b[:, :, None, None])]
    best = min(timed(product, device) for product in products * 3)
    return 2 * a.numel() * 512 / best / 1e9


@torch.inference_mode()
def measure(
    compared: dict[str, Way], hr: Tensor, lr: Tensor, rounds: int, device: torch.device
) -> tuple[pd.DataFrame, float]:
    """A row for each method: PSNR of a first round, which warms up, and the median seconds of the others.

    Also the best GFLOP/s of matrix products, tried in every round, because a busy moment would make it too small.
    """
    rows = []
    for name, way in compared.items():
        image, flops = way(lr)
        sr = image if isinstance(image, Tensor) else to_tensor(image)
        rows.append({"name": name, "psnr": psnr(sr, hr, SCALE)})
        rows[-1] |= {"flops_paper": flops.paper, "flops_executed": flops.executed}
    seconds: dict[str, list[float]] = {name: [] for name in compared}
    peak = gemm_peak(device)
    for _ in tqdm(range(rounds), desc="seconds", unit="round", disable=None):
        peak = max(peak, gemm_peak(device))
        for name, way in compared.items():
            time.sleep(REST)
            seconds[name].append(timed(partial(way, lr), device))
    return pd.DataFrame(rows).assign(seconds=list(map(median, seconds.values())), peak_mb=math.nan), peak


def with_rates(rows: pd.DataFrame, peak: float) -> pd.DataFrame:
    """Add ratios and rates to the rows of one image, or to means."""
    seconds = rows.set_index("name")["seconds"]
    rate = rows["flops_executed"] / rows["seconds"] / 1e9
    return rows.assign(
        vs_published=seconds["published"] / rows["seconds"],
        vs_original=seconds.get("original eager", math.nan) / rows["seconds"],
        gflops_per_second=rate,
        share_of_peak=rate / peak,
    )


@rc_context(VERBATIM)
def plot(means: pd.DataFrame, title: str) -> bytes:
    """PSNR against seconds and against FLOPs as PNG: ours is a curve over k, each other method a mark."""
    points = means.set_index("name").assign(gflops=means["flops_executed"].to_numpy() / 1e9)
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    draw(left, points, "seconds")
    draw(right, points, "gflops")
    left.set_xlabel("seconds per image")
    left.set_ylabel("PSNR (dB)")
    right.set_xlabel("GFLOPs per image, executed account")
    right.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(title, fontsize=10)
    return figure_png(figure, 120)


def draw(axis: Axes, points: pd.DataFrame, cost: str) -> None:
    """One panel: PSNR against the column `cost`."""
    ours = points.loc[[name for name, setting in SETTINGS.items() if setting.rule == "k"]]
    half = points.loc[[name for name in IN_HALF if name in points.index]]
    axis.plot(ours[cost], ours["psnr"], "o-", label="ours, over k")
    if len(half):
        axis.plot(half[cost], half["psnr"], "o--", label="ours, over k, float16")
    others = points.drop(index=[*ours.index, *half.index]).rename(index={"adaptive": "ours, adaptive"})
    for mark, (name, row) in zip(cycle("*sv^x+D<>"), others.iterrows(), strict=False):
        # hollow, as some lie upon one another
        axis.plot(row[cost], row["psnr"], mark, markersize=9, markerfacecolor="none", label=str(name))
    for name, row in ours.iterrows():
        shift = (0, 7) if name == "k=0" else (6, -11)  # k=1 may be close
        axis.annotate(str(name), (row[cost], row["psnr"]), textcoords="offset points", xytext=shift, fontsize=8)
    axis.set_xlim(left=0)
    axis.margins(0.1)
    axis.grid(alpha=0.3)


def parse_options() -> argparse.Namespace:
    parser = benchmark_parser(__doc__)
    parser.add_argument(
        "--img_path", type=Path, default=ASTRONAUT, help="HR image or folder, shrunk by 4 (default: astronaut)"
    )
    parser.add_argument("--model", type=Path, default=Path("save/carn-pcsr-phase1"), help="PCSR weights")
    parser.add_argument("--original", type=Path, help="original model (default: that of the same backbone in save/)")
    parser.add_argument("--rounds", type=count, default=5, help="timed runs of each method per image (default: 5)")
    parser.add_argument("--no_memory", action="store_true", help="do not measure peak memory, which takes long")
    parser.add_argument(
        "--csv", type=output_file(".csv"), default=OUT_DIR / "inference.csv", help="means of each method"
    )
    parser.add_argument("--plot", type=output_file(".png"), help="PNG to write: PSNR against seconds and FLOPs")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON, means for each method")
    return parser.parse_args()


def main() -> None:
    args = parse_options()
    device = pick_device(args.device)
    pcsr, original = load_models(args.model, args.original)
    paths = list_images(args.img_path) if args.img_path.is_dir() else [args.img_path]
    machine = f"{device}, {torch.get_num_threads()} threads"
    print(f"{machine}, x{SCALE}")
    if original is None:
        print("left out the original model: save/ has no weights of it, and --original gives none")
    if absent := [name for name in PACKAGES if name not in usable(device)]:
        print(f"left out {', '.join(absent)}: {INSTALL if device.type == 'cpu' else 'they are compared on CPUs'}")
    compared = {name: make() for name, make in ways(pcsr, original, device).items()}
    tables, peak = [], 0.0
    for path in paths:
        hr = mod_crop(to_tensor(read_image(path).pixels), SCALE, path)
        lr, output = downscale(hr, SCALE), f"{hr.shape[3]}x{hr.shape[2]}"
        table, reached = measure(compared, hr, lr, args.rounds, device)
        peak = max(peak, reached)
        if not args.no_memory:
            bar = tqdm(table["name"], desc="memory", unit="method", disable=None)
            table["peak_mb"] = [peak_mb(name, args.model, args.original, device, lr) for name in bar]
        table.insert(0, "image", path.name)
        table.insert(1, "output", output)
        tables.append(table)
        print(f"\n{path.name}, {output}\n{format_columns(with_rates(table, peak), SHOWN, RATES)}")
    print(f"\nmatrix product: {peak:.0f} GFLOP/s")
    table = pd.concat(tables)
    means = with_rates(table.groupby("name", sort=False).mean(numeric_only=True).reset_index(), peak)
    if len(paths) > 1:
        print(f"\n{len(paths)} images, means\n{format_columns(means, SHOWN, RATES)}")
    write_csv(args.csv, pd.concat([with_rates(rows, peak) for rows in tables]), "%.6g")
    if args.plot:
        title = paths[0].name if len(paths) == 1 else f"{len(paths)} images"
        write_atomic(args.plot, plot(means, f"{title}, x{SCALE}, {machine}"))
    if args.json:
        print(table_json(means[KEYS]))


if __name__ == "__main__":
    run(main)
