"""The command line that test.py, test_pcsr.py and demo.py share, and what follows from it."""

import argparse
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from datasets.folder import PairedFolder
from evaluation.evaluate import Protocol, evaluate, gather_rows
from evaluation.report import format_table, summary_json, write_report
from inference.restore import Restore, Restored
from inference.tiles import TilePlan
from inference.visual import colour_assignment
from models.blocks import Backbone
from models.checkpoint import SAVE, WEIGHTS, load_model
from models.pcsr import PCSR
from models.setting import Setting, check_scale
from utils.config import OriginalSpec, PCSRSpec, load_config
from utils.device import add_device_option
from utils.dist import Ranks, gather
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


def add_model_options(parser: Parser) -> None:
    parser.add_argument("--config", help="experiment; its weights are save/NAME of configs/NAME.yaml")
    parser.add_argument("--model", help="weights instead: a folder under save/, a .safetensors, or a published .pth")
    parser.add_argument(
        *("--tile_size", "--part_size"),
        type=int,
        help="LR pixels across a tile of a large image (default: what the memory allows)",
    )
    parser.add_argument("--json", action="store_true", help="end with the summary as one line of JSON")
    add_device_option(parser)


def add_decision_options(parser: Parser) -> None:
    parser.add_argument(
        "--k", type=float, nargs="+", default=[], help="larger is cheaper, about -1 .. 2; 0 if no option is given"
    )
    parser.add_argument("--budget", type=float, nargs="+", default=[], help="share of the all-heavy model's FLOPs")
    parser.add_argument("--adaptive", action="store_true", help="the image decides: k-means instead of k (ADM)")
    parser.add_argument("--no_refinement", action="store_true", help="leave light/heavy borders as they are")


def settings(args: argparse.Namespace) -> list[Setting]:
    """All settings asked for, k = 0 if none is. Raises InputError for values out of range."""
    common = not args.no_refinement, args.scale
    chosen = [Setting("k", k, *common) for k in args.k] + [Setting("budget", share, *common) for share in args.budget]
    if args.adaptive:
        chosen.append(Setting("adaptive", 0.0, *common))
    return list(dict.fromkeys(chosen)) or [Setting("k", 0.0, *common)]


def tile_plan(args: argparse.Namespace) -> TilePlan:
    """How large images are cut into tiles. Raises InputError for tiles of no size."""
    return TilePlan(args.tile_size, progress=True)


class Chosen(NamedTuple):
    """The model a command works with."""

    model: Backbone | PCSR
    spec: OriginalSpec | PCSRSpec
    name: str


def chosen_model(args: argparse.Namespace) -> Chosen:
    """The model of --model, else of --config.

    Raises InputError if there is none, or if it is another model than the config describes.
    """
    if args.config is None and args.model is None:
        raise InputError("give --config or --model")
    path = Path(args.model) if args.model else SAVE / Path(args.config).stem
    expected = load_config(args.config).model if args.config is not None else None
    model, spec = load_model(path)
    if expected not in (None, spec):
        raise InputError(f"{path}: holds another model ({describe(spec)}) than {args.config} ({describe(expected)})")
    named = path if path.is_dir() or path.name != WEIGHTS else path.resolve().parent
    return Chosen(model, spec, named.resolve().name)  # with a file's suffix: its results are not those of a folder


def describe(spec: object) -> str:
    return " ".join(f"{key}={value}" for key, value in vars(spec).items())


def run_evaluation(args: argparse.Namespace, restore: Restore, name: str, ranks: Ranks) -> None:
    """Evaluate a folder, each rank its share, and report on rank 0: progress bar, CSV files, plot, table, JSON."""
    scale = check_scale(args.scale)
    if not 1 <= args.step <= args.patch_size:
        raise InputError(f"--patch_size {args.patch_size} --step {args.step}: need 1 <= step <= patch_size")
    grid = Patches(args.patch_size, args.step)
    protocol = Protocol(scale, None if args.per_image else grid, grid if args.crop else None, args.psnr_type)
    pairs = PairedFolder(args.hr_data, args.lr_data, scale, args.float_lr, ranks.rank, ranks.world)
    dataset = Path(args.hr_data).resolve().name
    folder = Path(args.out_dir) if args.out_dir else Path("results") / name / protocol_name(args, dataset, scale)
    if folder.resolve() in {Path(given).resolve() for given in (args.hr_data, args.lr_data) if given}:
        raise InputError(f"--out_dir {folder}: holds the images to evaluate; give another folder")

    def keep(image: str, restored: Restored) -> None:
        save_images(folder / "images" / restored.setting, image, restored)

    if args.save_images:
        pairs.check()
        gather(ranks, None)  # all shares are checked before anything is written
    bar = tqdm(pairs, desc=dataset, unit="image", disable=None if ranks.main else True)
    rows = gather_rows(ranks, evaluate(bar, restore, protocol, keep if args.save_images else None))
    if not ranks.main:
        return
    summary = write_report(rows, dataset, scale, folder)
    print(format_table(summary))
    print(f"written to {folder}")
    if args.json:
        print(summary_json(summary))


def protocol_name(args: argparse.Namespace, dataset: str, scale: float) -> str:
    """DATASET-xSCALE, and what differs from whole images in RGB: other protocols have folders of their own."""
    other = {
        "patches": not args.per_image,
        "crop": args.crop,
        "y": args.psnr_type == "y",
        "float": args.float_lr,
        "unrefined": getattr(args, "no_refinement", False),  # PCSR only
    }
    return "-".join([f"{dataset}-x{scale:g}", *(word for word, holds in other.items() if holds)])


def save_images(folder: Path, name: str, restored: Restored) -> None:
    write_image(folder / f"{name}.png", restored.pixels)
    if restored.assignment is not None:
        overlay = colour_assignment(restored.pixels, restored.assignment, restored.upsamplers)
        write_image(folder / f"{name}_assignment.png", overlay)
