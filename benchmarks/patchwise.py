"""Does it matter that whole images are restored? Whole images against patches, with and without overlap.

python benchmarks/patchwise.py --hr_data data/Set14 data/BSD100

Patches have --patch_size LR pixels on a side. By default neighbours share 4 pixels, as the published 32/28, or none. At
the right and the bottom, the rest is covered by patches that end at the border of the image, which overlap in any case.
SR is averaged where patches overlap, and the FLOPs of all patches are counted. An image smaller than a patch is one
patch.

The pixels within --seam HR pixels of a patch's edge are its seam, except at the edges of the image. `Whole at seams` is
the PSNR of the whole image's SR at the same pixels; images without seams count in neither. LR is made by antialiased
bicubic and rounded to 8 bits. PSNR is measured on 8-bit RGB without 4 border pixels, and averaged over the images.
Seconds are medians of --rounds runs. The whole image is one tile, for which it needs about 4 kB per LR pixel.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, Python looks only in its folder

import pandas as pd
import torch
from torch import Tensor

from benchmarks.common import SCALE, folders_parser, load_pcsr, means, run_folders, title
from datasets.folder import Pair
from evaluation.metrics import psnr
from evaluation.tables import Column, format_columns
from inference.restore import Restored
from inference.restorers import pcsr_restorer
from inference.tiles import TilePlan
from models.setting import Setting
from utils.cli import count, run
from utils.device import pick_device
from utils.errors import InputError
from utils.image import to_tensor
from utils.patches import Patches

OVERLAP = 4  # LR pixels that neighbouring patches share: the published 32/28
WHOLE = "whole"
ONE_TILE = 1 << 20  # LR pixels on a side: no image is larger
TITLES = {
    "cut": Column("patches"),
    "k": Column("k", "{:g}"),
    "patches": Column("number", "{:.1f}"),
    "psnr_seams": Column("at seams", "{:.3f}"),
    "whole_seams": Column("whole at seams", "{:.3f}"),
    "seam_share": Column("seams %", "{:.1f}", 100),
    "with_seams": Column("with seams"),
    "flops_paper_ratio": Column("FLOPs vs whole", "{:.2f}x"),
}
SHOWN = ["cut", "k", "patches", "psnr", "psnr_seams", "whole_seams", "seam_share", "with_seams", "heavy_share"]
SHOWN += ["flops_paper", "flops_executed", "flops_paper_ratio", "seconds"]


def seams(lr: Tensor, patches: Patches, width: int) -> Tensor:
    """Whether HR pixels lie within `width` of a patch's edge inside the image: (H,W) of bool."""
    near = torch.zeros([SCALE * n for n in lr.shape[-2:]], dtype=torch.bool)
    for window in patches.windows(lr, SCALE):
        for axis, span in enumerate(window):
            for edge in {span.start, span.stop} - {0, near.shape[axis]}:
                near.transpose(0, axis)[max(0, edge - width) : edge + width] = True
    return near


def measured(hr: Tensor, restored: Restored, whole: Restored, mask: Tensor) -> dict[str, float]:
    """The numbers of one result and, at the seams, where mask (H,W) is true, of the whole image's result."""
    sr, uncut = to_tensor(restored.pixels), to_tensor(whole.pixels)
    return {
        "psnr": psnr(sr, hr, SCALE),
        "psnr_seams": psnr(sr, hr, SCALE, mask=mask),  # nan without seams
        "whole_seams": psnr(uncut, hr, SCALE, mask=mask),
        "seam_share": float(mask.float().mean()),
        "heavy_share": restored.heavy_share,
        "flops_paper": restored.flops.paper,
        "flops_executed": restored.flops.executed,
        "seconds": restored.seconds,
    }


def summarise(images: pd.DataFrame, args: argparse.Namespace) -> pd.DataFrame:
    """Means over the images of one data set, for each cut and k; ratios compare them with the whole image at that k."""
    summary = means(images, ["cut", "k"], args)
    seamed = images.groupby(["cut", "k"], sort=False)["psnr_seams"].count()
    summary.insert(8, "with_seams", seamed.to_numpy())
    whole = summary[summary["cut"] == WHOLE].set_index("k")
    for column in ("flops_paper", "flops_executed", "seconds"):
        summary[f"{column}_ratio"] = summary[column] / summary["k"].map(whole[column])
    return summary


def main() -> None:
    parser = folders_parser(__doc__, "patchwise")
    parser.add_argument("--patch_size", type=count, nargs="+", default=[32, 64, 128, 256], help="LR pixels on a side")
    parser.add_argument("--overlap", type=int, nargs="+", default=[OVERLAP, 0], help="LR pixels that neighbours share")
    parser.add_argument("--k", type=float, nargs="+", default=[0.0], help="larger is cheaper (default: 0)")
    parser.add_argument("--seam", type=count, default=8, help="HR pixels on each side of a patch's edge (default: 8)")
    about = "leave light/heavy borders as they are"
    parser.add_argument("--no_refinement", dest="refinement", action="store_false", help=about)
    args = parser.parse_args()
    if wrong := [overlap for overlap in args.overlap if not 0 <= overlap < min(args.patch_size)]:
        raise InputError(f"--overlap {wrong[0]}: must be 0 or more, and less than every --patch_size")
    sizes, overlaps = dict.fromkeys(args.patch_size), dict.fromkeys(args.overlap)
    cuts = [Patches(size, size - overlap) for overlap in overlaps for size in sizes]
    settings = [Setting("k", k, args.refinement, SCALE) for k in dict.fromkeys(args.k)]
    restore = pcsr_restorer(load_pcsr(args.model), settings, pick_device(args.device), TilePlan(ONE_TILE))
    restore(torch.zeros(1, 3, 8, 8))  # warm-up: the first call pays for set-up

    def measure(pair: Pair) -> list[dict[str, Any]]:
        """A row per way to cut the image and k, the whole image first; seconds are the medians of all rounds."""
        rows: list[dict[str, Any]] = []
        whole: list[Restored] = []
        for cut in (None, *cuts):
            runs = [restore(pair.lr, cut) for _ in range(args.rounds)]
            results = [replace(turns[0], seconds=median(t.seconds for t in turns)) for turns in zip(*runs, strict=True)]
            whole = whole or results
            name, number, mask = WHOLE, 1, torch.zeros(pair.hr.shape[-2:], dtype=torch.bool)
            if cut is not None:
                name, number = f"{cut.patch_size}/{cut.step}", len(cut.windows(pair.lr))
                mask = seams(pair.lr, cut, args.seam)
            for setting, restored, uncut in zip(settings, results, whole, strict=True):
                facts = {"image": pair.name, "cut": name, "k": setting.value, "patches": number}
                rows.append(facts | measured(pair.hr, restored, uncut, mask))
        return rows

    def describe(summary: pd.DataFrame) -> str:
        return f"{title(summary)}\n{format_columns(summary, SHOWN, TITLES)}"

    run_folders(args, measure, lambda images: summarise(images, args), describe)


if __name__ == "__main__":
    run(main)
