"""CARN's cascading blocks on CPUs: no concatenation, few passes over memory, hand-written gradients.

The pattern is that of models.carn.cascade. All values are channels last and are read as rows (n,c).
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.carn import GROUPS, CascadingBlock
from models.fast.linear import Gradient, as_image, linear, linear_gradients, rectifier_sums, scale_and_rectify
from models.fast.winograd import channels_last, convolution_gradients, convolve
from models.mlp import rows_of

UNIT_PARAMETERS = 6  # of a residual unit: weight and bias of two grouped convolutions and of a 1x1 convolution
FUSION_PARAMETERS = 3  # weight of the convolution, weight and bias of the BatchNorm


class Fused(NamedTuple):
    """The values that the backward pass of a fusion needs."""

    z: Tensor  # (n,c) the input of BatchNorm
    out: Tensor  # (n,c)
    mean: Tensor  # (c,) float64, the mean that BatchNorm subtracts
    inverse: Tensor  # (c,) float64, one over the standard deviation


def usual(fusion: nn.Module) -> bool:
    """Whether a fusion is as models.carn.fusions makes it: neither folded, nor synchronised between processes."""
    norm = fusion[1]  # type: ignore[index]
    return type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats and norm.momentum is not None


def fuse(seen: Sequence[Tensor], parameters: Sequence[Tensor], norm: nn.BatchNorm2d) -> Fused:
    """1x1 convolution of the concatenation of rows (n,c), BatchNorm and ReLU; updates the statistics of BatchNorm."""
    weight, gamma, beta = parameters
    sums = torch.empty(2, len(weight), dtype=torch.float64)
    z = linear(seen, weight, sums=sums)
    if norm.training:
        mean, square = sums / len(z)
        variance = (square - mean * mean).clamp_(min=0)
        update(norm, mean, variance * (len(z) / max(1, len(z) - 1)))
    else:
        mean, variance = norm.running_mean.double(), norm.running_var.double()  # type: ignore[union-attr]
    inverse = (variance + norm.eps).rsqrt()
    scale = gamma * inverse
    return Fused(z, scale_and_rectify(z, scale.float(), (beta - scale * mean).float()), mean, inverse)


def update(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Update the running statistics, as nn.BatchNorm2d does in training mode."""
    assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
    norm.running_mean.lerp_(mean.float(), norm.momentum)
    norm.running_var.lerp_(variance.float(), norm.momentum)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)


def fuse_gradients(
    seen: Sequence[Tensor],
    parameters: Sequence[Tensor],
    fused: Fused,
    training: bool,
    gradient: Tensor,
    to: Sequence[Gradient | None],
) -> list[Tensor]:
    """Gradients of the fusion's parameters from that of its result (n,c); those of its inputs are written to `to`."""
    weight, gamma, _ = parameters
    gradient, (total, product) = rectifier_sums(gradient, fused.out, fused.z, fused.mean.float())
    of_gamma = product * fused.inverse  # the sum of gradient * normalised
    scale = gamma * fused.inverse
    affine = torch.stack([scale, torch.zeros_like(scale), torch.zeros_like(scale)])
    if training:
        # scale * (g - mean(g) - normalised * mean(g * normalised)), normalised = (z - mean) * inverse
        slope = scale * of_gamma * fused.inverse / len(gradient)
        affine[1] = -slope
        affine[2] = slope * fused.mean - scale * total / len(gradient)
    of_weight, _ = linear_gradients(seen, weight, gradient, to, z=fused.z, affine=affine.float())
    return [of_weight, of_gamma.float(), total.float()]


