"""The optimizers of a training, and the step that they take with the gradients of a batch."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import Adam, Optimizer

from training.muon import Muon, is_matrix
from utils.config import TrainSpec


def build_optimizers(task: nn.Module, spec: TrainSpec) -> list[Optimizer]:
    """Adam (paper), or Muon for the weights and Adam for the other parameters."""
    learnt = [parameter for parameter in task.parameters() if parameter.requires_grad]
    rate, betas = spec.learning_rate, spec.betas
    if spec.optimizer == "adam":
        return [Adam(learnt, lr=rate, betas=betas, fused=True)]
    muon = Muon(task, rate)
    left = [parameter for parameter in learnt if parameter not in muon.matrices]
    return [muon, *([Adam(left, lr=rate, betas=betas, fused=True)] if left else [])]


@torch.no_grad()
def take_step(task: nn.Module, optimizers: Sequence[Optimizer], spec: TrainSpec, rate: float) -> None:
    """Clip the gradients, take a step with the same learning rate for all parameters, and clear the gradients.

    Weight decay is decoupled (Loshchilov and Hutter 2019): it shrinks the weights themselves and does not go through
    the optimizer. Vectors do not decay: biases, the slopes of PReLU and the parameters of BatchNorm.
    """
    learnt = [parameter for parameter in task.parameters() if parameter.requires_grad]
    if spec.grad_clip is not None:
        nn.utils.clip_grad_norm_(learnt, spec.grad_clip)
    if spec.weight_decay:
        for parameter in learnt:
            if is_matrix(parameter):
                parameter.mul_(1 - rate * spec.weight_decay)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
