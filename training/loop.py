"""The training loop that train.py and train_pcsr.py share: `train`, and below it the steps it calls, in order."""

import random
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from datasets.cache import open_caches
from datasets.crops import Crops
from datasets.degrade import degraded
from models.checkpoint import save_weights
from models.fast.accelerate import accelerate
from models.original import OriginalModel
from models.pcsr import PCSR
from training.describe import start_lines
from training.ema import Average
from training.log import Log
from training.optimizers import build_optimizers, take_step
from training.runs import BEST, State, claimed, write_state
from training.schedule import learning_rate, progress_made
from training.stop import noted_signals, stopped
from training.tasks import Task
from training.validation import Validate
from utils.cli import tell
from utils.config import Config, DataSpec, TrainSpec
from utils.device import image_layout
from utils.dist import Ranks, first_on_node, from_main, gather
from utils.errors import InputError
from utils.resize import downscale


def train(
    config: Config, task: Task[Any], validate: Validate, folder: Path, ranks: Ranks, begun: dict[str, Any] | None
) -> None:
    """Train `task` to iter_max or the time limit, logging, validating and saving into `folder`.

    `begun` is the state to go on from, whose weights the task already has; None begins at the first iteration. Random
    numbers depend on the seed, the iteration and the rank alone. A run that was stopped and resumed, with as many
    processes, therefore takes the very same steps. Raises InputError for data, states or disks that cannot be used,
    StoppedError when a signal has ended the training early.
    """
    spec = config.train
    settle(task, ranks, spec)
    optimizers = build_optimizers(task, spec)
    average = Average(task.model, spec.ema_decay) if spec.ema_decay else None
    shipped = average.model if average else task.model
    state = State(task.model, average.model if average else None, optimizers)
    start, spent = state.load(begun) if begun is not None else (0, 0.0)
    crops = open_crops(config, ranks)
    module = parallel(task, ranks, spec)
    save_best = partial(save_weights, folder / BEST, shipped, config)  # the best of the validations, by rank 0 only
    unread: list[Tensor] = []  # losses that the host has not looked at yet
    began = time.monotonic() - spent
    iteration, done = start, progress(spec, ranks, start + 1, began)
    owned = claimed(folder, begins=begun is None) if ranks.main else nullcontext()
    with noted_signals() as signals, owned, Log(folder, start, began, config, ranks) as log:
        for line in start_lines(config, task, crops, folder, start, done, ranks):
            log.say(line)

        due = start and (done >= 1 or start % spec.val_every == 0)
        if due and from_main(ranks, lambda: log.lacks_validation(start)):  # stopped between a state and its validation
            began += validated(validate, shipped, log, start, save_best)
        while done < 1:
            iteration += 1
            rate = learning_rate(spec, iteration, done)  # schedule

            torch.manual_seed(random.Random(f"{spec.seed} {iteration} {ranks.rank}").getrandbits(63))
            losses = gradients(module, *patches(crops, iteration, config.data), spec)  # step
            take_step(task, optimizers, spec, rate)
            if average:
                average.update(iteration)
            unread.append(losses["loss"])
            log.advance()

            done = progress(spec, ranks, iteration + 1, began)  # under a time limit this waits for rank 0
            last = done >= 1
            stopping = not last and ranks.any(bool(signals))  # waits for the other processes, not for the device
            validating = not stopping and (last or iteration % spec.val_every == 0)
            saving = validating or stopping or iteration % spec.save_every == 0
            logging = last or iteration % spec.log_every == 0
            if saving or logging or ranks.device.type == "cpu":  # reading losses waits for the device
                check_losses(unread, iteration, crops, ranks)
            if saving:
                check_weights(shipped, iteration)
            if logging:  # log
                log.losses(iteration, {name: ranks.mean(value).item() for name, value in losses.items()}, rate)

            if saving and ranks.main:  # save, which waits for the device; the state last, as it tells that all is saved
                save_weights(folder, shipped, config)
                write_state(folder, iteration, config, state.dump(time.monotonic() - began), spec.keep_checkpoints)
            if stopping:
                gather(ranks, None)  # torchrun ends all processes with the first, so all wait until rank 0 has saved
                raise stopped(signals, f"iteration {iteration} is saved in {folder}")
            if validating:  # validate, after saving, as it may take long; waits for the device with each image
                began += validated(validate, shipped, log, iteration, save_best)


