"""The commands test.py and test_pcsr.py: their options, and the evaluation of folders from images to report."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from tqdm import tqdm

from datasets.folder import PairedFolder, named_folders
from datasets.options import add_degrade_option, asked_degradation
from evaluation.evaluate import MeasuringProtocol, evaluate, gather_rows
from evaluation.record import images_record, model_record, results_folder, write_record
from evaluation.report import REPORTS, format_table, summary_json, write_report
from inference.options import Chosen, add_model_options, refuse_equal_names, speed_record
from inference.outputs import ASSIGNED
from inference.restore import Restore, Restored
from inference.visual import as_pictures
from models.pcsr import PCSR
from utils.cli import Parser, tell
from utils.config import DegradeSpec
from utils.dist import Ranks, from_main, gather, start_ranks, stop_ranks
from utils.encode import write_image
from utils.errors import InputError
from utils.files import list_images
from utils.patches import Patches

SR_IMAGES = "images"  # the folder of SR images among the results
PATCH_SIZE, STEP = 32, 28  # LR pixels on a side of a patch and from one to the next, as published


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
    precision = chosen.precision_on(ranks.device, args.precision) if chosen else "float32"
    restores = {scale: restorer(ranks.device, scale) for scale in args.scale}
    set_patches(args)
    for option, given in (("--skip_flat", args.skip_flat), ("--tile_size", args.tile_size)):
        if given and not args.per_image:
            raise InputError(f"{option}: goes with whole images; add --per_image")
    if args.lr_data and args.float_lr:
        raise InputError("--float_lr: is for LR that is made from HR; leave it or --lr_data out")
    args.degrade = degradation(args)
    if ranks.main:
        print(protocol_line(args))
        if chosen:
            chosen.introduce(precision, *restores)
            if chosen.trained and not args.lr_data and (warning := chosen.trained.unlike(args.degrade)):
                tell(f"warning: {warning}")
    about = {**model_record(chosen), "settings": settings, **protocol_record(args)}
    about |= speed_record(precision, args.skip_flat)
    about["device"] = ranks.device.type if chosen else "cpu"  # where bicubic is computed
    sets = list(data_sets(args, ranks, chosen.name if chosen else "bicubic", about))
    if args.save_images:
        for folder in args.hr_data if chosen and isinstance(chosen.model, PCSR) else ():
            check_names(folder)
        for data in sets:
            data.pairs.check()
        gather(ranks, None)  # all shares are checked before anything is written
    tables = [run_one(args, ranks, restores[data.scale], data) for data in sets]
    if ranks.main:
        summary = pd.concat(tables, ignore_index=True)
        print(format_table(summary))
        for data in sets:
            print(f"written to {data.folder}")
        if args.json:
            print(summary_json(summary))
    stop_ranks(ranks)


def set_patches(args: argparse.Namespace) -> None:
    """Give --patch_size and --step their defaults. Raises InputError for values that leave gaps or have no effect."""
    for option, usual in (("patch_size", PATCH_SIZE), ("step", STEP)):
        if getattr(args, option) is None:
            setattr(args, option, usual)
        elif args.per_image and not args.crop:
            raise InputError(f"--{option}: goes with patches; leave it or --per_image out")
    if not 1 <= args.step <= args.patch_size:
        raise InputError(f"--patch_size {args.patch_size} --step {args.step}: need 1 <= step <= patch_size")


def degradation(args: argparse.Namespace) -> DegradeSpec | None:
    """The degradation that --degrade describes. Raises InputError also for options that exclude it."""
    for option, given in (("--lr_data", args.lr_data), ("--float_lr", args.float_lr)):
        if args.degrade and given:
            raise InputError(f"--degrade: is for 8-bit LR that is made from HR; leave out {option}")
    return asked_degradation(args.degrade)


def data_sets(args: argparse.Namespace, ranks: Ranks, model: str, about: dict[str, Any]) -> Iterator[DataSet]:
    """Every data set at every scale; `about` goes into the records too. Raises InputError for folders it cannot use."""
    named, scales = named_folders(args.hr_data), dict.fromkeys(args.scale)
    refuse_equal_names([f"--scale {scale:g}" for scale in scales])
    recorded = cache(images_record)  # the images of a folder are the same at every scale
    if args.lr_data and (len(scales) > 1 or len(args.lr_data) != len(named)):
        raise InputError("--lr_data: give one folder for each of --hr_data, and a single --scale")
    lrs, suffix = args.lr_data or [None] * len(named), protocol_suffix(args, about)
    for ((name, hr), lr), scale in product(zip(named.items(), lrs, strict=True), scales):
        pairs = PairedFolder(hr, lr, scale, args.float_lr, ranks.rank, ranks.world, degrade=args.degrade)
        wanted = Path(args.out_dir or f"results/{model}")
        if not args.out_dir or len(named) * len(scales) > 1:
            wanted /= f"{name}-x{scale:g}{suffix}"
        written = {wanted, *(wanted / SR_IMAGES / setting for setting in about["settings"])}
        if {place.resolve() for place in written} & {Path(given).resolve() for given in (*args.hr_data, *args.lr_data)}:
            raise InputError(f"--out_dir {wanted}: holds the images to evaluate; give another folder")
        images = [from_main(ranks, partial(recorded, *each)) for each in (("hr", hr), ("lr", lr))]
        record = {**about, "scale": scale, **images[0], **images[1]}
        find = partial(results_folder, wanted, REPORTS, record, bool(args.out_dir))
        yield DataSet(name, scale, pairs, from_main(ranks, find), record)


def check_names(folder: str) -> None:
    """Raises InputError if the assignment of an image would have the name of another image's result."""
    names = {path.stem for path in list_images(folder)}
    for name in sorted(names):
        if (other := name + ASSIGNED) in names:
            raise InputError(f"--save_images: the assignment of {name} would replace the result of {other}; rename one")


