"""The command-line options that say which model works, and under which settings."""

import argparse
from pathlib import Path
from typing import NamedTuple

from inference.tiles import TilePlan
from models.blocks import Backbone
from models.checkpoint import SAVE, WEIGHTS, load_model
from models.pcsr import PCSR
from models.setting import Setting
from utils.config import OriginalSpec, PCSRSpec, load_config
from utils.device import add_device_option
from utils.errors import InputError, Parser


def add_model_options(parser: Parser) -> None:
    parser.add_argument("--config", help="configs/NAME.yaml of a training, whose weights are in save/NAME")
    parser.add_argument("--model", help="weights instead: a folder under save/, a .safetensors, or a published .pth")
    parser.add_argument(
        *("--tile_size", "--part_size"),
        type=int,
        help="about how many LR pixels a tile of a large image has on a side (default: what the memory allows)",
    )
    parser.add_argument("--json", action="store_true", help="end with the summary as one line of JSON")
    add_device_option(parser)


def add_decision_options(parser: Parser) -> None:
    about = "the knob: a larger k is cheaper (default: 0); useful from -0.4 to 2, -inf is all heavy, inf all light"
    parser.add_argument("--k", type=float, nargs="+", default=[], help=about)
    about = "instead of k: the share of the all-heavy model's FLOPs to spend, up to 1"
    parser.add_argument("--budget", type=float, nargs="+", default=[], help=about)
    about = "instead of k: every image decides for itself, by k-means on its probabilities (ADM)"
    parser.add_argument("--adaptive", action="store_true", help=about)
    parser.add_argument("--no_refinement", action="store_true", help="do not smooth light pixels beside heavy ones")


def settings(args: argparse.Namespace) -> list[Setting]:
    """All settings asked for, k = 0 if none is given. Raises InputError for values out of range."""
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
    # a file's suffix is kept, so that its results do not mix with those of a folder of that name
    return Chosen(model, spec, named.resolve().name)


def describe(spec: object) -> str:
    return " ".join(f"{key}={value}" for key, value in vars(spec).items())
