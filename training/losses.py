"""Training losses, and a sum over HR pixels that is taken group by group together with its gradients.

A loss is a mean over patches. With l1 and mse it is also one over pixels, so that the gradient at one pixel needs no
other; psnr and gains need whole patches (`whole_patches`), and a group then consists of them. On a CPU a group of some
thousand pixels goes through its MLPs forward and backward while its activations lie in the cache, and nothing of it is
kept: the plain formulation writes every activation of the whole batch to memory and reads it back. Elsewhere the batch
is a single group and autograd does the rest. Both give the same gradients but for the order of sums. Where kernels can
be built, phase 0 does without this: models/fast/pixel_errors.py takes some dozen pixels at a time.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.queries import Group

FLOOR = 2e-4  # added to a patch's MSE in the psnr loss and in that of gains: patches beyond 37 dB hardly count
LOWEST = -12.0  # of k - FOCUS: less than any price that matters
FOCUS = 1.5  # the k at which the loss of a classifier that learns gains is most exact: the middle of the useful values


class PatchLoss(NamedTuple):
    """How a patch is rated: `of_mean` of the mean over the patch of `of_pixel`."""

    of_pixel: Callable[[Tensor], Tensor]  # SR - HR, values about -1 .. 1, to an error of the same shape
    of_mean: Callable[[Tensor], Tensor]  # the mean error of each patch (b,) to its loss (b,)
    whole_patches: bool  # whether of_mean is not linear: the loss of a patch is not the mean of those of its parts
    kernel: Literal["absolute", "squared"] | None  # of_pixel in the kernel of phase 0; None: it has no such error

    def of_patches(self, difference: Tensor) -> Tensor:
        """The loss of each patch, (b,), from SR - HR in any shape (b,...)."""
        return self.of_mean(self.of_pixel(difference.flatten(1)).mean(1))


def unchanged(error: Tensor) -> Tensor:
    return error


def log_mse(mse: Tensor) -> Tensor:
    """Natural logarithms, so that each patch counts by its PSNR, as each image does in the evaluation."""
    return (mse + FLOOR).log()


LOSSES = {
    "l1": PatchLoss(torch.abs, unchanged, whole_patches=False, kernel="absolute"),  # paper
    "mse": PatchLoss(torch.square, unchanged, whole_patches=False, kernel="squared"),
    "psnr": PatchLoss(torch.square, log_mse, whole_patches=True, kernel="squared"),
}


def group_loss(values: Tensor, group: Group, loss: PatchLoss) -> Tensor:
    """What a group adds to the batch's loss, a scalar; values (n,3) are what the upsamplers give for it."""
    difference = (values - group.target).unflatten(0, (group.images, -1))
    return group.share * loss.of_patches(difference).mean()


def gain_loss(logits: Tensor, errors: Tensor, cost: Sequence[float], price: float, group: Group) -> Tensor:
    """What a group adds to the loss of a classifier that learns gains, a scalar.

    logits (n,M); errors (M,n) of the upsamplers, squared; cost: their relative FLOPs. The gain of upsampler m + 1 is
    how much lower its error is than that of upsampler m, relative to the patch's mean error with all pixels heavy, plus
    FLOOR.
    Between the two, the k rule changes at k_m = (log p_m+1 - log p_m) / (log c_m+1 - log c_m). With
    fee = exp(FOCUS) * price * (c_m+1 - c_m) / c_heavy and x = k_m - FOCUS, the loss fee * log(1 + exp(x)) +
    gain * log(1 + exp(-x)) is lowest where exp(x) = gain / fee, for the mean gain of the pixels that look alike. So k
    becomes the logarithm of a price in gain per FLOPs, and k = 0 stands for `price`. Pixels of huge gains do not
    dominate this loss, as they would dominate a squared error or a Poisson loss. Below x = LOWEST the last term is
    constant: for a negative mean gain it would fall without end.
    """
    relative = errors.unflatten(1, (group.images, -1))  # (M,images,N)
    relative = relative / (relative[-1].mean(1, keepdim=True) + FLOOR)
    gains = (relative[:-1] - relative[1:]).flatten(1)  # (M-1,n)
    steps = [(math.log(heavier / lighter), (heavier - lighter) / cost[-1]) for lighter, heavier in pairwise(cost)]
    ratios, extras = logits.new_tensor(steps).t()[..., None]  # (M-1,1) each
    fees = math.exp(FOCUS) * price * extras
    x = (logits[:, 1:] - logits[:, :-1]).t() / ratios - FOCUS  # (M-1,n); transposed, as short rows are slow on a CPU
    return group.share * (fees * F.softplus(x) + gains * F.softplus(-x.clamp_min(LOWEST))).sum(0).mean()


GroupLoss = Callable[[Sequence[Tensor], Group], Tensor]  # the rows of every table that the group reads -> a scalar


def summed(
    loss: GroupLoss, tables: Sequence[Tensor], parameters: Sequence[nn.Parameter], groups: Sequence[Group]
) -> Tensor:
    """The sum of `loss` over the groups, differentiable in the tables (b*h*w,C) and the parameters it uses."""
    if len(groups) == 1 and groups[0].rows == slice(None):
        return loss(tables, groups[0])
    if not torch.is_grad_enabled():
        return torch.stack([loss([table[group.rows] for table in tables], group) for group in groups]).sum()
    total: Tensor = GroupByGroup.apply(loss, groups, len(tables), *tables, *parameters)
    return total


class GroupByGroup(torch.autograd.Function):
    """Takes each group's gradient right after its loss; backward only scales the sums."""

    @staticmethod
    def forward(ctx: Any, loss: GroupLoss, groups: Sequence[Group], n_tables: int, *tensors: Tensor) -> Tensor:
        tables, parameters = tensors[:n_tables], tensors[n_tables:]
        gradients = [torch.zeros_like(tensor) if tensor.requires_grad else None for tensor in tensors]
        total = torch.zeros((), device=tensors[0].device)
        for group in groups:
            read = [table[group.rows].detach().requires_grad_(table.requires_grad) for table in tables]
            with torch.enable_grad():
                value = loss(read, group)
            inputs = [tensor for tensor in (*read, *parameters) if tensor.requires_grad]
            sums = [gradient[group.rows] for gradient in gradients[:n_tables] if gradient is not None]
            sums += [gradient for gradient in gradients[n_tables:] if gradient is not None]
            # unused: a first layer's bias, which is part of its table
            for so_far, gradient in zip(sums, torch.autograd.grad(value, inputs, allow_unused=True), strict=True):
                if gradient is not None:
                    so_far.add_(gradient)
            total += value.detach()
        ctx.gradients = gradients
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Any, ...]:
        return None, None, None, *(None if gradient is None else gradient * scale for gradient in ctx.gradients)
