"""The training loop, shared by train.py and train_pcsr.py."""

import argparse
import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam, Optimizer

from datasets.cache import open_cache
from datasets.crops import Crops
from evaluation.evaluate import Row, gather_rows
from models.blocks import Backbone
from models.checkpoint import save_weights
from models.pcsr import PCSR
from training.ema import Average
from training.muon import Muon
from training.progress import Progress
from training.runs import Log, State, begun_run, new_run, read_state, resumed_run, states, write_state
from training.schedule import Pace, learning_rate, set_rate
from utils.config import Config, DataSpec, TrainSpec, load_config
from utils.device import add_device_option
from utils.dist import Ranks, first_on_node, from_main, gather, share_buffers, synchronize_batchnorm
from utils.errors import InputError, Parser
from utils.resize import downscale
from utils.stop import StopRequest

Model = TypeVar("Model", Backbone, PCSR)
Validate = Callable[[Any], Sequence[Row]]  # the model that would be shipped now -> a row per image


class Task(nn.Module, Generic[Model]):
    """What is trained: forward(lr, hr) returns the losses, of which `loss` is minimised and the others are logged."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model: Model = model

    def forward(self, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError


def run_name(text: str) -> str:
    if Path(text).name != text:
        raise argparse.ArgumentTypeError(f"{text} is not a plain folder name")
    return text


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


def read_config(args: argparse.Namespace) -> Config:
    flags = [f"{key}=true" for key in ("amp", "compile") if getattr(args, key)]
    return load_config(args.config, [*args.set, *flags])


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


def patches(crops: Crops, iteration: int, data: DataSpec) -> tuple[Tensor, Tensor]:
    """lr (b,3,p,p), hr (b,3,P,P) in [0,1] on the device; LR is made there, and p is patch_size at every scale."""
    hr = crops.batch(iteration).float().div_(255)
    lr = downscale(hr, hr.shape[-1] / data.patch_size, eight_bit=data.lr_round, dtype=torch.float32)
    return lr.contiguous(memory_format=torch.channels_last), hr


def gradients(module: nn.Module, lr: Tensor, hr: Tensor, spec: TrainSpec) -> dict[str, Tensor]:
    """Losses of a batch, their gradients added to the parameters'; worked through in `accumulation` equal parts."""
    parts = list(zip(lr.chunk(spec.accumulation), hr.chunk(spec.accumulation), strict=True))
    means: dict[str, Tensor] = {}
    for number, part in enumerate(parts, start=1):
        # processes exchange gradients once, with the last part
        alone = isinstance(module, DistributedDataParallel) and number < len(parts)
        with module.no_sync() if alone else nullcontext():  # type: ignore[operator]
            with torch.autocast(lr.device.type, torch.bfloat16, enabled=spec.amp):
                losses: dict[str, Tensor] = module(*part)
            (losses["loss"] / len(parts)).backward()
        for name, value in losses.items():
            means[name] = means.get(name, 0) + value.detach() / len(parts)
    return means


def settle(task: Task[Any], ranks: Ranks, spec: TrainSpec) -> None:
    """Give the task its BatchNorm, its device and, a third faster on CPUs, its layout."""
    if spec.sync_bn:
        synchronize_batchnorm(ranks, task)
    task.to(ranks.device)
    task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def begin_training(task: Task[Any], spec: TrainSpec) -> None:
    """Put the task into training mode, but for BatchNorm that is frozen."""
    task.train()
    if spec.frozen_bn:
        for module in task.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def build_optimizers(task: Task[Any], spec: TrainSpec) -> list[Optimizer]:
    """Adam (paper), or Muon for the weights and Adam for what is left."""
    learnt = [parameter for parameter in task.parameters() if parameter.requires_grad]
    rate, betas = spec.learning_rate, spec.betas
    if spec.optimizer == "adam":
        return [Adam(learnt, lr=rate, betas=betas, fused=True)]
    muon = Muon(task, rate)
    left = [parameter for parameter in learnt if parameter not in muon.matrices]
    return [muon, Adam(left, lr=rate, betas=betas, fused=True)]


def take_step(optimizers: Sequence[Optimizer], average: Average[Any] | None, iteration: int) -> None:
    """Use up the gradients."""
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    if average:
        average.update(iteration)


def announce(config: Config, folder: Path, start: int, ranks: Ranks) -> None:
    last = config.train.iter_max
    if not ranks.main:
        return
    if start == last:
        print(f"{folder}: all {last} iterations are done")
    else:
        print(f"training {config.model.backbone} into {folder}, iterations {start + 1} to {last}", flush=True)


def parallel(task: Task[Any], ranks: Ranks, spec: TrainSpec) -> nn.Module:
    """The task as this job runs it: shared between processes, compiled."""
    module = cast("nn.Module", torch.compile(task)) if spec.compile else task
    return DistributedDataParallel(module) if ranks.world > 1 else module