class Fusion(torch.autograd.Function):
    """A fusion of several images (b,c,h,w) -> (b,c,h,w)."""

    @staticmethod
    def forward(ctx: Any, norm: nn.BatchNorm2d, *tensors: Tensor) -> Tensor:
        parameters, images = tensors[:FUSION_PARAMETERS], tensors[FUSION_PARAMETERS:]
        ctx.shape = images[0].shape
        seen = [rows_of(image) for image in images]
        fused = fuse(seen, parameters, norm)
        ctx.training = norm.training
        ctx.save_for_backward(*parameters, *fused, *seen)
        return as_image(fused.out, ctx.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        count = FUSION_PARAMETERS + len(Fused._fields)
        parameters, seen = ctx.saved_tensors[:FUSION_PARAMETERS], ctx.saved_tensors[count:]
        fused = Fused(*ctx.saved_tensors[FUSION_PARAMETERS:count])
        to = [Gradient(torch.empty_like(rows)) for rows in seen]
        found = fuse_gradients(seen, parameters, fused, ctx.training, rows_of(gradient).contiguous(), to)
        return None, *found, *(as_image(each.rows, ctx.shape) for each in to)


class Unit(NamedTuple):
    """The values that the backward pass of a residual unit needs: input and results of its layers, (b,c,h,w)."""

    x: Tensor
    first: Tensor
    second: Tensor
    out: Tensor


def run_unit(x: Tensor, parameters: Sequence[Tensor]) -> Unit:
    weight1, bias1, weight2, bias2, weight3, bias3 = parameters
    first = convolve(x, weight1, GROUPS, bias1, slope=0.0)
    second = convolve(first, weight2, GROUPS, bias2, slope=0.0)
    out = linear([rows_of(second)], weight3, bias3, add=rows_of(x), slope=0.0)
    return Unit(x, first, second, as_image(out, x.shape))


def unit_gradients(unit: Unit, parameters: Sequence[Tensor], gradient: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Gradients of the unit's input and of its parameters, from that of its result, which is overwritten."""
    weight1, _, weight2, _, weight3, _ = parameters
    of_second = torch.empty_like(unit.second)
    to = [Gradient(rows_of(of_second))]
    rows = rows_of(gradient)
    found3 = linear_gradients([rows_of(unit.second)], weight3, rows, to, rectified=True, mask=rows_of(unit.out))
    of_first, *found2 = convolution_gradients(unit.first, of_second, weight2, GROUPS, slope=0.0)
    of_x, *found1 = convolution_gradients(unit.x, of_first, weight1, GROUPS, add=gradient)
    return of_x, [*found1, *found2, *found3]


class Cascade(torch.autograd.Function):
    """A cascading block: one residual unit used three times, a fusion after each use; (b,c,h,w) -> (b,c,h,w)."""

    @staticmethod
    def forward(ctx: Any, norms: Sequence[nn.BatchNorm2d], x: Tensor, *parameters: Tensor) -> Tensor:
        given, ctx.steps = iter(parameters), len(norms)
        unit = take(given, UNIT_PARAMETERS)
        fusions = [take(given, FUSION_PARAMETERS) for _ in norms]
        x = channels_last(x)
        seen, out, kept = [rows_of(x)], x, []
        for norm, fusion in zip(norms, fusions, strict=True):
            done = run_unit(out, unit)
            seen.append(rows_of(done.out))
            fused = fuse(seen, fusion, norm)
            kept += [*done, *fused]
            out = as_image(fused.out, x.shape)
        ctx.training = norms[0].training
        ctx.save_for_backward(x, *parameters, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        steps, saved = ctx.steps, iter(saved)
        unit = take(saved, UNIT_PARAMETERS)
        fusions = [take(saved, FUSION_PARAMETERS) for _ in range(steps)]
        kept = [(Unit(*take(saved, len(Unit._fields))), Fused(*take(saved, len(Fused._fields)))) for _ in range(steps)]
        units, fused = zip(*kept, strict=True)
        images = [x, *(done.out for done in units)]
        grads = [torch.empty_like(image) for image in images]
        seen, to = [rows_of(image) for image in images], [rows_of(image) for image in grads]
        of_unit: list[Tensor] = []
        of_fusions: list[Tensor] = []
        for i in reversed(range(steps)):
            rows = rows_of(gradient).contiguous()
            more = i + 1 < steps  # the gradients come from the last fusion first
            into = [Gradient(rows, more) for rows in to[: i + 2]]
            found = fuse_gradients(seen[: i + 2], fusions[i], fused[i], ctx.training, rows, into)
            of_fusions = [*found, *of_fusions]
            gradient, found = unit_gradients(units[i], unit, grads[i + 1])
            of_unit = [a.add_(b) for a, b in zip(of_unit, found, strict=True)] if of_unit else found
        return None, gradient.add_(grads[0]), *of_unit, *of_fusions


def take(tensors: Iterator[Tensor], count: int) -> list[Tensor]:
    """The next `count` tensors."""
    return list(islice(tensors, count))


def is_folded(fuse: nn.ModuleList) -> bool:
    """Whether models.fast.fold has folded the fusions."""
    return all(isinstance(fusion[1], nn.Identity) for fusion in fuse)  # type: ignore[index]


def cascade_folded(x: Tensor, steps: Iterable[nn.Module], fuse: nn.ModuleList) -> Tensor:
    """The cascading pattern of folded fusions, without gradients; x (b,c,h,w) -> (b,c,h,w)."""
    seen, out = [rows_of(channels_last(x))], x
    for step, fusion in zip(steps, fuse, strict=True):
        conv = cast("nn.Conv2d", fusion[0])  # type: ignore[index]
        seen.append(rows_of(step(out)))
        out = as_image(linear(seen, conv.weight.flatten(1), conv.bias, slope=0.0), x.shape)
    return out


def cascading_block(block: CascadingBlock, x: Tensor) -> Tensor:
    """The forward of a block in training."""
    parameters = [*block.unit.parameters(), *block.fuse.parameters()]
    return Cascade.apply([fusion[1] for fusion in block.fuse], x, *parameters)  # type: ignore[index]
