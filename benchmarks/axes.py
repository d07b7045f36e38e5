"""Trained PCSR models side by side: PSNR, heavy share and both FLOPs accounts at k = -1, 0, 1 and by ADM.

python benchmarks/axes.py --models save/fsrcnn-pcsr-phase1 save/fsrcnn-pcsr-phase1-m3 --hr_data data/Set14
python benchmarks/axes.py --models save/fsrcnn-pcsr-phase1-multiscale --hr_data data/Set14 --scales 2 2.5 3 4

Whole images, LR made from HR and rounded to 8 bits, refined; each model under its own rules. axes.csv has the means;
MODEL/DATASET-xSCALE/ has what test_pcsr.py writes, of which `python -m evaluation.report --compare` takes two
images.csv.
"""

import argparse
import sys
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, Python looks only in its folder

import pandas as pd
import torch
from tqdm import tqdm

from datasets.folder import PairedFolder
from evaluation.evaluate import Protocol, evaluate
from evaluation.report import write_report
from inference.encoding import pcsr_restorer
from models.checkpoint import load_model
from models.pcsr import PCSR
from models.setting import Rule, Setting, check_scale
from utils.device import add_device_option, pick_device
from utils.errors import InputError, Parser, run
from utils.files import list_images, write_atomic

RULES: list[tuple[Rule, float]] = [("k", -1), ("k", 0), ("k", 1), ("adaptive", 0)]
PHASE_0: list[tuple[Rule, float]] = [("k", 0)]  # a single upsampler leaves nothing to decide


def load_models(paths: list[Path]) -> dict[str, tuple[PCSR, int | None]]:
    """The models by the names of their folders, and how many iterations they were trained, where a log tells.

    Raises InputError for what is no PCSR model, and for two of one name.
    """
    models: dict[str, tuple[PCSR, int | None]] = {}
    for path in paths:
        model, _ = load_model(path)
        name = path.resolve().name
        if not isinstance(model, PCSR):
            raise InputError(f"{path}: an original model; test.py evaluates it")
        if name in models:
            raise InputError(f"--models: two are called {name}; rename one folder")
        log = path / "metrics.csv"
        models[name] = model, int(pd.read_csv(log)["iteration"].iloc[-1]) if log.is_file() else None
    return models


def named_folders(paths: list[Path]) -> dict[str, Path]:
    """The data by the names of their folders. Raises InputError for one without images, and for two of one name."""
    folders: dict[str, Path] = {}
    for path in paths:
        list_images(path)
        name = path.resolve().name
        if name in folders:
            raise InputError(f"--hr_data: two are called {name}; rename one folder, or make a link to it")
        folders[name] = path
    return folders


def measured(model: PCSR, hr: Path, scale: float, device: torch.device, out: Path) -> pd.DataFrame:
    """Evaluate a model on a folder at a scale, into a folder of `out`; a row of means per setting."""
    dataset = hr.resolve().name
    title = f"{out.name} {dataset} x{scale:g}"
    pairs = tqdm(PairedFolder(str(hr), None, scale), desc=title, unit="image", leave=False, disable=None)
    settings = [Setting(*rule, scale=scale) for rule in (PHASE_0 if model.classifier is None else RULES)]
    rows = evaluate(pairs, pcsr_restorer(model, settings, device), Protocol(scale))
    return write_report(rows, dataset, scale, out / f"{dataset}-x{scale:g}")


def format_table(table: pd.DataFrame) -> str:
    """All rows with units, for a terminal."""
    shown = pd.DataFrame(
        {
            "model": table["model"],
            "iterations": table["iterations"].astype("Int64"),
            "data": table["dataset"],
            "scale": table["scale"].map("x{:g}".format),
            "setting": table["setting"],
            "PSNR dB": table["psnr"].map("{:.3f}".format),
            "heavy %": (100 * table["heavy_share"]).map("{:.1f}".format),
            "GFLOPs paper": (table["flops_paper"] / 1e9).map("{:.2f}".format),
            "of all-heavy %": (100 * table["flops_paper_share"]).map("{:.1f}".format),
            "GFLOPs executed": (table["flops_executed"] / 1e9).map("{:.2f}".format),
        }
    )
    return shown.to_string(index=False)


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="folders under save/, or weights")
    parser.add_argument("--hr_data", type=Path, nargs="+", required=True, help="folders of HR images")
    parser.add_argument("--scales", type=float, nargs="+", default=[4.0], help="up-scaling factors (default: 4)")
    parser.add_argument("--out_dir", type=Path, default=Path("results/benchmarks/axes"))
    add_device_option(parser)
    args = parser.parse_args()
    device, scales = pick_device(args.device), [check_scale(scale) for scale in args.scales]
    models, folders = load_models(args.models), named_folders(args.hr_data)
    tables = []
    for (name, (model, iterations)), hr, scale in product(models.items(), folders.values(), scales):
        table = measured(model, hr, scale, device, args.out_dir / name)
        table.insert(0, "model", name)
        table.insert(1, "iterations", iterations)
        tables.append(table)
    table = pd.concat(tables, ignore_index=True)
    print(format_table(table))
    write_atomic(args.out_dir / "axes.csv", table.to_csv(index=False, float_format="%.6g").encode())
    print(f"written to {args.out_dir}")


if __name__ == "__main__":
    run(main)