def settle(task: Task[Any], ranks: Ranks, spec: TrainSpec) -> None:
    """Prepare the task: SyncBatchNorm, device, memory layout, kernels for CPUs, train mode."""
    if spec.sync_bn and ranks.world > 1:
        if ranks.device.type != "cuda":
            raise InputError("train.sync_bn: torch's SyncBatchNorm runs between CUDA devices only; set it to false")
        nn.SyncBatchNorm.convert_sync_batchnorm(task)  # over the whole batch; names in the state_dict stay
    task.to(ranks.device)
    task.to(memory_format=image_layout(ranks.device))  # type: ignore[call-overload]
    if ranks.device.type == "cpu" and spec.kernels and not (spec.amp or spec.compile):
        accelerate(task)
    task.train()
    if spec.frozen_bn:
        for module in task.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def open_crops(config: Config, ranks: Ranks) -> Crops:
    """The training data. Raises InputError if it cannot be used, or its batches not be divided as configured."""
    caches = first_on_node(ranks, lambda: open_caches(config.data))  # the first builds them
    crops = Crops(caches, config.data, config.train.seed, ranks.device, ranks.rank, ranks.world)
    if len(set(gather(ranks, crops.digest()))) > 1:
        raise InputError("data.train: the machines of this job have other training images; give all the same ones")
    for line in crops.doubts:
        tell(line)
    share, passes = config.data.batch_size // ranks.world, config.train.accumulation
    if share % passes:
        raise InputError(f"train.accumulation: {passes} passes cannot share a batch of {share} per process equally")
    return crops


def parallel(task: Task[Any], ranks: Ranks, spec: TrainSpec) -> nn.Module:
    """The task as this job runs it: compiled, shared between processes."""
    module = cast("nn.Module", torch.compile(task)) if spec.compile else task
    return DistributedDataParallel(module) if ranks.world > 1 else module


def progress(spec: TrainSpec, ranks: Ranks, iteration: int, began: float) -> float:
    """The share of the training that is done before an iteration; a time limit is measured by rank 0's clock."""
    seconds = from_main(ranks, lambda: time.monotonic() - began) if spec.time_limit else 0.0
    return progress_made(spec, iteration, seconds)


def patches(crops: Crops, iteration: int, data: DataSpec) -> tuple[Tensor, Tensor]:
    """lr (b,3,p,p), hr (b,3,P,P) in [0,1] on the device; p is patch_size at every scale.

    LR is made there, unless it is read from files.
    """
    hr = crops.batch(iteration).float().div_(255)
    stored = crops.lr_batch(iteration)
    shrink = partial(downscale, scale=hr.shape[-1] / data.patch_size, eight_bit=data.lr_round, dtype=torch.float32)
    lr = degraded(hr, crops.degradations(iteration), shrink) if stored is None else stored.float().div_(255)
    return lr.contiguous(memory_format=image_layout(lr.device)), hr


def gradients(module: nn.Module, lr: Tensor, hr: Tensor, spec: TrainSpec) -> dict[str, Tensor]:
    """Losses of a batch, their gradients added to the parameters'; in `accumulation` passes over equal shares of it."""
    shares = list(zip(lr.chunk(spec.accumulation), hr.chunk(spec.accumulation), strict=True))
    means: dict[str, Tensor] = {}
    for number, share in enumerate(shares, start=1):
        # processes exchange gradients once, in the last pass
        alone = isinstance(module, DistributedDataParallel) and number < len(shares)
        with module.no_sync() if alone else nullcontext():  # type: ignore[operator]
            with torch.autocast(lr.device.type, torch.bfloat16, enabled=spec.amp):
                losses: dict[str, Tensor] = module(*share)
            (losses["loss"] / len(shares)).backward()
        for name, value in losses.items():
            means[name] = means.get(name, 0) + value.detach() / len(shares)
    return means


def validated(
    validate: Validate, model: OriginalModel | PCSR, log: Log, iteration: int, save_best: Callable[[], None]
) -> float:
    """Validate and log the results; returns the seconds it took, which a time limit does not count."""
    began = time.monotonic()
    log.validation(iteration, *validate(model), save_best)
    seconds = time.monotonic() - began
    log.leave_out(seconds)
    return seconds


def check_weights(model: nn.Module, iteration: int) -> None:
    """Raises InputError if the last step has made a weight infinite or no number, before such weights are saved."""
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        raise InputError(f"the weights are not finite after iteration {iteration}; lower learning_rate")


def check_losses(unread: list[Tensor], iteration: int, crops: Crops, ranks: Ranks) -> None:
    """Look at the losses of the iterations up to this one, and clear the list.

    Raises InputError if one is not finite, naming the images of its batch.
    """
    recent = ranks.mean(torch.stack(unread))  # (n,)
    unread.clear()
    bad = recent.isfinite().logical_not().nonzero()
    if bad.numel():
        first = iteration - len(recent) + 1 + int(bad[0])
        raise InputError(
            f"the loss is {recent[int(bad[0])].item()} at iteration {first}; lower learning_rate, or look at the "
            f"images of its batch: {', '.join(crops.names(first))}"
        )
