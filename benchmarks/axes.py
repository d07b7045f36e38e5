"""Trained PCSR models side by side: PSNR, heavy share and both FLOPs accounts at k = -1, 0, 1 and by ADM.

python benchmarks/axes.py --models save/fsrcnn-pcsr-phase1 save/fsrcnn-pcsr-phase1-m3 --hr_data data/Set14
python benchmarks/axes.py --models save/fsrcnn-pcsr-phase1-multiscale --hr_data data/Set14 --scales 2 2.5 3 4

Whole images, LR made from HR and rounded to 8 bits, refined; each model under its own rules. axes.csv has the means;
MODEL/DATASET-xSCALE/ has what test_pcsr.py writes, of which `python -m evaluation.report --compare` takes two
images.csv.
"""

import sys
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, Python looks only in its folder

import pandas as pd
from tqdm import tqdm

from benchmarks.common import OUT_DIR, benchmark_parser
from datasets.folder import paired_folders
from evaluation.evaluate import Protocol, evaluate
from evaluation.report import write_report
from evaluation.tables import Column, format_columns, write_csv
from inference.encoding import pcsr_restorer
from models.checkpoint import load_model
from models.pcsr import PCSR
from models.setting import Setting
from utils.device import pick_device
from utils.errors import InputError, run

SHOWN = ["model", "iterations", "dataset", "scale", "setting"]
SHOWN += ["psnr", "heavy_share", "flops_paper", "flops_paper_share", "flops_executed"]


def load_models(paths: list[Path]) -> dict[str, PCSR]:
    """The models by the names of their folders. Raises InputError for no PCSR model, and for two of one name."""
    models: dict[str, PCSR] = {}
    for path in paths:
        model, _ = load_model(path)
        if not isinstance(model, PCSR):
            raise InputError(f"{path}: an original model; test.py evaluates it")
        if path.resolve().name in models:
            raise InputError(f"--models: two are called {path.resolve().name}; rename one folder")
        models[path.resolve().name] = model
    return models


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="folders under save/, or weights")
    parser.add_argument("--hr_data", type=Path, nargs="+", required=True, help="folders of HR images")
    parser.add_argument("--scales", type=float, nargs="+", default=[4.0], help="up-scaling factors (default: 4)")
    parser.add_argument("--out_dir", type=Path, default=OUT_DIR / "axes")
    args = parser.parse_args()
    device, models = pick_device(args.device), load_models(args.models)
    settings = {scale: [Setting("k", k, scale=scale) for k in (-1, 0, 1)] for scale in args.scales}
    folders = {scale: paired_folders(args.hr_data, scale) for scale in args.scales}
    tables = []
    for path, dataset, scale in product(args.models, folders[args.scales[0]], args.scales):
        name = path.resolve().name
        all_rules = [*settings[scale], Setting("adaptive", scale=scale)]
        chosen = all_rules if models[name].classifier is not None else [Setting(scale=scale)]  # nothing to decide
        bar = tqdm(
            folders[scale][dataset], desc=f"{name} {dataset} x{scale:g}", unit="image", leave=False, disable=None
        )
        rows = evaluate(bar, pcsr_restorer(models[name], chosen, device), Protocol(scale))
        table = write_report(rows, dataset, scale, args.out_dir / name / f"{dataset}-x{scale:g}")
        log = path / "metrics.csv"  # which tells how long the model was trained
        table.insert(0, "model", name)
        table.insert(1, "iterations", pd.read_csv(log)["iteration"].iloc[-1] if log.is_file() else None)
        tables.append(table)
    table = pd.concat(tables, ignore_index=True)
    print(format_columns(table, SHOWN, {"iterations": Column("iterations", "{:.0f}")}))
    write_csv(args.out_dir / "axes.csv", table, "%.6g")
    print(f"written to {args.out_dir}")


if __name__ == "__main__":
    run(main)
