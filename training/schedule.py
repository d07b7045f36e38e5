"""The learning rate over a training that ends after a number of iterations or of minutes."""

import math

from utils.config import TrainSpec


def progress_made(spec: TrainSpec, iteration: int, seconds: float) -> float:
    """The share of the training that is done before an iteration (counted from 1), from 0 to 1, which means the end.

    It is a share of the iterations after the warm-up or of the time limit, whichever is larger.
    """
    if iteration > spec.iter_max:
        return 1.0
    done = (iteration - 1 - spec.warmup) / max(1, spec.iter_max - spec.warmup)
    spent = seconds / (60 * spec.time_limit) if spec.time_limit else 0.0
    return min(1.0, max(0.0, done, spent))


def learning_rate(spec: TrainSpec, iteration: int, progress: float) -> float:
    """Linear warm-up, then the schedule from learning_rate to learning_rate_min at progress 1; iterations from 1 on.

    cosine (paper): half a cosine. stable: constant, then a straight line down over the last share `anneal`.
    """
    if iteration <= spec.warmup:
        return spec.learning_rate * iteration / spec.warmup
    left = (1 + math.cos(math.pi * progress)) / 2 if spec.schedule == "cosine" else min(1, (1 - progress) / spec.anneal)
    return spec.learning_rate_min + (spec.learning_rate - spec.learning_rate_min) * left
