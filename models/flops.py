"""Both FLOPs accounts: the operations of a network are counted as a forward pass on a small image calls them.

`paper` is what published tables count: 2 per multiply-accumulate of convolutions, linears and matrix products as if
every MLP ran on [feat, rel_coord, rel_cell] per HR pixel, 2 per element of BatchNorm (LayerNorm, GroupNorm), 1 per
element of PReLU, and a transposed convolution counted at its output size. `executed` is 2 per multiply-accumulate this
implementation does: first layers once per LR pixel, a transposed convolution at its input size, BatchNorm as one
multiply-accumulate per element, although inference folds it away; not the coordinates' part of first layers, at most
8 % of the lightest upsampler. Neither counts activations other than PReLU (paper), softmax, interpolation, k-means or
refinement.
"""

import copy
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

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


def products(left: int) -> Callable[[Any, Any], Flops]:
    """The rule of an operation that multiplies two matrices; the first of them is argument number `left`."""
    return lambda args, y: both(2.0 * y.numel() * args[left].shape[-1])


def convolution(args: Any, y: Tensor) -> Flops:
    x, weight, *_, transposed, _, groups = args
    if not transposed:
        return both(2.0 * y.numel() * weight[0].numel())
    return Flops(2.0 * y.numel() * weight[:, 0].numel() / groups, 2.0 * x.numel() * weight[0].numel())


def normalisation(args: Any, y: Any) -> Flops:
    return both(2.0 * y[0].numel())


aten = torch.ops.aten
# FLOPs of torch's operations, from their arguments and their output. Those of UNCOUNTED are refused; others count 0.
OPERATIONS: dict[Any, Callable[[Any, Any], Flops]] = {
    aten.convolution: convolution,
    **dict.fromkeys((aten.mm, aten.bmm, aten.mv, aten.dot), products(0)),
    **dict.fromkeys((aten.addmm, aten.baddbmm, aten.addmv), products(1)),
    # args are query, key and value: all queries are multiplied with all keys, then all shares with the values
    aten._scaled_dot_product_flash_attention_for_cpu: lambda args, y: both(
        2.0 * (args[0].numel() + y[0].numel()) * args[1].shape[-2]
    ),
    **dict.fromkeys((aten.native_batch_norm, aten.native_layer_norm, aten.native_group_norm), normalisation),
    aten._prelu_kernel: lambda args, y: Flops(1.0 * y.numel(), 0.0),
}
UNCOUNTED = re.compile(r"rnn|lstm|gru|fft|native_multi_head|transformer|trilinear|cdist|euclid|linalg|matrix_exp")
# FLOPs of one call of a module, from the module, its input and its output, for modules with operations that cannot be
# counted. A rule holds for subclasses as well, and counts for everything inside its module.
RULES: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], Flops]] = {}


def rule_of(module: nn.Module) -> Callable[[Any, Tensor, Tensor], Flops] | None:
    return next((RULES[kind] for kind in type(module).__mro__ if kind in RULES), None)


class Counter(TorchDispatchMode):
    """Adds up the FLOPs of a network's operations while it is active."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.total = Flops(0.0, 0.0)
        self.names = {module: name for name, module in network.named_modules()}
        self.within: list[nn.Module] = []  # the modules at work, the innermost last
        for module in self.names:
            module.register_forward_pre_hook(lambda module, inputs: self.within.append(module))
            module.register_forward_hook(self.leave)

    def leave(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.within.pop()
        if (rule := rule_of(module)) and not any(map(rule_of, self.within)):
            self.total += rule(module, inputs[0], output)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Called by torch. With True, its default, it would import its compiler, which takes a second."""
        return False

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = operation(*args, **(kwargs or {}))
        if not any(map(rule_of, self.within)):
            kind = operation.overloadpacket
            if kind in OPERATIONS:
                self.total += OPERATIONS[kind](args, output)
            elif operation.namespace not in ("aten", "prim") or UNCOUNTED.search(operation.__name__):
                module = self.within[-1]
                where, layer = self.names[module] or "the network", type(module).__name__
                remedy = f"give {layer} a rule in RULES of models/flops.py"
                raise InputError(f"the FLOPs of {where} ({layer}) cannot be counted: it calls {operation}; {remedy}")
        return output


@torch.no_grad()
def network_flops(network: nn.Module) -> Flops:
    """FLOPs per LR pixel of a network that takes lr (b,3,h,w).

    A copy of it runs on the CPU, and the image is so small that this takes little time. Torch's meta device would
    compute nothing at all, but its first use takes a second, for the compiler. Raises InputError for a layer that
    cannot be counted.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # nn.MultiheadAttention then calls operations that are counted
    try:
        with torch.inference_mode(False):  # inference mode hides the operations of a Linear
            probe = copy.deepcopy(network).to("cpu", torch.float32).eval()
            image = torch.zeros(1, 3, PATCH, PATCH)
            with Counter(probe) as counter:
                probe(image)
    except InputError:
        raise
    except Exception as error:  # whatever a network may raise
        kind = type(network).__name__
        raise InputError(f"{kind} must run on the CPU, on {PATCH}x{PATCH} pixels, but: {error}") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.total * (1 / PATCH**2)


class MLPFlops(NamedTuple):
    """FLOPs of one per-pixel MLP: per LR pixel (the feature part of its first layer), per HR pixel that it runs on."""

    per_lr: Flops
    per_hr: Flops


def mlp_flops(mlp: PixelMLP) -> MLPFlops:
    """FLOPs of a per-pixel MLP; the feature part of its first Linear runs on every LR pixel, chosen or not."""
    first, *rest = mlp.linears()
    tail = 2.0 * sum(linear.in_features * linear.out_features for linear in rest)
    on_features = 2.0 * mlp.in_channels * first.out_features
    return MLPFlops(Flops(0.0, on_features), Flops(2.0 * first.in_features * first.out_features + tail, tail))


class PCSRFlops(NamedTuple):
    """FLOPs of the parts of a PCSR model."""

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
        flops = self.per_pixel(scale)
        return [each / sum(flops) for each in flops]

    def per_pixel(self, scale: float, with_classifier: bool = False) -> list[float]:
        """FLOPs per HR pixel of each upsampler with the encoder, and the classifier if asked for (paper account)."""
        shared = self.per_lr.paper / scale**2 + (self.classifier.paper if with_classifier else 0)
        return [shared + flops.paper for flops in self.upsamplers]


def pcsr_flops(encoder: nn.Module, upsamplers: Iterable[PixelMLP], classifier: PixelMLP | None) -> PCSRFlops:
    """Count the FLOPs of a PCSR model's parts."""
    per_lr = network_flops(encoder)
    counted = [mlp_flops(mlp) for mlp in upsamplers]
    rated = mlp_flops(classifier) if classifier is not None else MLPFlops(Flops(0, 0), Flops(0, 0))
    for mlp in (*counted, rated):
        per_lr += mlp.per_lr
    return PCSRFlops(per_lr, rated.per_hr, tuple(mlp.per_hr for mlp in counted))
