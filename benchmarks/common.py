"""Shared by several benchmarks: options, the model, a clock, and measuring folders of HR images."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from datasets.folder import Pair, PairedFolder, named_folders
from evaluation.tables import table_json, write_csv
from inference.restore import Clock
from models.checkpoint import load_model
from models.pcsr import PCSR
from utils.cli import Parser, count
from utils.device import add_device_option
from utils.errors import InputError
from utils.files import output_file

SCALE = 4
OUT_DIR = Path("results/benchmarks")


def benchmark_parser(description: str | None) -> Parser:
    """A parser with the option --device, whose help shows a module's docstring unchanged."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_device_option(parser)
    return parser


def folders_parser(description: str | None, name: str) -> Parser:
    """The options of a benchmark that runs one model on folders of HR images (see run_folders)."""
    parser = benchmark_parser(description)
    parser.add_argument("--hr_data", type=Path, nargs="+", required=True, help="folders of HR images, each a data set")
    parser.add_argument("--model", type=Path, default=Path("save/carn-pcsr-phase1"), help="PCSR weights of phase 1")
    parser.add_argument("--rounds", type=count, default=3, help="timed runs for each image or rule (default: 3)")
    parser.add_argument("--csv", type=output_file(".csv"), default=OUT_DIR / f"{name}.csv", help="means of each set")
    parser.add_argument(
        "--images_csv", type=output_file(".csv"), default=OUT_DIR / f"{name}-images.csv", help="rows of each image"
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON, the means")
    return parser


def load_pcsr(path: str | Path) -> PCSR:
    """A PCSR model with a classifier. Raises InputError for another model."""
    model, _ = load_model(path)
    if not isinstance(model, PCSR) or model.classifier is None:
        raise InputError(f"{path}: has no classifier; give a PCSR model of phase 1")
    return model


def timed(call: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """The seconds that a call takes, as the mean of `times` calls; the device is waited for before and after them."""
    clock = Clock(device)
    for _ in range(times):
        call()
    return clock.lap() / times


def run_folders(
    args: argparse.Namespace,
    measure: Callable[[Pair], list[dict[str, Any]]],
    summarise: Callable[[pd.DataFrame], pd.DataFrame],
    describe: Callable[[pd.DataFrame], str],
) -> pd.DataFrame:
    """Measure every image, then summarise and print the rows of each data set; writes the CSV files.

    Returns the summaries of all data sets as one table. Raises InputError for folders without images, and if both CSV
    files are one.
    """
    if args.images_csv.resolve() == args.csv.resolve():
        raise InputError(f"--images_csv {args.images_csv}: is the file of --csv; give another name")
    tables, summaries = [], []
    sets = {name: PairedFolder(folder, None, SCALE) for name, folder in named_folders(args.hr_data).items()}
    for dataset, images in sets.items():
        bar = tqdm(images, desc=dataset, unit="image", disable=None)
        table = pd.DataFrame([row for pair in bar for row in measure(pair)])
        table.insert(0, "dataset", dataset)
        tables.append(table)
        summaries.append(summarise(table))
        print(f"{describe(summaries[-1])}\n")
    summary = pd.concat(summaries)
    write_csv(args.images_csv, pd.concat(tables), "%.7g")
    write_csv(args.csv, summary, "%.7g")
    if args.json:
        print(table_json(summary))
    return summary


def means(images: pd.DataFrame, by: Sequence[str], args: argparse.Namespace) -> pd.DataFrame:
    """Means over the images of one data set, a line for each value of `by`, with the model and the protocol first."""
    summary = images.groupby(["dataset", *by], sort=False).mean(numeric_only=True).reset_index()
    summary.insert(0, "model", args.model.resolve().name)
    summary.insert(2, "images", images["image"].nunique())
    summary.insert(3, "scale", SCALE)
    summary.insert(4, "refined", args.refinement)
    return summary


def protocol(summary: pd.DataFrame) -> str:
    """The scale, model and refinement of a summary, for people."""
    first = summary.iloc[0]
    return f"x{first['scale']}, {first['model']}, {'refined' if first['refined'] else 'not refined'}"


def title(summary: pd.DataFrame) -> str:
    """The title of the summary of one data set."""
    first = summary.iloc[0]
    about = f"{first['dataset']}, {first['images']} images, {protocol(summary)}"
    return f"{about}; PSNR in dB, 8-bit LR, border {first['scale']}"
