"""The command-line options that say which model to use, and under which settings."""

import argparse
from pathlib import Path
from typing import NamedTuple, get_args

import torch

from inference.restorers import computes_in
from inference.tiles import TilePlan
from models.blocks import OriginalModel
from models.build import backbone_parts, difference, facts, resolved
from models.checkpoint import SAVE, WEIGHTS, found, load_model, trained_on
from models.pcsr import PCSR
from models.setting import Precision, Setting
from models.trained import Trained
from utils.cli import Parser, tell
from utils.config import OriginalSpec, PCSRSpec
from utils.device import add_device_option
from utils.errors import InputError, one_line
from utils.parse import load_config


def add_model_options(parser: Parser, precision: Precision = "auto") -> None:
    """`precision` is the one that is taken if nothing is said."""
    parser.add_argument("--config", help="configs/NAME.yaml of a training, whose weights are in save/NAME")
    parser.add_argument("--model", help="weights instead: a folder under save/, a .safetensors, a .pth, .pt or .ckpt")
    about = "work on large images in tiles of about the area of N x N LR pixels (default: what the memory allows)"
    parser.add_argument("--tile_size", "--part_size", type=int, metavar="N", help=about)
    parser.add_argument("--json", action="store_true", help="end with the summary as one line of JSON")
    add_device_option(parser)
    add_precision_option(parser, precision)


def add_precision_option(parser: Parser, default: Precision = "auto") -> None:
    about = "numbers that the networks compute in; auto is float16 on CPUs that are faster in it, else float32"
    parser.add_argument(
        "--precision", choices=get_args(Precision), default=default, help=f"{about} (default: {default})"
    )


def settle_precision(args: argparse.Namespace, model: OriginalModel | PCSR | None, device: torch.device) -> None:
    """Let the options name the numbers that are meant, instead of `auto`."""
    if args.precision == "auto":
        args.precision = "float32" if model is None else str(computes_in(model, device, "auto")).rpartition(".")[2]


def half_precision(args: argparse.Namespace) -> dict[str, str]:
    """The precision for a record of results, if it is another than float32; older records lack it."""
    return {} if args.precision == "float32" else {"precision": args.precision}


def add_decision_options(parser: Parser) -> None:
    about = "the knob: a larger k is cheaper (default: 0); useful from -0.4 to 2, -inf is all heavy, inf all light"
    parser.add_argument("--k", type=float, nargs="+", default=[], help=about)
    about = "instead of k: the share of the all-heavy model's FLOPs to spend, up to 1"
    parser.add_argument("--budget", type=float, nargs="+", default=[], help=about)
    about = "instead of k: every image decides for itself, by k-means on its probabilities (ADM)"
    parser.add_argument("--adaptive", action="store_true", help=about)
    parser.add_argument("--no_refinement", action="store_true", help="do not smooth light pixels beside heavy ones")


def settings(args: argparse.Namespace, scale: float) -> list[Setting]:
    """All settings asked for, k = 0 if none is given. Raises InputError for values out of range."""
    common = not args.no_refinement, scale, args.precision
    chosen = [Setting("k", k, *common) for k in args.k] + [Setting("budget", share, *common) for share in args.budget]
    if args.adaptive:
        chosen.append(Setting("adaptive", 0.0, *common))
    return list(dict.fromkeys(chosen)) or [Setting("k", 0.0, *common)]


def tile_plan(args: argparse.Namespace) -> TilePlan:
    """How large images are cut into tiles. Raises InputError for tiles of no size."""
    return TilePlan(args.tile_size, progress=True)


class Chosen(NamedTuple):
    """The model a command works with."""

    model: OriginalModel | PCSR
    spec: OriginalSpec | PCSRSpec
    name: str
    trained: Trained | None  # None if the weights do not say it

    def __str__(self) -> str:
        kind = "PCSR on" if isinstance(self.model, PCSR) else "original"
        title = backbone_parts(self.spec.backbone).title or self.spec.backbone
        count = sum(parameter.numel() for parameter in self.model.parameters())
        trained = f", trained at {self.trained}" if self.trained else ""
        return f"{kind} {title}, {count:,} parameters{trained}"

    def introduce(self, args: argparse.Namespace, *scales: float) -> None:
        """Say which model is at work, and on stderr if it was trained for other scales."""
        print(f"{self}; computes in {args.precision}")
        if self.trained and (other := [f"x{scale:g}" for scale in scales if not self.trained.covers(scale)]):
            asked = ", ".join(other)
            tell(f"warning: trained at {self.trained.scales()}; at {asked} a model trained for that would do better")


def chosen_model(args: argparse.Namespace) -> Chosen:
    """The model of --model, else of --config.

    Raises InputError if there is none, or if it is another model than the config describes.
    """
    if args.config is None and args.model is None:
        raise InputError("give --config or --model")
    path = found(args.model if args.model else SAVE / Path(args.config).stem)
    expected = resolved(load_config(found(args.config)).model) if args.config is not None else None
    model, spec = load_model(path)
    if args.model is None and (later := path.with_name(f"{path.name}-2")).exists():
        tell(f"warning: --config means {path}; there are later runs, and --model {later} takes the next one")
    if expected is not None and expected != spec:
        differs = difference(facts(spec), facts(expected)) or "its options"
        raise InputError(one_line(path, f"holds another model than {args.config}: {differs}"))
    named = path if path.is_dir() or path.name != WEIGHTS else path.resolve().parent
    # a file's suffix is kept, so that its results do not mix with those of a folder of that name
    return Chosen(model, spec, named.resolve().name, trained_on(path))


def refuse_decisions(args: argparse.Namespace) -> None:
    """Raises InputError if an option is given that only a PCSR model can follow."""
    names = ("k", "budget", "adaptive", "no_refinement", "assignment")
    given = [f"--{name}" for name in names if getattr(args, name)]
    if given:
        model = args.model or args.config
        raise InputError(f"{' '.join(given)}: {model} is an original model, which decides nothing; leave that out")