def run_one(args: argparse.Namespace, ranks: Ranks, restore: Restore, data: DataSet) -> pd.DataFrame:
    """Evaluate one data set and, on rank 0, write its results; returns the summary, empty on other ranks."""

    def save(image: str, restored: Restored) -> None:
        save_images(data.folder / SR_IMAGES / restored.setting, image, restored)

    grid = Patches(args.patch_size, args.step)
    protocol = MeasuringProtocol(
        data.scale, None if args.per_image else grid, grid if args.crop else None, args.psnr_type
    )
    bar = tqdm(data.pairs, desc=f"{data.name} x{data.scale:g}", unit="image", disable=None if ranks.main else True)
    rows = gather_rows(ranks, evaluate(bar, restore, protocol, save if args.save_images else None))
    if not ranks.main:
        return pd.DataFrame()
    write_record(data.folder, data.record)
    return write_report(rows, data.name, data.scale, data.folder)


def protocol_line(args: argparse.Namespace) -> str:
    """A line for people: the protocol, the option that chooses the other one, and whatever else differs from it."""
    size = f"{args.patch_size}x{args.patch_size} LR pixels, step {args.step}"
    patches = f"overlapping patches of {size}, as published (whole images: --per_image)"
    whole = "whole images (without --per_image: overlapping patches, as published)"
    words = [whole if args.per_image else patches]
    words += ["LR cut to whole steps (--crop)"] if args.crop else []
    words += ["PSNR and SSIM over luma (--psnr_type y)"] if args.psnr_type == "y" else []
    words += ["LR not rounded to 8 bits (--float_lr)"] if args.float_lr else []
    words += [f"LR degraded by {args.degrade}"] if args.degrade else []
    words += [f"flat areas interpolated (--skip_flat {args.skip_flat:g})"] if args.skip_flat else []
    return f"protocol: {'; '.join(words)}"


def protocol_record(args: argparse.Namespace) -> dict[str, Any]:
    """The parts of the protocol that decide the results."""
    grid = [args.patch_size, args.step]
    record = {
        "patches": None if args.per_image else grid,
        "crop": grid if args.crop else None,
        "float_lr": args.float_lr,
        "psnr_type": args.psnr_type,
        "refinement": "no_refinement" in args and not args.no_refinement,  # only PCSR has the option
    }
    return {**record, "degrade": str(args.degrade)} if args.degrade else record  # older records lack it


def protocol_suffix(args: argparse.Namespace, record: Mapping[str, Any]) -> str:
    """Names whatever differs from whole images in RGB: results of each protocol have a folder of their own."""
    other = {
        "patches": not args.per_image,
        "crop": args.crop,
        "y": args.psnr_type == "y",
        "float": args.float_lr,
        "unrefined": getattr(args, "no_refinement", False),  # PCSR only
    }
    words = [word for word, holds in other.items() if holds]
    words += [record["precision"]] if "precision" in record else []
    words += [f"flat{record['skip_flat']}"] if "skip_flat" in record else []
    words += str(args.degrade).replace("=", "").split() if args.degrade else []
    return "".join(f"-{word}" for word in words)


def save_images(folder: Path, name: str, restored: Restored) -> None:
    for stem, pixels in as_pictures(name, restored).items():
        write_image(folder / f"{stem}.png", pixels)
