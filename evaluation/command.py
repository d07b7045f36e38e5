"""The commands test.py and test_pcsr.py: their options, and the evaluation of folders from images to report."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from tqdm import tqdm

from datasets.folder import PairedFolder, named_folders
from datasets.options import add_degrade_option
from evaluation.evaluate import evaluate, gather_rows
from evaluation.protocol import PATCH_SIZE, STEP, EvaluationProtocol, asked_protocol
from evaluation.record import images_record, model_record, reserving, results_folder
from evaluation.report import REPORTS, format_table, summary_json, write_report
from inference.options import Chosen, add_model_options, refuse_equal_names
from inference.outputs import ASSIGNED
from inference.restore import Restore, Restored
from inference.visual import as_pictures
from models.pcsr import PCSR
from models.setting import Precision
from utils.cli import Parser, tell
from utils.dist import Ranks, from_main, gather, start_ranks, stop_ranks
from utils.encode import write_image
from utils.errors import InputError
from utils.files import list_images

SR_IMAGES = "images"  # the folder of SR images among the results


def eval_parser(description: str) -> Parser:
    """The options of both evaluation scripts."""
    parser = Parser(description=description)
    add_model_options(parser, precision="float32")
    about = "folder of HR images; several are several data sets"
    parser.add_argument("--hr_data", required=True, nargs="+", metavar="DIR", help=about)
    about = "folder of LR images with the same names, one for each of --hr_data (default: LR is made from HR)"
    parser.add_argument("--lr_data", nargs="+", default=[], metavar="DIR", help=about)
    about = "up-scaling factor of 1 or more, or several; an original model only works at its own scale (default: 4)"
    parser.add_argument("--scale", type=float, nargs="+", default=[4.0], help=about)
    parser.add_argument("--float_lr", action="store_true", help="do not round LR made from HR to 8 bits (published)")
    add_degrade_option(parser)
    parser.add_argument("--per_image", action="store_true", help="restore whole images instead of overlapping patches")
    about = "cut LR to n*step+patch_size, so that whole images and patches are measured on the same pixels"
    parser.add_argument("--crop", action="store_true", help=about)
    parser.add_argument("--patch_size", type=int, help=f"LR pixels of a patch (default: {PATCH_SIZE})")
    parser.add_argument("--step", type=int, help=f"LR pixels between patches (default: {STEP})")
    parser.add_argument(
        "--psnr_type", choices=("rgb", "y"), default="rgb", help="PSNR and SSIM over RGB (default) or luma"
    )
    parser.add_argument("--save_images", action="store_true", help="write the SR images and assignments too")
    about = "folder for CSV files, plot and images; several data sets or scales get a folder each in it "
    parser.add_argument("--out_dir", help=about + "(default: results/MODEL/DATASET-xSCALE...)")
    return parser


class DataSet(NamedTuple):
    """Images at one scale, and the folder for their results."""

    name: str
    scale: float
    pairs: PairedFolder  # this rank's share
    folder: Path
    record: dict[str, Any]


def run_evaluation(
    args: argparse.Namespace,
    restorer: Callable[[torch.device, float], Restore],
    settings: Sequence[str],
    chosen: Chosen | None = None,
) -> None:
    """Restore and measure folders of images at all scales, each rank its share, and report on rank 0.

    `restorer` makes a function that restores on a device at a scale, `settings` are the names of its results, and
    `chosen` is the model, None for bicubic. Raises InputError for patches that leave gaps, for images that cannot be
    used, and for a results folder that holds the images or, if the user named it, results of something else.
    """
    ranks = start_ranks(args.device)
    precision: Precision = chosen.precision_on(ranks.device, args.precision) if chosen else "float32"
    protocol = asked_protocol(args, precision)
    restores = {scale: restorer(ranks.device, scale) for scale in args.scale}
    if ranks.main:
        print(protocol)
        if chosen:
            chosen.introduce(precision, *restores)
            if chosen.trained and not args.lr_data and (warning := chosen.trained.unlike(protocol.degrade)):
                tell(f"warning: {warning}")
    about = {**model_record(chosen), "settings": settings, **protocol.record()}
    about["device"] = ranks.device.type if chosen else "cpu"  # where bicubic is computed
    with reserving((*REPORTS, SR_IMAGES)) as reserve:
        sets = list(data_sets(args, protocol, ranks, chosen.name if chosen else "bicubic", about, reserve))
        if args.save_images:
            for folder in args.hr_data if chosen and isinstance(chosen.model, PCSR) else ():
                check_names(folder)
            for data in sets:
                data.pairs.check()
            gather(ranks, None)  # all shares are checked before anything is written
        for data in sets if ranks.main and ranks.world > 1 else ():
            reserve(data.folder, data.record)
        tables = [run_one(args, protocol, ranks, restores[data.scale], data) for data in sets]
    if ranks.main:
        summary = pd.concat(tables, ignore_index=True)
        print(format_table(summary))
        for data in sets:
            print(f"written to {data.folder}")
        if args.json:
            print(summary_json(summary))
    stop_ranks(ranks)


def data_sets(
    args: argparse.Namespace,
    protocol: EvaluationProtocol,
    ranks: Ranks,
    model: str,
    about: dict[str, Any],
    reserve: Callable[[Path, dict[str, Any]], None],
) -> Iterator[DataSet]:
    """Every data set at every scale, in a folder that one process alone reserves for it at once.

    `about` goes into the records too. Raises InputError for folders it cannot use.
    """
    named, scales = named_folders(args.hr_data), dict.fromkeys(args.scale)
    refuse_equal_names([f"--scale {scale:g}" for scale in scales])
    recorded = cache(images_record)  # the images of a folder are the same at every scale
    if args.lr_data and (len(scales) > 1 or len(args.lr_data) != len(named)):
        raise InputError("--lr_data: give one folder for each of --hr_data, and a single --scale")
    lrs = args.lr_data or [None] * len(named)
    for ((name, hr), lr), scale in product(zip(named.items(), lrs, strict=True), scales):
        pairs = PairedFolder(hr, lr, scale, protocol.float_lr, ranks.rank, ranks.world, degrade=protocol.degrade)
        wanted = Path(args.out_dir or f"results/{model}")
        if not args.out_dir or len(named) * len(scales) > 1:
            wanted /= f"{name}-x{scale:g}{protocol.suffix()}"
        written = {wanted, *(wanted / SR_IMAGES / setting for setting in about["settings"])}
        if {place.resolve() for place in written} & {Path(given).resolve() for given in (*args.hr_data, *args.lr_data)}:
            raise InputError(f"--out_dir {wanted}: holds the images to evaluate; give another folder")
        images = [from_main(ranks, partial(recorded, *each)) for each in (("hr", hr), ("lr", lr))]
        record = {**about, "scale": scale, **images[0], **images[1]}
        folder = from_main(ranks, partial(results_folder, wanted, REPORTS, record, bool(args.out_dir)))
        if ranks.world == 1:  # of several processes this one may be ended by a signal when another refuses its share
            reserve(folder, record)
        yield DataSet(name, scale, pairs, folder, record)


def check_names(folder: str) -> None:
    """Raises InputError if the assignment of an image would have the name of another image's result."""
    names = {path.stem for path in list_images(folder)}
    for name in sorted(names):
        if (other := name + ASSIGNED) in names:
            raise InputError(f"--save_images: the assignment of {name} would replace the result of {other}; rename one")


def run_one(
    args: argparse.Namespace, protocol: EvaluationProtocol, ranks: Ranks, restore: Restore, data: DataSet
) -> pd.DataFrame:
    """Evaluate one data set and, on rank 0, write its results; returns the summary, empty on other ranks."""

    def save(image: str, restored: Restored) -> None:
        save_images(data.folder / SR_IMAGES / restored.setting, image, restored)

    bar = tqdm(data.pairs, desc=f"{data.name} x{data.scale:g}", unit="image", disable=None if ranks.main else True)
    rows = gather_rows(
        ranks, evaluate(bar, restore, protocol.measuring(data.scale), save if args.save_images else None)
    )
    if not ranks.main:
        return pd.DataFrame()
    return write_report(rows, data.name, data.scale, data.folder)


def save_images(folder: Path, name: str, restored: Restored) -> None:
    for stem, pixels in as_pictures(name, restored).items():
        write_image(folder / f"{stem}.png", pixels)
