"""The commands train.py and train_pcsr.py: from their options to the training loop."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datasets.pairs import check_data
from models.build import build
from training.describe import model_lines
from training.loop import train
from training.resume import open_run
from training.start import check_scales, start_from
from training.tasks import build_task
from training.validation import open_validation
from utils.cli import Parser, tell
from utils.config import Config, OriginalSpec, PCSRSpec
from utils.device import add_device_option
from utils.dist import Ranks, from_main, start_ranks, stop_ranks
from utils.errors import InputError, StoppedError
from utils.parse import load_config


def train_parser(description: str) -> Parser:
    parser = Parser(description=description)
    parser.add_argument("--config", help="a YAML file under configs/; not needed with --resume --name")
    parser.add_argument("--name", type=run_name, help="folder under save/ (default: the config's name)")
    parser.add_argument("--resume", action="store_true", help="continue the run of this name with the config it saved")
    parser.add_argument("--describe", action="store_true", help="print the model's parameters and FLOPs, train nothing")
    parser.add_argument("--amp", action="store_true", help="mixed precision in bfloat16 (the same as --set amp=true)")
    parser.add_argument("--compile", action="store_true", help="use torch.compile (the same as --set compile=true)")
    about = "override config keys, for example iter_max=2000"
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help=about)
    add_device_option(parser)
    return parser


def run_name(text: str) -> str:
    """The type of the option --name."""
    if Path(text).name != text or text in ("", "..") or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text} is not a plain folder name")
    return text


def check_original(config: Config, source: str | Path) -> None:
    """Raises InputError, naming the source, if a config does not describe the training of an original model."""
    if not isinstance(config.model, OriginalSpec):
        raise InputError(f"{source}: describes a PCSR model; use train_pcsr.py")
    if config.train.phase is not None:
        raise InputError("train.phase: an original model has no phases; leave it out")
    if config.train.pixels_per_patch is not None:
        raise InputError("train.pixels_per_patch: an original model computes all pixels; leave it out")
    scale, of_data = config.model.scale, config.data.scale
    if isinstance(of_data, tuple):
        raise InputError(f"{source}: data.scale is a range, but an original model has one scale; set {scale}")
    if scale != of_data:
        raise InputError(f"{source}: model.scale is {scale} but data.scale is {of_data}")


def check_pcsr(config: Config, source: str | Path) -> None:
    """Raises InputError, naming the source or the key, if a config describes neither phase 0 nor phase 1."""
    phase = config.train.phase
    if not isinstance(config.model, PCSRSpec) or phase is None:
        needed = "needs a model of kind pcsr and train.phase 0 or 1; use train.py for originals"
        raise InputError(f"{source}: {needed}")
    several = len(config.model.upsamplers) > 1
    if phase == 0 and several:
        raise InputError("model.upsamplers: phase 0 trains one upsampler, the heavy one; phase 1 adds the others")
    if phase == 1 and not several:
        raise InputError("model.upsamplers: phase 1 needs two or more, light .. heavy")
    if phase == 1 and config.train.init is None:
        raise InputError("train.init: phase 1 needs the path of phase 0's weights")


def run_training(args: argparse.Namespace, check: Callable[[Config, str | Path], None]) -> None:
    """config -> run folder -> model -> task -> training loop. Raises InputError, or StoppedError after a signal."""
    if args.config is None and (args.describe or not (args.resume and args.name)):
        raise InputError("--config: needed, unless --resume and --name tell which run to continue (see --help)")
    overrides = [*args.set, *(f"{key}=true" for key in ("amp", "compile") if getattr(args, key))]
    asked = load_config(args.config, overrides) if args.config is not None else None
    if args.describe and asked is not None:
        check(asked, args.config)
        describe(asked)
        return
    ranks = start_ranks(args.device)
    # The momentum of unused weights decays to denormal numbers, which make a step on a CPU slower. Only this thread and
    # those that start later flush them to zero, so it is set before torch starts any.
    torch.set_flush_denormal(True)
    name, exact = args.name or Path(args.config).stem, args.name is not None
    try:
        folder, config, state = from_main(ranks, lambda: open_run(name, exact, args.resume, asked, overrides))
    except InputError as error:
        raise InputError(f"--resume: {error}" if args.resume else str(error)) from None
    check(config, args.config or folder)
    for note in from_main(ranks, lambda: check_data(config.data)):
        if ranks.main:
            tell(note)
    torch.manual_seed(config.train.seed)
    model = build(config.model)
    if state is not None:
        take_up(model, state, folder)
    elif config.train.init is not None:
        widened = start_from(model, config.model, config.train.init)
        check_scales(config)
        if widened and ranks.main:
            tell(widened)
    task = build_task(config.train, model, ranks)
    try:
        train(config, task, open_validation(config, ranks), folder, ranks, state)
    except StoppedError as early:
        early.args = (f"{early}; go on with --resume --name {folder.name}",)
        raise
    stop_ranks(ranks)


def take_up(model: nn.Module, state: dict[str, Any], folder: Path) -> None:
    """Give the model the weights of a state. Raises InputError if they do not fit, or come in another order."""
    try:
        if list(state["model"]) != list(model.state_dict()):  # the optimizers know them by their place
            raise RuntimeError
        model.load_state_dict(state["model"])
    except RuntimeError:
        about = "the weights of its training state do not fit this config's network, whose code may have changed"
        raise InputError(f"{folder}: {about}; begin a new run") from None


def describe(config: Config) -> None:
    """Print the parameters and the FLOPs of a config's model."""
    task = build_task(config.train, build(config.model), Ranks(0, 1, torch.device("cpu")))
    print("\n".join(model_lines(config, task.model)))
