"""Both FLOPs accounts: the layers of a network are counted as a forward pass on a small image calls them.

`paper` is what published tables count: 2 per multiply-accumulate of convolutions and linears as if every MLP ran on
[feat, rel_coord, rel_cell] per HR pixel, 2 per element of BatchNorm, 1 per element of PReLU, and a transposed
convolution billed at its output size. `executed` is 2 per multiply-accumulate this implementation does: first layers
once per LR pixel, a transposed convolution at its input size, BatchNorm as one multiply-accumulate per element,
although inference folds it away. Neither counts activations other than PReLU (paper), interpolation, k-means or
refinement.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.mlp import PixelMLP
from utils.errors import InputError

PATCH = 32  # LR pixels on a side of that image, as in published tables


class Flops(NamedTuple):
    """Floating-point operations in both accounts; never mix them in one ratio."""

    paper: float
    executed: float

    def __add__(self, other: "Flops") -> "Flops":  # type: ignore[override]
        return Flops(self.paper + other.paper, self.executed + other.executed)

    def __mul__(self, factor: float) -> "Flops":  # type: ignore[override]
        return Flops(self.paper * factor, self.executed * factor)


def both(flops: float) -> Flops:
    return Flops(flops, flops)


# What one call of a layer costs, from the layer, its input and its output. A rule holds for subclasses as well, and
# speaks for everything inside its layer.
RULES: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], Flops]] = {
    nn.Conv2d: lambda conv, x, y: both(2.0 * y.numel() * conv.weight[0].numel()),
    nn.Linear: lambda linear, x, y: both(2.0 * y.numel() * linear.in_features),
    nn.ConvTranspose2d: lambda conv, x, y: Flops(
        2.0 * y.numel() * conv.weight[:, 0].numel() / conv.groups, 2.0 * x.numel() * conv.weight[0].numel()
    ),
    nn.BatchNorm2d: lambda norm, x, y: both(2.0 * y.numel()),
    nn.SyncBatchNorm: lambda norm, x, y: both(2.0 * y.numel()),
    nn.PReLU: lambda prelu, x, y: Flops(1.0 * y.numel(), 0.0),
}


def counted_layers(network: nn.Module) -> dict[str, nn.Module]:
    """The layers that RULES speak for, by name. Raises InputError for a parameter outside of them."""
    found: dict[str, nn.Module] = {}
    inside: set[nn.Module] = set()
    for name, layer in network.named_modules():
        if layer in inside:
            continue
        if any(kind in RULES for kind in type(layer).__mro__):
            found[name] = layer
            inside.update(layer.modules())
        elif list(layer.parameters(recurse=False)):
            raise uncountable(name, layer, f"add a rule for {type(layer).__name__} to RULES in models/flops.py")
    return found


def uncountable(name: str, layer: nn.Module, why: str) -> InputError:
    return InputError(f"the FLOPs of {name or 'the network'} ({type(layer).__name__}) cannot be counted: {why}")


@torch.no_grad()
def network_flops(network: nn.Module) -> Flops:
    """FLOPs per LR pixel of a network that takes lr (b,3,h,w); every call of a shared layer counts.

    The image is small enough for a copy on the CPU. Torch's meta device would compute nothing at all, but the first use
    of it takes a second, for the compiler that it imports. Raises InputError for a layer that cannot be counted.
    """
    probe = copy.deepcopy(network).to("cpu", torch.float32).eval()
    layers = counted_layers(probe)
    calls: list[tuple[nn.Module, Flops]] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        rule = next(RULES[kind] for kind in type(layer).__mro__ if kind in RULES)
        calls.append((layer, rule(layer, inputs[0], output)))

    for layer in layers.values():
        layer.register_forward_hook(count)
    try:
        probe(torch.zeros(1, 3, PATCH, PATCH))
    except Exception as error:  # whatever a network may raise
        raise uncountable("", network, f"it must run on the CPU, on {PATCH}x{PATCH} pixels: {error}") from error
    idle = set(layers.values()) - {layer for layer, _ in calls}
    for name, layer in layers.items():
        if layer in idle:
            raise uncountable(name, layer, "forward does not call it; call it, or add a rule for the module around it")
    return sum((flops for _, flops in calls), Flops(0.0, 0.0)) * (1 / PATCH**2)


class MLPFlops(NamedTuple):
    """One per-pixel MLP: what it costs per LR pixel (its factorised first layer) and per HR pixel it is run on."""

    per_lr: Flops
    per_hr: Flops


def mlp_flops(mlp: PixelMLP) -> MLPFlops:
    """FLOPs of a per-pixel MLP; the feature part of its first Linear runs on every LR pixel, chosen or not."""
    first, *rest = mlp.linears()
    tail = 2.0 * sum(linear.in_features * linear.out_features for linear in rest)
    on_features = 2.0 * mlp.in_channels * first.out_features
    return MLPFlops(Flops(0.0, on_features), Flops(2.0 * first.in_features * first.out_features + tail, tail))


class PCSRFlops(NamedTuple):
    """The parts a PCSR model's account is made of."""

    per_lr: Flops  # the encoder; in the executed account the feature parts of all first layers too
    classifier: Flops  # per HR pixel
    upsamplers: tuple[Flops, ...]  # per HR pixel, light .. heavy

    def total(self, lr_pixels: float, assigned: Sequence[float]) -> Flops:
        """FLOPs of an image of `lr_pixels` whose HR pixels are `assigned` to the upsamplers in these numbers."""
        total = self.per_lr * lr_pixels + self.classifier * sum(assigned)
        for flops, pixels in zip(self.upsamplers, assigned, strict=True):
            total += flops * pixels
        return total

    def cost(self, scale: float) -> list[float]:
        """Relative FLOPs of the upsamplers, encoder included, normalised to sum 1 (paper account)."""
        spent = [self.per_lr.paper / scale**2 + flops.paper for flops in self.upsamplers]
        return [flops / sum(spent) for flops in spent]


def pcsr_flops(encoder: nn.Module, upsamplers: Iterable[PixelMLP], classifier: PixelMLP | None) -> PCSRFlops:
    """Read a PCSR model's account from its parts."""
    per_lr = network_flops(encoder)
    counted = [mlp_flops(mlp) for mlp in upsamplers]
    rated = mlp_flops(classifier) if classifier is not None else MLPFlops(Flops(0, 0), Flops(0, 0))
    for mlp in (*counted, rated):
        per_lr += mlp.per_lr
    return PCSRFlops(per_lr, rated.per_hr, tuple(mlp.per_hr for mlp in counted))
