"""Muon, an optimizer whose steps are orthogonal matrices (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

torch.optim.Muon does not take convolutions. Here each group of a convolution is a matrix of outputs by inputs.
"""

from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # bring singular values from 0..1 near 1 in five rounds
ROUNDS = 5
MOMENTUM = 0.95  # decay of the average gradient
# root mean square of a step at learning rate 1; it is about that of Adam, so that both can take the same learning rate
# (Liu et al. 2025, arXiv 2502.16982)
RMS = 0.2


def is_matrix(parameter: Tensor) -> bool:
    """Whether a parameter holds weights between several inputs and outputs; others have one number for each channel."""
    return sum(side > 1 for side in parameter.shape) > 1


class Muon(Optimizer):
    """Optimizes the weights of a module's linear layers and convolutions; another optimizer takes the other parameters.

    lr: above 0; a step's values have the root mean square RMS * lr.
    Raises ValueError, as torch's optimizers do, for a module without such weights.
    """

    def __init__(self, module: nn.Module, lr: float) -> None:
        learnt = [parameter for parameter in module.parameters() if parameter.requires_grad and is_matrix(parameter)]
        self.matrices: dict[Tensor, int] = dict.fromkeys(learnt, 1)  # parameter -> the number of matrices in it
        for part in module.modules():
            if isinstance(part, nn.Conv2d) and part.weight in self.matrices:
                self.matrices[part.weight] = part.groups
        super().__init__(list(self.matrices), {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure: nothing here needs one
        (group,) = self.param_groups
        alike = defaultdict(list)  # matrices of one size go through Newton-Schulz together
        for parameter, count in self.matrices.items():
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["average"] = torch.zeros_like(parameter)
            average = state["average"].lerp_(parameter.grad, 1 - MOMENTUM)
            ahead = parameter.grad.lerp(average, MOMENTUM)  # Nesterov
            alike[count, parameter.shape].append((parameter, ahead.reshape(count, parameter.shape[0] // count, -1)))
        for pairs in alike.values():
            steps = orthogonal(torch.stack([ahead for _, ahead in pairs]))
            size = group["lr"] * RMS * max(steps.shape[-2:]) ** 0.5
            for (parameter, _), step in zip(pairs, steps, strict=True):
                parameter.sub_(step.reshape(parameter.shape), alpha=size)


def orthogonal(matrices: Tensor) -> Tensor:
    """Approximately the nearest matrices to these (..., m, n) with orthonormal rows or columns, whichever are fewer.

    Singular values end between 0.7 and 1.2, except those that are almost nothing beside the largest: they stay small.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-12)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x
