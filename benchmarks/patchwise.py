"""Does it matter that images go through as a whole? Whole images against patches, with and without overlap.

python benchmarks/patchwise.py --hr_data data/Set14 data/BSD100

Patches of --patch_size LR pixels a side, `step` apart: by default 4 less than the side, as the published 32/28, and the
side itself, without overlap; what is left over at the right and bottom gets patches flush with the edge, which overlap
in any case. SR is averaged where patches overlap, and FLOPs are billed for every patch. An image smaller than the patch
is one patch, the whole.

A seam is what lies within --seam HR pixels of the edge of a patch, the edges of the image left out; `whole at seams` is
the PSNR of the whole image's SR at the same pixels, and images without seams do not count in either. LR is made by
antialiased bicubic and rounded to 8 bits; PSNR is of 8-bit RGB, 4 border pixels left out, mean per image. Seconds are
medians of --rounds runs. The whole image goes through in one part, for which it needs some 4 kB per LR pixel.
"""

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, Python looks only in its folder

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.ways import SCALE, load_pcsr
from datasets.folder import Pair, paired_folders
from evaluation.metrics import psnr
from evaluation.report import table_json
from inference.encoding import pcsr_restorer
from inference.restore import Restore, Restored
from inference.tiles import TilePlan
from models.setting import Setting
from utils.device import add_device_option, pick_device
from utils.errors import InputError, Parser, run
from utils.files import write_atomic
from utils.image import to_tensor
from utils.patches import Patches, starts

OVERLAP = 4  # LR pixels that neighbouring patches share: the published 32/28
WHOLE = "whole"
ONE_TILE = 1 << 20  # LR pixels across: no image is larger
MEANS = ["psnr", "psnr_seams", "whole_seams", "seam_share", "heavy_share", "flops_paper", "flops_executed", "seconds"]


def seams(lr: Tensor, tiling: Patches, width: int) -> Tensor:
    """Which HR pixels lie within `width` of a patch's edge inside the image: (H,W) of bool."""
    down, across = (near_edges(n, tiling, width) for n in lr.shape[-2:])
    return down[:, None] | across


def near_edges(length: int, tiling: Patches, width: int) -> Tensor:
    """The same for one axis of `length` LR pixels: (SCALE * length,) of bool."""
    near = torch.zeros(SCALE * length, dtype=torch.bool)
    for first in starts(length, tiling.patch_size, tiling.step):
        for edge in (first, first + tiling.patch_size):
            if 0 < edge < length:
                near[max(0, SCALE * edge - width) : SCALE * edge + width] = True
    return near


@torch.inference_mode()
def measure(
    restore: Restore, pair: Pair, tilings: list[Patches], ks: list[float], width: int, rounds: int
) -> list[dict[str, Any]]:
    """A row per way to cut the image and k, the whole image first."""
    whole = repeated(restore, pair.lr, None, rounds)
    none = torch.zeros(pair.hr.shape[-2:], dtype=torch.bool)
    rows = [row(pair, WHOLE, 1, k, restored, restored, none) for k, restored in zip(ks, whole, strict=True)]
    for tiling in tilings:
        mask = seams(pair.lr, tiling, width)
        name, count = f"{tiling.patch_size}/{tiling.step}", len(tiling.windows(pair.lr))
        cut = repeated(restore, pair.lr, tiling, rounds)
        rows += [row(pair, name, count, *results, mask) for results in zip(ks, cut, whole, strict=True)]
    return rows


def repeated(restore: Restore, lr: Tensor, tiling: Patches | None, rounds: int) -> list[Restored]:
    """The results per k, with the median seconds of all rounds."""
    runs = [restore(lr, tiling) for _ in range(rounds)]
    return [replace(turns[0], seconds=median(turn.seconds for turn in turns)) for turns in zip(*runs, strict=True)]


def row(
    pair: Pair, cut: str, count: int, k: float, restored: Restored, whole: Restored, mask: Tensor
) -> dict[str, Any]:
    sr, uncut = to_tensor(restored.pixels), to_tensor(whole.pixels)
    return {
        "image": pair.name,
        "cut": cut,
        "k": k,
        "patches": count,
        "psnr": psnr(sr, pair.hr, SCALE),
        "psnr_seams": psnr(sr, pair.hr, SCALE, mask=mask),  # nan without seams
        "whole_seams": psnr(uncut, pair.hr, SCALE, mask=mask),
        "seam_share": float(mask.float().mean()),
        "heavy_share": restored.heavy_share,
        "flops_paper": restored.flops.paper,
        "flops_executed": restored.flops.executed,
        "seconds": restored.seconds,
    }


