"""The learning rate over a training that ends after so many iterations, or after so many minutes."""

import math
import time
from collections.abc import Iterable

from torch.optim import Optimizer

from utils.config import TrainSpec
from utils.dist import Ranks, from_main


def progress_made(spec: TrainSpec, iteration: int, seconds: float) -> float:
    """The share of the training that lies behind, 0 .. 1, before an iteration (counted from 1).

    It is a share of the iterations after the warm-up, or of the time limit where that comes first; 1 means the end.
    """
    if iteration > spec.iter_max:
        return 1.0
    done = (iteration - 1 - spec.warmup) / max(1, spec.iter_max - spec.warmup)
    spent = seconds / (60 * spec.time_limit) if spec.time_limit else 0.0
    return min(1.0, max(0.0, done, spent))


def learning_rate(spec: TrainSpec, iteration: int, progress: float) -> float:
    """Linear warm-up, then the schedule from learning_rate to learning_rate_min at progress 1; iterations from 1 on.

    cosine (paper): half a cosine. stable: learning_rate, and a straight line down over the last `anneal` of it.
    """
    if iteration <= spec.warmup:
        return spec.learning_rate * iteration / spec.warmup
    left = (1 + math.cos(math.pi * progress)) / 2 if spec.schedule == "cosine" else min(1, (1 - progress) / spec.anneal)
    return spec.learning_rate_min + (spec.learning_rate - spec.learning_rate_min) * left


def set_rate(optimizers: Iterable[Optimizer], rate: float) -> None:
    """Give all parameters of all optimizers the same learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


class Pace:
    """How far a training is, by its iterations and by its time; `spent` are the seconds before it was resumed."""

    def __init__(self, spec: TrainSpec, ranks: Ranks, spent: float) -> None:
        self.spec, self.ranks = spec, ranks
        self.began = time.monotonic() - spent

    @property
    def seconds(self) -> float:
        """Of training until now."""
        return time.monotonic() - self.began

    def progress(self, iteration: int) -> float:
        """Before this iteration, 0 .. 1; under a time limit all processes go by rank 0's clock."""
        seconds = from_main(self.ranks, lambda: self.seconds) if self.spec.time_limit else 0.0
        return progress_made(self.spec, iteration, seconds)
