"""An encoder as a list of convolutions for the compiled kernel (convs.py): traced from its modules, fused.

What is traced are the modules themselves, so that a backbone is written once; one that holds anything but convolutions
of stride 1, rectifiers, sums and concatenations of channels has no program and runs as it is.
"""

import operator

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from models.fast.convs import INPUTS, Conv


class Unsupported(Exception):  # noqa: N818  # an answer rather than an error
    """The network holds something the kernel does not do."""


def slope_of(node: fx.Node, modules: dict[str, nn.Module]) -> float | Tensor | None:
    """What a rectifier multiplies negative values with; None for other nodes."""
    target = modules[str(node.target)] if node.op == "call_module" else node.target
    if isinstance(target, nn.ReLU) or target in (torch.relu, F.relu):
        return 0.0
    if isinstance(target, nn.LeakyReLU):
        return float(target.negative_slope)
    if target is F.leaky_relu:
        return float(node.kwargs.get("negative_slope", node.args[1] if len(node.args) > 1 else 0.01))  # type: ignore[arg-type]
    return target.weight.detach() if isinstance(target, nn.PReLU) else None


class Program:
    """What an encoder computes: `convs` in order, `channels` of every value. Raises Unsupported."""

    def __init__(self, encoder: nn.Module) -> None:
        self.convs: list[Conv] = []
        self.channels: dict[int, int] = {}
        try:
            graph = fx.symbolic_trace(encoder)
        except Exception as error:  # code that looks at the numbers or the size of its input cannot be traced
            raise Unsupported(str(error)) from None
        for node in list(graph.graph.nodes):
            if node.op == "call_module" and isinstance(graph.get_submodule(str(node.target)), nn.Identity):
                node.replace_all_uses_with(node.args[0])
                graph.graph.erase_node(node)
        self.lower(graph)

    @property
    def halo(self) -> int:
        """How many LR pixels around a feature influence it."""
        needed = {self.convs[-1].out: 0}
        for conv in reversed(self.convs):
            for value, radius in conv.reads().items():
                needed[value] = max(needed.get(value, 0), needed.get(conv.out, 0) + radius)
        return needed[0]

    def lower(self, graph: fx.GraphModule) -> None:
        modules = dict(graph.named_modules())
        values: dict[fx.Node, tuple[int, ...]] = {}  # a concatenation is several
        for node in graph.graph.nodes:
            if node in values:
                continue  # fused into the convolution before it
            if node.op == "placeholder":
                values[node] = (0,)
            elif node.op == "output":
                if not self.convs or values[node.args[0]] != (self.convs[-1].out,):
                    raise Unsupported("the result must be what the last convolution gives")
            elif node.target is torch.cat:
                values[node] = tuple(value for part in node.args[0] for value in values[part])
            elif node.op == "call_module" and isinstance(modules[str(node.target)], nn.Conv2d):
                self.lower_conv(node, modules, values)
            else:
                raise Unsupported(str(node.target))

    def lower_conv(self, node: fx.Node, modules: dict[str, nn.Module], values: dict[fx.Node, tuple[int, ...]]) -> None:
        layer = modules[str(node.target)]
        assert isinstance(layer, nn.Conv2d)
        inputs = values[node.args[0]]  # type: ignore[index]
        size = layer.kernel_size[0]
        same = layer.padding == (size // 2, size // 2) and layer.padding_mode == "zeros"
        if set(layer.stride + layer.dilation) != {1} or not same or layer.kernel_size != (size, size):
            raise Unsupported(str(layer))
        if len(inputs) > (1 if layer.groups > 1 else INPUTS):
            raise Unsupported("too many inputs")
        self.channels.setdefault(0, layer.in_channels)
        conv = Conv(layer, inputs, len(self.channels))
        self.channels[conv.out] = layer.out_channels
        last = node
        user = sole_user(last)
        if user is not None and user.target in (operator.add, torch.add):
            (other,) = [arg for arg in user.args if arg is not last]
            if isinstance(other, fx.Node) and len(values.get(other, ())) == 1:
                (conv.add,) = values[other]
                values[last], last = (conv.out,), user
                user = sole_user(last)
        if user is not None and (slope := slope_of(user, modules)) is not None:
            conv.slope = torch.as_tensor(slope, dtype=torch.float32).expand(layer.out_channels).contiguous()
            values[last], last = (conv.out,), user
        values[last] = (conv.out,)
        self.convs.append(conv)


def sole_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None