def summarise(images: pd.DataFrame, model: str, refined: bool) -> pd.DataFrame:
    """Means per image of one data set, a line per cut and k; ratios are of means, to the whole image at that k."""
    groups = images.groupby(["dataset", "cut", "k"], sort=False)
    summary = groups[MEANS].mean().reset_index()
    summary.insert(0, "model", model)
    summary.insert(2, "images", images["image"].nunique())
    summary.insert(3, "scale", SCALE)
    summary.insert(4, "refined", refined)
    summary.insert(7, "patches", groups["patches"].mean().to_numpy())
    summary.insert(8, "with_seams", groups["psnr_seams"].count().to_numpy())
    whole = summary[summary["cut"] == WHOLE].set_index("k")
    for column in ("flops_paper", "flops_executed", "seconds"):
        summary[f"{column}_ratio"] = summary[column] / summary["k"].map(whole[column])
    return summary


def format_table(summary: pd.DataFrame) -> str:
    """One data set for a terminal."""
    shown = pd.DataFrame(
        {
            "patches": summary["cut"],
            "k": summary["k"].map("{:g}".format),
            "number": summary["patches"].map("{:.1f}".format),
            "PSNR dB": summary["psnr"].map("{:.3f}".format),
            "at seams": summary["psnr_seams"].map("{:.3f}".format),
            "whole at seams": summary["whole_seams"].map("{:.3f}".format),
            "seams %": (100 * summary["seam_share"]).map("{:.1f}".format),
            "with seams": summary["with_seams"],
            "heavy %": (100 * summary["heavy_share"]).map("{:.1f}".format),
            "GFLOPs paper": (summary["flops_paper"] / 1e9).map("{:.2f}".format),
            "executed": (summary["flops_executed"] / 1e9).map("{:.2f}".format),
            "FLOPs vs whole": summary["flops_paper_ratio"].map("{:.2f}x".format),
            "seconds": summary["seconds"].map("{:.3f}".format),
        }
    )
    first = summary.iloc[0]
    title = (
        f"{first['dataset']}, {first['images']} images, x{first['scale']}, {first['model']}, "
        f"{'refined' if first['refined'] else 'not refined'}; 8-bit LR, border {first['scale']}"
    )
    return f"{title}\n{shown.replace('nan', '-').to_string(index=False)}"


def parse_options() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hr_data", type=Path, nargs="+", required=True, help="folders of HR images, a data set each")
    parser.add_argument("--model", type=Path, default=Path("save/carn-pcsr-phase1"), help="PCSR weights of phase 1")
    parser.add_argument("--patch_size", type=int, nargs="+", default=[32, 64, 128, 256], help="LR pixels a side")
    parser.add_argument("--overlap", type=int, nargs="+", default=[OVERLAP, 0], help="LR pixels that neighbours share")
    parser.add_argument("--k", type=float, nargs="+", default=[0.0], help="larger is cheaper (default: 0)")
    parser.add_argument("--seam", type=int, default=8, help="HR pixels on each side of a patch's edge (default: 8)")
    parser.add_argument("--no_refinement", action="store_true", help="leave light/heavy borders as they are")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each image (default: 3)")
    parser.add_argument("--csv", type=Path, default=Path("results/benchmarks/patchwise.csv"), help="means per data set")
    parser.add_argument("--images_csv", type=Path, default=Path("results/benchmarks/patchwise-images.csv"))
    parser.add_argument("--json", action="store_true", help="end with one line of JSON, the means")
    add_device_option(parser)
    args = parser.parse_args()
    if min(args.rounds, args.seam) < 1:
        raise InputError("--rounds and --seam must be 1 or more")
    if any(math.isnan(k) for k in args.k):
        raise InputError("--k nan: must be a number")
    if wrong := [overlap for overlap in args.overlap if not 0 <= overlap < min(args.patch_size)]:
        raise InputError(f"--overlap {wrong[0]}: must be 0 or more, and less than every --patch_size")
    return args


def main() -> None:
    args = parse_options()
    tilings = [Patches(size, size - overlap) for overlap in dict.fromkeys(args.overlap) for size in args.patch_size]
    folders = paired_folders(args.hr_data, SCALE)
    ks = list(dict.fromkeys(args.k))
    refined = not args.no_refinement
    device, chosen = pick_device(args.device), [Setting("k", k, refined, SCALE) for k in ks]
    restore = pcsr_restorer(load_pcsr(args.model), chosen, device, TilePlan(ONE_TILE))
    restore(torch.zeros(1, 3, 8, 8))  # warm-up: the first call pays for set-up
    tables, summaries = [], []
    for dataset, pairs in folders.items():
        bar = tqdm(pairs, desc=dataset, unit="image", disable=None)
        rows = [line for pair in bar for line in measure(restore, pair, tilings, ks, args.seam, args.rounds)]
        table = pd.DataFrame(rows)
        table.insert(0, "dataset", dataset)
        tables.append(table)
        summaries.append(summarise(table, args.model.resolve().name, refined))
        print(f"{format_table(summaries[-1])}\n")
    summary = pd.concat(summaries)
    write_atomic(args.images_csv, pd.concat(tables).to_csv(index=False, float_format="%.7g").encode())
    write_atomic(args.csv, summary.to_csv(index=False, float_format="%.7g").encode())
    if args.json:
        print(table_json(summary))


if __name__ == "__main__":
    run(main)
