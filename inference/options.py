"""Options of commands: which model to use, under which settings, and how results are written."""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import torch

from inference.outputs import OutputFiles, digest_of, fingerprint
from inference.precision import dtype_of, name_of
from inference.tiles import TilePlan
from models.build import backbone_named, difference, facts, resolved
from models.checkpoint import SAVE, WEIGHTS, found, load_model, trained_on
from models.original import OriginalModel
from models.pcsr import PCSR
from models.setting import Precision, Setting
from models.trained import Trained, scale_names
from utils.cli import Parser, say, tell
from utils.config import OriginalSpec, PCSRSpec
from utils.device import add_device_option
from utils.encode import QUALITY
from utils.errors import InputError, one_line
from utils.parse import load_config

# how errors about one file name the options that help; the files are read and written by functions below the commands
ACCEPT_DAMAGED = "--accept_damaged takes what can be decoded"
OVERWRITE = "--overwrite replaces it"


def add_model_options(parser: Parser, precision: Precision = "auto") -> None:
    """`precision` is the default of --precision."""
    parser.add_argument("--config", help="configs/NAME.yaml of a training; the weights are those in save/NAME")
    parser.add_argument("--model", help="other weights: a folder under save/, a .safetensors, a .pth, .pt or .ckpt")
    about = "cut large images into tiles of about the area of N x N LR pixels, at least 32 on a side (default: as the "
    about += "memory allows)"
    parser.add_argument("--tile_size", "--part_size", type=int, metavar="N", help=about)
    parser.set_defaults(skip_flat=0.0)  # for commands without the options of a decision
    parser.add_argument("--json", action="store_true", help="end with the summary as one line of JSON")
    add_device_option(parser)
    add_precision_option(parser, precision)


def add_precision_option(parser: Parser, default: Precision = "auto") -> None:
    about = "type of number that the networks compute in; auto is float16 on CPUs that are faster in it, else float32"
    parser.add_argument(
        "--precision", choices=get_args(Precision), default=default, help=f"{about} (default: {default})"
    )


def speed_record(precision: Precision, skip_flat: float) -> dict[str, str]:
    """Precision and skip_flat for a record of results; defaults are left out, because older records lack these keys."""
    usual: dict[str, str] = {} if precision == "float32" else {"precision": precision}
    return usual | ({"skip_flat": f"{skip_flat:g}"} if skip_flat else {})


