"""Muon, an optimizer whose steps are orthogonal matrices (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

torch.optim.Muon knows no convolutions; here a kernel is a matrix of outputs by inputs, one for each of its groups.
"""

from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # bring singular values from 0..1 near 1 in five rounds
ROUNDS = 5
RMS = 0.2  # of a step at learning rate 1, about that of Adam, so that both take the same (Liu et al. 2025, 2502.16982)


class Muon(Optimizer):
    """Takes the learnt weights of linear layers and convolutions of a module; the rest is another optimizer's.

    lr: above 0, the root mean square of a step's values over RMS. momentum: in [0,1), of the gradients' average.
    Raises ValueError, as torch's optimizers do, for a module without such weights.
    """

    def __init__(self, module: nn.Module, lr: float, momentum: float = 0.95) -> None:
        learnt = [parameter for parameter in module.parameters() if parameter.requires_grad and parameter.ndim > 1]
        self.matrices: dict[Tensor, int] = dict.fromkeys(learnt, 1)  # parameter -> the number of matrices in it
        for part in module.modules():
            if isinstance(part, nn.Conv2d) and part.weight in self.matrices:
                self.matrices[part.weight] = part.groups
        super().__init__(list(self.matrices), {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override] # without a closure, of which nothing here has use
        (group,) = self.param_groups
        alike = defaultdict(list)  # of one size: they go through Newton-Schulz together
        for parameter, count in self.matrices.items():
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["average"] = torch.zeros_like(parameter)
            average = state["average"].lerp_(parameter.grad, 1 - group["momentum"])
            ahead = parameter.grad.lerp(average, group["momentum"])  # Nesterov
            alike[count, parameter.shape].append((parameter, ahead.reshape(count, parameter.shape[0] // count, -1)))
        for pairs in alike.values():
            steps = orthogonal(torch.stack([ahead for _, ahead in pairs]))
            size = group["lr"] * RMS * max(steps.shape[-2:]) ** 0.5
            for (parameter, _), step in zip(pairs, steps, strict=True):
                parameter.sub_(step.reshape(parameter.shape), alpha=size)


def orthogonal(matrices: Tensor) -> Tensor:
    """About the nearest matrices to these (..., m, n) with orthonormal rows or columns, the fewer of them.

    Singular values end between 0.7 and 1.2, but those that are next to nothing beside the largest stay small.
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
