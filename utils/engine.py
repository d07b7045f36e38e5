"""The training loop, shared by train.py and train_pcsr.py."""

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam
from tqdm import tqdm

from datasets.sr import crop_batches
from models.blocks import Backbone
from models.pcsr import PCSR
from utils.checkpoint import save_weights
from utils.config import Config, TrainSpec, load_config
from utils.device import add_device_option
from utils.dist import Ranks, from_main, share_buffers, synchronize_batchnorm
from utils.errors import InputError, Parser
from utils.evaluate import Row, gather_rows
from utils.resize import downscale
from utils.runs import Log, begun_run, new_run, read_state, resumed_run, states, write_state

Validate = Callable[[], Sequence[Row]]


Model = TypeVar("Model", Backbone, PCSR)


class Task(nn.Module, Generic[Model]):
    """What is trained: forward(lr, hr) returns the losses, of which `loss` is minimised and the others are logged."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model: Model = model

    def forward(self, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError


def train_parser(description: str) -> Parser:
    parser = Parser(description=description)
    parser.add_argument("--config", required=True, help="a YAML file under configs/")
    parser.add_argument("--name", help="folder under save/ (default: the config's name)")
    parser.add_argument("--resume", action="store_true", help="continue the newest run of this name")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override config keys: iter_max=2000")
    add_device_option(parser)
    return parser


def read_config(args: argparse.Namespace) -> Config:
    return load_config(args.config, args.set)


def run_folder(args: argparse.Namespace, ranks: Ranks) -> tuple[Path, bool]:
    """A training command's run folder, which rank 0 chooses, and whether to go on from the newest state in it.

    A job that torchrun restarts keeps the folder it began with, whether or not it came as far as writing a state.
    Raises InputError if there is nothing to resume.
    """
    name = args.name or Path(args.config).stem

    def choose() -> tuple[Path, bool]:
        if begun := begun_run(name):
            return begun, bool(states(begun))
        return resumed_run(name) if args.resume else new_run(name), args.resume

    return from_main(ranks, choose)


def learning_rate(spec: TrainSpec, iteration: int) -> float:
    """Linear warm-up, then one cosine from learning_rate to learning_rate_min at iter_max; iterations count from 1."""
    if iteration <= spec.warmup:
        return spec.learning_rate * iteration / spec.warmup
    progress = (iteration - 1 - spec.warmup) / max(1, spec.iter_max - spec.warmup)
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return spec.learning_rate_min + (spec.learning_rate - spec.learning_rate_min) * cosine


def patches(config: Config, start: int, ranks: Ranks) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs lr (b,3,p,p), hr (b,3,P,P) in [0,1] on the device; LR is made there."""
    data = config.data
    loader = crop_batches(data, config.train.seed, start, config.train.iter_max, ranks.rank, ranks.world)
    for crops in unwrapped(loader):
        hr = crops.to(ranks.device, non_blocking=True).float() / 255
        lr = downscale(hr, data.scale, eight_bit=data.lr_round)
        yield lr.contiguous(memory_format=torch.channels_last), hr


def unwrapped(loader: Iterable[Tensor]) -> Iterator[Tensor]:
    """The loader's batches; an InputError in one of its workers comes without the worker's traceback in its text."""
    try:
        yield from loader
    except InputError as error:
        raise InputError(str(error).rpartition("InputError: ")[2]) from None


def train(config: Config, task: Task[Any], validate: Validate, folder: Path, ranks: Ranks, resume: bool) -> None:
    """Train `task` to iter_max, logging, validating and saving into `folder`.

    Raises InputError for data, states or disks that cannot be used.
    """
    spec, start = config.train, 0
    if spec.sync_bn:
        synchronize_batchnorm(ranks, task)
    task.to(ranks.device)
    task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on CPUs
    optimizer = Adam([p for p in task.parameters() if p.requires_grad], lr=spec.learning_rate, betas=spec.betas)
    if resume:
        state = from_main(ranks, lambda: read_state(folder, config))
        task.model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        start = state["iteration"]
    module = DistributedDataParallel(task) if ranks.world > 1 else task
    if ranks.main:
        print(f"training {config.model.backbone} into {folder}, iterations {start + 1} to {spec.iter_max}")
    log = Log(folder, ranks.main, start)
    task.train()
    with tqdm(
        initial=start, total=spec.iter_max, desc=folder.name, unit="it", disable=None if ranks.main else True
    ) as bar:
        for iteration, (lr, hr) in enumerate(patches(config, start, ranks), start=start + 1):
            rate = learning_rate(spec, iteration)  # schedule
            for group in optimizer.param_groups:
                group["lr"] = rate

            losses = module(lr, hr)  # step
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            optimizer.step()
            bar.update()

            last = iteration == spec.iter_max
            if iteration % spec.log_every == 0 or last:  # log; .item() waits for the device
                scalars = {f"train/{name}": value.item() for name, value in losses.items()}
                if not math.isfinite(scalars["train/loss"]):
                    raise InputError(
                        f"the loss is {scalars['train/loss']} at iteration {iteration}; lower learning_rate"
                    )
                log.write(iteration, {**scalars, "train/learning_rate": rate})
                bar.set_postfix(loss=f"{scalars['train/loss']:.4f}")

            if iteration % spec.val_every == 0 or last:  # validate, each rank its share of the images
                share_buffers(ranks, task)  # of the model that is saved
                means = validation_means(gather_rows(ranks, validate()))
                log.write(iteration, means)
                log.write_table()
                if ranks.main:
                    bar.write(
                        f"iteration {iteration}: " + ", ".join(f"{name} {value:.4f}" for name, value in means.items())
                    )
                task.train()

            if (iteration % spec.save_every == 0 or last) and ranks.main:  # save
                write_state(
                    folder, iteration, training_state(config, task, optimizer, iteration), spec.keep_checkpoints
                )
                save_weights(folder, task.model, config)
    log.close()


def training_state(config: Config, task: Task[Any], optimizer: Adam, iteration: int) -> dict[str, object]:
    return {
        "iteration": iteration,
        "config": config.model_dump_json(),
        "model": task.model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
    }


def validation_means(rows: Sequence[Row]) -> dict[str, float]:
    """Mean PSNR, and the share of pixels and FLOPs that a PCSR model spends."""

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    return {
        "val/psnr": mean([row.psnr for row in rows]),
        "val/heavy_share": mean([row.heavy_share for row in rows]),
        "val/flops_share": mean([row.flops_paper_share for row in rows]),
    }