def numeral(text: str) -> float:
    """The type of an option of several numbers, in words that also help if a file is named after it."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; the option takes all words that follow") from None


def add_decision_options(parser: Parser) -> None:
    about = "a larger k is cheaper (default: 0); useful from -1 to 2, -inf is all heavy, inf all light"
    parser.add_argument("--k", type=numeral, nargs="+", default=[], help=about)
    about = "a share of the all-heavy model's FLOPs in place of a fixed k; at most 1, and at least that of all pixels "
    about += "light, which is larger at smaller scales"
    parser.add_argument("--budget", type=numeral, nargs="+", default=[], help=about)
    about = (
        "k-means on the probabilities of each image, in place of a fixed k, finds its heavy pixels (ADM in the paper)"
    )
    parser.add_argument("--adaptive", action="store_true", help=about)
    parser.add_argument("--no_refinement", action="store_true", help="do not smooth light pixels beside heavy ones")
    about = (
        "only interpolate where 3x3 LR pixels range over at most this many levels of 255, such as 16: saves time on "
    )
    about += "large clean images with much sky or wall (default: 0, off)"
    parser.add_argument("--skip_flat", type=float, default=0.0, metavar="LEVELS", help=about)


def add_upscale_options(group: argparse._ArgumentGroup) -> None:
    about = "what the results' names add to those of the files, such as --suffix=-big (default: _x and the scale)"
    group.add_argument("--suffix", help=about)
    kinds, about = ("png", "jpg", "webp", "tif"), "kind of file to write (default: png, which is lossless, like tif)"
    group.add_argument("--format", choices=kinds, default="png", help=about)
    about = f"how good a jpg or webp is, 1 .. 100 (default: {QUALITY})"
    group.add_argument("--quality", type=int, help=about)
    about = "write the assignment beside each result: the image in gray, red where pixels took the heavy upsampler"
    group.add_argument("--assignment", action="store_true", help=about)
    about = "make results again that are up to date, and replace files that were made from something else; never inputs"
    group.add_argument("--overwrite", action="store_true", help=about)


def chosen_output(args: argparse.Namespace, scale: float) -> OutputFiles:
    """How results are named and written. Raises InputError for an impossible suffix or quality."""
    suffix = f"_x{scale:g}" if args.suffix is None else args.suffix
    if Path(f"a{suffix}").name != f"a{suffix}":
        raise InputError(f"--suffix {suffix}: cannot be part of a file name")
    quality, lossy = QUALITY if args.quality is None else args.quality, args.format in ("jpg", "webp")
    if not 1 <= quality <= 100:
        raise InputError(f"--quality {quality}: must lie between 1 and 100")
    if args.quality is not None and not lossy:
        raise InputError(f"--quality: a {args.format} has none; add --format jpg or webp, or leave it out")
    folder, kind = Path(args.out_dir), f".{args.format}"
    return OutputFiles(folder, suffix, kind, quality if lossy else None, args.assignment, args.opacity, args.overwrite)


def asked_settings(args: argparse.Namespace, scale: float) -> list[Setting]:
    """All settings that the options ask for, k = 0 if none is given. Raises InputError for values out of range."""
    common = not args.no_refinement, scale, args.precision
    chosen = [Setting("k", k, *common) for k in args.k] + [Setting("budget", share, *common) for share in args.budget]
    if args.adaptive:
        chosen.append(Setting("adaptive", 0.0, *common))
    chosen = list(dict.fromkeys(chosen)) or [Setting("k", 0.0, *common)]
    refuse_equal_names([str(setting) for setting in chosen])
    return chosen


def refuse_equal_names(names: Sequence[str]) -> None:
    """Raises InputError if two different values are named alike, as names hold six digits."""
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise InputError(f"{twice[0]}: two values are the same if rounded to six digits, as in the names of results")


def tile_plan(args: argparse.Namespace) -> TilePlan:
    """How large images are cut into tiles, with a bar in the terminal. Raises InputError for values out of range."""
    return TilePlan(args.tile_size, progress=True, skip_flat=args.skip_flat)


class Chosen(NamedTuple):
    """The model a command works with."""

    model: OriginalModel | PCSR
    spec: OriginalSpec | PCSRSpec
    name: str
    trained: Trained | None  # what the weights were trained on; None if they do not say it

    def __str__(self) -> str:
        kind = "PCSR on" if isinstance(self.model, PCSR) else "original"
        title = backbone_named(self.spec.backbone).title or self.spec.backbone
        count = sum(parameter.numel() for parameter in self.model.parameters())
        trained = f", trained at {self.trained}" if self.trained else ""
        return f"{kind} {title}, {count:,} parameters{trained}"

    def fingerprint(self) -> str:
        """A digest of all that the model's results depend on: its weights, what it was built from, and its limits."""
        limits = self.model.cell_limits if isinstance(self.model, PCSR) else ()
        return digest_of(fingerprint(self.model), self.spec.model_dump_json(exclude_defaults=True), limits)

    def precision_on(self, device: torch.device, precision: Precision) -> Precision:
        """The precision that is meant on a device, which is never `auto`."""
        return name_of(dtype_of(self.model, device, precision))

    def introduce(self, precision: Precision, *scales: float) -> None:
        """Say which model is at work, and on stderr if it was trained for other scales."""
        say(f"{self}; computes in {precision}")
        if self.trained and (other := [f"x{scale:g}" for scale in scales if not self.trained.covers(scale)]):
            own, asked = scale_names(self.trained.scales), ", ".join(other)
            tell(f"warning: trained at {own}; at {asked} a model trained for that would do better")


def chosen_model(config: str | None, weights: str | None) -> Chosen:
    """The model of --model, whose value is `weights`, else of --config.

    Raises InputError if there is none, or if it is another model than the config describes.
    """
    if weights is not None:
        path = found(weights)
    elif config is not None:
        path = found(SAVE / Path(config).stem / WEIGHTS).parent
    else:
        raise InputError("give --config or --model")
    expected = resolved(load_config(found(config)).model) if config is not None else None
    model, spec = load_model(path)
    if weights is None and (later := path.with_name(f"{path.name}-2")).exists():
        tell(f"warning: --config means {path}; there are later runs, and --model {later} takes the next one")
    if expected is not None and expected != spec:
        differs = difference(facts(spec), facts(expected)) or "its options"
        raise InputError(one_line(path, f"holds another model than {config}: {differs}"))
    named = path if path.is_dir() or path.name != WEIGHTS else path.resolve().parent
    # a file's suffix is kept, so that its results do not mix with those of a folder of that name
    return Chosen(model, spec, named.resolve().name, trained_on(path))


def refuse_decisions(args: argparse.Namespace) -> None:
    """Raises InputError if an option is given that only a PCSR model can follow."""
    names = ("k", "budget", "adaptive", "no_refinement", "skip_flat", "assignment")
    given = [f"--{name}" for name in names if getattr(args, name)]
    if given:
        model = args.model or args.config
        raise InputError(f"{' '.join(given)}: {model} is an original model, which decides nothing; leave this out")
