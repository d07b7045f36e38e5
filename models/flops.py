"""Both FLOPs accounts, analytic: read from the layers themselves, without running the model.

`paper` is what published tables count: 2 per multiply-accumulate of convolutions and linears as if every MLP ran on
[feat, rel_coord, rel_cell] per HR pixel, 2 per element of BatchNorm, 1 per element of PReLU, and a transposed
convolution billed at its output size. `executed` is 2 per multiply-accumulate this implementation does: first layers
once per LR pixel, a transposed convolution at its input size, BatchNorm as one multiply-accumulate per element.
Neither counts activations other than PReLU (paper), interpolation, k-means or refinement.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from torch import nn


class Flops(NamedTuple):
    """Floating-point operations in both accounts; never mix them in one ratio."""

    paper: float
    executed: float

    def __add__(self, other: "Flops") -> "Flops":  # type: ignore[override]
        return Flops(self.paper + other.paper, self.executed + other.executed)

    def __mul__(self, factor: float) -> "Flops":  # type: ignore[override]
        return Flops(self.paper * factor, self.executed * factor)


class Call(NamedTuple):
    """One use of a layer in a forward pass; shared weights are used several times."""

    layer: nn.Module
    density: int = 1  # output positions per LR pixel


class Countable(Protocol):
    """A network that can say which layers one forward pass runs, in order."""

    def calls(self) -> Iterable[Call]: ...


class PerPixel(Protocol):
    """An MLP run per pixel whose first `in_channels` inputs are features."""

    in_channels: int

    def linears(self) -> list[nn.Linear]: ...


def layer_flops(layer: nn.Module) -> Flops:
    """FLOPs of one layer per output position."""
    if isinstance(layer, nn.ConvTranspose2d):
        taps = layer.kernel_size[0] * layer.kernel_size[1] * layer.in_channels // layer.groups
        paper = 2.0 * taps * layer.out_channels
        return Flops(paper, paper / (layer.stride[0] * layer.stride[1]))
    if isinstance(layer, nn.Conv2d):
        taps = layer.kernel_size[0] * layer.kernel_size[1] * layer.in_channels // layer.groups
        return Flops(2.0 * taps * layer.out_channels, 2.0 * taps * layer.out_channels)
    if isinstance(layer, (nn.BatchNorm2d, nn.SyncBatchNorm)):
        return Flops(2.0 * layer.num_features, 2.0 * layer.num_features)
    raise TypeError(f"no FLOPs rule for {type(layer).__name__}")


def network_flops(network: Countable) -> Flops:
    """FLOPs of a convolutional network per LR pixel."""
    total = Flops(0.0, 0.0)
    width = 0  # channels of the last convolution: what a PReLU behind it works on
    for layer, density in network.calls():
        if isinstance(layer, nn.PReLU):
            total += Flops(float(width * density), 0.0)
            continue
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            width = layer.out_channels
        total += layer_flops(layer) * density
    return total


class MLPFlops(NamedTuple):
    """One per-pixel MLP: what it costs per LR pixel (its factorised first layer) and per HR pixel it is run on."""

    per_lr: Flops
    per_hr: Flops


def mlp_flops(mlp: PerPixel) -> MLPFlops:
    """FLOPs of a per-pixel MLP; the feature part of its first Linear runs on every LR pixel, chosen or not."""
    first, *rest = mlp.linears()
    tail = 2.0 * sum(linear.in_features * linear.out_features for linear in rest)
    on_features = 2.0 * mlp.in_channels * first.out_features
    return MLPFlops(Flops(0.0, on_features), Flops(2.0 * first.in_features * first.out_features + tail, tail))


class PCSRFlops(NamedTuple):
    """The parts a PCSR model's account is made of."""

    per_lr: Flops  # encoder and all first layers
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
        parts = [self.per_lr.paper / scale**2 + flops.paper for flops in self.upsamplers]
        return [part / sum(parts) for part in parts]


def pcsr_flops(encoder: Countable, upsamplers: Iterable[PerPixel], classifier: PerPixel | None) -> PCSRFlops:
    """Read a PCSR model's account from its parts."""
    per_lr = network_flops(encoder)
    counted = [mlp_flops(mlp) for mlp in upsamplers]
    rated = mlp_flops(classifier) if classifier is not None else MLPFlops(Flops(0, 0), Flops(0, 0))
    for mlp in (*counted, rated):
        per_lr += mlp.per_lr
    return PCSRFlops(per_lr, rated.per_hr, tuple(mlp.per_hr for mlp in counted))