def open_crops(config: Config, ranks: Ranks) -> Crops:
    """The training data. Raises InputError if it cannot be used, or its batches not be divided as configured."""
    with first_on_node(ranks):  # it builds the cache, the others find it
        cache = open_cache(config.data.train, config.data.cache_dir)
    crops = Crops(cache, config.data, config.train.seed, ranks.device, ranks.rank, ranks.world)
    share, parts = config.data.batch_size // ranks.world, config.train.accumulation
    if share % parts:
        raise InputError(f"train.accumulation: {parts} parts do not divide a batch of {share} per process")
    return crops


def check_finite(losses: list[Tensor], iteration: int, crops: Crops, ranks: Ranks) -> None:
    """Use up the losses of the iterations up to this one. Raises InputError if one is not finite, naming its batch."""
    recent = ranks.mean(torch.stack(losses))  # (n,)
    losses.clear()
    bad = recent.isfinite().logical_not().nonzero()
    if bad.numel():
        first = iteration - len(recent) + 1 + int(bad[0])
        raise InputError(
            f"the loss is {recent[int(bad[0])].item()} at iteration {first}; lower learning_rate, or look at the "
            f"images of its batch: {', '.join(crops.names(first))}"
        )


def train(config: Config, task: Task[Any], validate: Validate, folder: Path, ranks: Ranks, resume: bool) -> None:
    """Train `task` to iter_max or the time limit, logging, validating and saving into `folder`.

    All that is drawn at random depends on the seed, the iteration and the rank alone, so that a run that was stopped
    and resumed takes the very same steps. Raises InputError for data, states or disks that cannot be used,
    StoppedError when a signal has ended it early.
    """
    spec = config.train
    settle(task, ranks, spec)
    optimizers = build_optimizers(task, spec)
    average = Average(task.model, spec.ema_decay) if spec.ema_decay else None
    shipped = average.model if average else task.model
    state = State(task.model, average.model if average else None, optimizers)
    start, spent = state.load(from_main(ranks, lambda: read_state(folder, config))) if resume else (0, 0.0)
    crops = open_crops(config, ranks)
    module = parallel(task, ranks, spec)
    announce(config, folder, start, ranks)
    log = Log(folder, ranks.main, start)
    recent: list[Tensor] = []  # losses not yet looked at
    begin_training(task, spec)
    iteration, pace = start, Pace(spec, ranks, spent)
    done = pace.progress(iteration + 1)
    with StopRequest() as stop, Progress(folder.name, start, spec.iter_max, ranks.main) as shown:
        while iteration < spec.iter_max and done < 1:
            iteration += 1
            rate = learning_rate(spec, iteration, done)  # schedule
            set_rate(optimizers, rate)

            torch.manual_seed(random.Random(f"{spec.seed} {iteration} {ranks.rank}").getrandbits(63))
            losses = gradients(module, *patches(crops, iteration, config.data), spec)  # step
            take_step(optimizers, average, iteration)
            shown.advance()

            done = pace.progress(iteration + 1)
            last = iteration == spec.iter_max or done >= 1
            ending = last or ranks.any(stop.signal is not None)
            saving = ending or iteration % spec.save_every == 0
            recent.append(losses["loss"])
            logging = iteration % spec.log_every == 0 or last
            if saving or logging or ranks.device.type == "cpu":  # log; reading a loss waits for the device
                check_finite(recent, iteration, crops, ranks)
            if logging:
                scalars = {f"train/{name}": ranks.mean(value).item() for name, value in losses.items()}
                log.write(iteration, {**scalars, "train/learning_rate": rate})
                shown.losses(iteration, scalars)

            if iteration % spec.val_every == 0 or last:  # validate, each rank its share of images
                share_buffers(ranks, shipped)  # of the model that is saved
                means = validation_means(gather_rows(ranks, validate(shipped)))
                log.write_validation(iteration, means)
                shown.validation(iteration, means)
                begin_training(task, spec)

            if saving and ranks.main:  # save; the state last, so that what it says is done is done
                save_weights(folder, shipped, config)
                write_state(folder, iteration, config, state.dump(pace.seconds), spec.keep_checkpoints)
            if ending and not last:
                gather(ranks, iteration)  # torchrun ends all processes with the first: not before rank 0 has saved
                raise stop.stopped(f"iteration {iteration} is saved in {folder}; go on with --resume")
    log.close()


def validation_means(rows: Sequence[Row]) -> dict[str, float]:
    """Mean PSNR, and the share of pixels and FLOPs that a PCSR model spends."""

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    return {
        "val/psnr": mean([row.psnr for row in rows]),
        "val/heavy_share": mean([row.heavy_share for row in rows]),
        "val/flops_share": mean([row.flops_paper_share for row in rows]),
    }
