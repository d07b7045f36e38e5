"""From the command line of train.py and train_pcsr.py to the training loop."""

import argparse
from pathlib import Path

import torch

from models.build import build
from training.engine import train
from training.runs import choose_run, read_state
from training.tasks import build_task, start_from
from training.validation import open_validation
from utils.config import Config, OriginalSpec, PCSRSpec, load_config
from utils.device import add_device_option
from utils.dist import from_main, start_ranks, stop_ranks
from utils.errors import InputError, Parser


def train_parser(description: str) -> Parser:
    parser = Parser(description=description)
    parser.add_argument("--config", required=True, help="a YAML file under configs/")
    parser.add_argument("--name", type=run_name, help="folder under save/ (default: the config's name)")
    parser.add_argument("--resume", action="store_true", help="continue the newest run of this name")
    parser.add_argument("--amp", action="store_true", help="bfloat16 where that is safe: --set amp=true")
    parser.add_argument("--compile", action="store_true", help="torch.compile: --set compile=true")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override config keys: iter_max=2000")
    add_device_option(parser)
    return parser


def run_name(text: str) -> str:
    if Path(text).name != text:
        raise argparse.ArgumentTypeError(f"{text} is not a plain folder name")
    return text


def read_config(args: argparse.Namespace) -> Config:
    flags = [f"{key}=true" for key in ("amp", "compile") if getattr(args, key)]
    return load_config(args.config, [*args.set, *flags])


def original_config(args: argparse.Namespace) -> Config:
    """The config of a training of an original model. Raises InputError if it describes another training."""
    config = read_config(args)
    if not isinstance(config.model, OriginalSpec):
        raise InputError(f"{args.config}: describes a PCSR model; use train_pcsr.py")
    scale, of_data = config.model.scale, config.data.scale
    if isinstance(of_data, tuple):
        raise InputError(f"{args.config}: data.scale is a range, but an original model has one scale; set {scale}")
    if scale != of_data:
        raise InputError(f"{args.config}: model.scale is {scale} but data.scale is {of_data}")
    return config


def pcsr_config(args: argparse.Namespace) -> Config:
    """The config of phase 0 or phase 1. Raises InputError if it describes neither."""
    config = read_config(args)
    phase = config.train.phase
    if not isinstance(config.model, PCSRSpec) or phase is None:
        needed = "needs a model of kind pcsr and train.phase 0 or 1; use train.py for originals"
        raise InputError(f"{args.config}: {needed}")
    several = len(config.model.upsamplers) > 1
    if phase == 0 and several:
        raise InputError("model.upsamplers: phase 0 trains one upsampler, the heavy one; phase 1 adds the others")
    if phase == 1 and not several:
        raise InputError("model.upsamplers: phase 1 needs two or more, light .. heavy")
    if phase == 1 and config.train.init is None:
        raise InputError("train.init: phase 1 needs the path of phase 0's weights")
    return config


def run_training(args: argparse.Namespace, config: Config) -> None:
    """config -> run folder -> model -> task -> training loop. Raises InputError, or StoppedError after a signal."""
    ranks = start_ranks(args.device)
    name = args.name or Path(args.config).stem
    folder, resume = from_main(ranks, lambda: choose_run(name, args.resume))
    state = from_main(ranks, lambda: read_state(folder, config)) if resume else None
    torch.manual_seed(config.train.seed)
    model = build(config.model)
    if state is not None:
        model.load_state_dict(state["model"])
    elif config.train.init is not None:
        start_from(model, config.train.init)
    task = build_task(config.train, model, ranks)
    train(config, task, open_validation(config.data, ranks), folder, ranks, state)
    stop_ranks(ranks)
