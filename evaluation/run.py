"""What test.py and test_pcsr.py share: their options, and the evaluation of a folder from images to report."""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from datasets.folder import PairedFolder
from evaluation.evaluate import Protocol, evaluate, gather_rows
from evaluation.report import format_table, summary_json, write_report
from inference.options import add_model_options
from inference.restore import Restore, Restored
from inference.visual import colour_assignment
from utils.dist import gather, start_ranks, stop_ranks
from utils.encode import write_image
from utils.errors import InputError, Parser
from utils.patches import Patches


def eval_parser(description: str) -> Parser:
    """The options of both evaluation scripts."""
    parser = Parser(description=description)
    add_model_options(parser)
    parser.add_argument("--hr_data", required=True, help="folder of HR images")
    parser.add_argument("--lr_data", help="folder of LR images of the same names; made from HR if not given")
    parser.add_argument(
        "--scale", type=float, default=4.0, help="up-scaling factor of 1 or more, an original's own (default: 4)"
    )
    parser.add_argument("--float_lr", action="store_true", help="LR made from HR is not rounded to 8 bits (published)")
    parser.add_argument("--per_image", action="store_true", help="whole images, instead of overlapping patches")
    parser.add_argument("--crop", action="store_true", help="cut LR to n*step+patch_size, what both modes can see")
    parser.add_argument("--patch_size", type=int, default=32, help="LR pixels of a patch (default: 32)")
    parser.add_argument("--step", type=int, default=28, help="LR pixels between patches (default: 28)")
    parser.add_argument(
        "--psnr_type", choices=("rgb", "y"), default="rgb", help="PSNR and SSIM over RGB (default) or luma"
    )
    parser.add_argument("--save_images", action="store_true", help="write the SR images and assignments too")
    parser.add_argument("--out_dir", help="where CSV, plot and images go (default: results/MODEL/DATASET-xSCALE...)")
    return parser


def run_evaluation(
    args: argparse.Namespace,
    name: str,
    restorer: Callable[[torch.device], Restore],
    introduce: Callable[[], None] = lambda: None,
) -> None:
    """Restore and measure a folder of images, each rank its share, and report on rank 0.

    `name` is the model's, `restorer` makes it ready on a device, and `introduce` says on rank 0 what it is. Raises
    InputError for patches that leave gaps, images that cannot be used, and a folder for the results that holds the
    images.
    """
    ranks = start_ranks(args.device)
    restore = restorer(ranks.device)
    if ranks.main:
        introduce()
    if not 1 <= args.step <= args.patch_size:
        raise InputError(f"--patch_size {args.patch_size} --step {args.step}: need 1 <= step <= patch_size")
    pairs = PairedFolder(args.hr_data, args.lr_data, args.scale, args.float_lr, ranks.rank, ranks.world)
    grid = Patches(args.patch_size, args.step)
    protocol = Protocol(args.scale, None if args.per_image else grid, grid if args.crop else None, args.psnr_type)
    dataset = Path(args.hr_data).resolve().name
    folder = Path(args.out_dir or f"results/{name}/{dataset}-x{args.scale:g}{protocol_suffix(args)}")
    if folder.resolve() in {Path(given).resolve() for given in (args.hr_data, args.lr_data) if given}:
        raise InputError(f"--out_dir {folder}: holds the images to evaluate; give another folder")

    def keep(image: str, restored: Restored) -> None:
        save_images(folder / "images" / restored.setting, image, restored)

    if args.save_images:
        pairs.check()
        gather(ranks, None)  # all shares are checked before anything is written
    bar = tqdm(pairs, desc=dataset, unit="image", disable=None if ranks.main else True)
    rows = gather_rows(ranks, evaluate(bar, restore, protocol, keep if args.save_images else None))
    if ranks.main:
        summary = write_report(rows, dataset, args.scale, folder)
        print(format_table(summary))
        print(f"written to {folder}")
        if args.json:
            print(summary_json(summary))
    stop_ranks(ranks)


def protocol_suffix(args: argparse.Namespace) -> str:
    """What differs from whole images in RGB: the results of other protocols have folders of their own."""
    other = {
        "patches": not args.per_image,
        "crop": args.crop,
        "y": args.psnr_type == "y",
        "float": args.float_lr,
        "unrefined": getattr(args, "no_refinement", False),  # PCSR only
    }
    return "".join(f"-{word}" for word, holds in other.items() if holds)


def save_images(folder: Path, name: str, restored: Restored) -> None:
    write_image(folder / f"{name}.png", restored.pixels)
    if restored.assignment is not None:
        overlay = colour_assignment(restored.pixels, restored.assignment, restored.upsamplers)
        write_image(folder / f"{name}_assignment.png", overlay)
