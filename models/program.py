"""An encoder as a list of convolutions for the compiled kernel (convs.cpp): traced, fused, laid out.

What is traced are the modules themselves, so that a backbone is written once; one that holds anything but convolutions
of stride 1, rectifiers, sums and concatenations of channels has no program and runs as it is.
"""

import ctypes
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

INPUTS = 8  # of a step, as in convs.cpp
BAND_BYTES = 1 << 30  # of the values in between: larger images go through in bands of rows


class Step(ctypes.Structure):
    """One convolution; the same struct is in convs.cpp."""

    _fields_ = (
        ("inputs", ctypes.c_void_p * INPUTS),
        ("channels", ctypes.c_int * INPUTS),
        ("count", ctypes.c_int),
        ("out", ctypes.c_void_p),
        ("add", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("slope", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("groups", "cin", "cout", "k")),
    )


@dataclass
class Conv:
    """A convolution, the sum and the rectifier behind it; values are numbered, several inputs are side by side."""

    layer: nn.Conv2d
    inputs: tuple[int, ...]
    out: int
    add: int | None = None
    slope: Tensor | None = None  # per output channel
    weight: Tensor = field(init=False)
    bias: Tensor = field(init=False)

    def __post_init__(self) -> None:
        layer, weight = self.layer, self.layer.weight.detach()
        outputs = layer.out_channels // layer.groups
        self.weight = weight.reshape(layer.groups, outputs, -1).transpose(1, 2).contiguous()  # (groups, taps, cout)
        self.bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias.detach().contiguous()


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
    """Runs an encoder's convolutions on one image after the other. Raises Unsupported if it cannot be expressed."""

    def __init__(self, encoder: nn.Module, compiled: ctypes.CDLL) -> None:
        self.compiled = compiled
        self.convs: list[Conv] = []
        self.channels: dict[int, int] = {}
        graph = fx.symbolic_trace(encoder)
        for node in list(graph.graph.nodes):
            if node.op == "call_module" and isinstance(graph.get_submodule(str(node.target)), nn.Identity):
                node.replace_all_uses_with(node.args[0])
                graph.graph.erase_node(node)
        self.lower(graph)
        self.margin = max(conv.layer.kernel_size[0] // 2 for conv in self.convs)

    def lower(self, graph: fx.GraphModule) -> None:
        modules = dict(graph.named_modules())
        values: dict[fx.Node, tuple[int, ...]] = {}  # a concatenation is several
        for node in graph.graph.nodes:
            if node in values:
                continue  # fused into the convolution before it
            if node.op == "placeholder":
                values[node] = (0,)
            elif node.op == "output":
                (self.result,) = values[node.args[0]]
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

    def buffers(self) -> dict[int, int]:
        """Which piece of memory each value lies in; one is used again when its value is not needed any more."""
        last_use = {
            value: i for i, conv in enumerate(self.convs) for value in (*conv.inputs, conv.add) if value is not None
        }
        last_use[self.result] = len(self.convs)
        place, count = {0: 0}, 1
        free: list[tuple[int, int]] = []  # place, channels
        for i, conv in enumerate(self.convs):
            same = [spot for spot, channels in free if channels == self.channels[conv.out]]
            if same:
                place[conv.out] = same[0]
                free.remove((same[0], self.channels[conv.out]))
            else:
                place[conv.out] = count
                count += 1
            free += [(place[value], self.channels[value]) for value in place if last_use[value] == i]
        return place

    def halo(self) -> int:
        """How many rows away an input pixel can still matter to a pixel of the result."""
        reach = {0: 0}
        for conv in self.convs:
            behind = max(reach[value] for value in conv.inputs) + conv.layer.kernel_size[0] // 2
            reach[conv.out] = behind if conv.add is None else max(behind, reach[conv.add])
        return reach[self.result]

    def __call__(self, images: Tensor) -> Tensor:
        """images (b,3,h,w) float32 on the CPU -> feat (b,c,h,w), channels-last."""
        batch, _, h, w = images.shape
        lanes, margin, halo = self.compiled.lanes(), self.margin, self.halo()
        pitch = lanes + -(-w // lanes) * lanes + lanes
        place = self.buffers()
        channels = {spot: self.channels[value] for value, spot in place.items()}
        rows = min(h, max(BAND_BYTES // (4 * pitch * sum(channels.values())), 4 * halo + 16))
        memory = {spot: torch.empty(rows + 2 * margin, count, pitch) for spot, count in channels.items()}
        for room in memory.values():
            for border in (room[:margin], room[margin + rows :], room[..., :lanes], room[..., lanes + w :]):
                border.zero_()
        steps = (Step * len(self.convs))(*(self.step(conv, place, memory) for conv in self.convs))
        inside = (slice(margin, margin + rows), slice(None), slice(lanes, lanes + w))
        feat = torch.empty(batch, h, w, self.channels[self.result])
        for image, out in zip(images, feat, strict=True):
            for top, start, end in bands(h, rows, halo):
                memory[place[0]][inside] = image[:, top : top + rows].transpose(0, 1)
                self.compiled.convolve(steps, len(steps), rows, w, pitch, margin, torch.get_num_threads())
                result = memory[place[self.result]][inside].transpose(1, 2)
                out[start:end] = result[start - top : end - top]
        return feat.permute(0, 3, 1, 2)

    def step(self, conv: Conv, place: dict[int, int], memory: dict[int, Tensor]) -> Step:
        def at(value: int) -> int:
            return memory[place[value]].data_ptr()

        layer, count = conv.layer, len(conv.inputs)
        return Step(
            (ctypes.c_void_p * INPUTS)(*map(at, conv.inputs)),
            (ctypes.c_int * INPUTS)(*(self.channels[value] for value in conv.inputs)),
            count,
            at(conv.out),
            None if conv.add is None else at(conv.add),
            conv.weight.data_ptr(),
            conv.bias.data_ptr(),
            None if conv.slope is None else conv.slope.data_ptr(),
            layer.groups,
            layer.in_channels // layer.groups,
            layer.out_channels // layer.groups,
            layer.kernel_size[0],
        )


def bands(h: int, rows: int, halo: int) -> Iterator[tuple[int, int, int]]:
    """Cut h rows into bands of `rows`: where each begins, and which of its rows come out as those of the whole."""
    start = 0
    while start < h:
        top = min(max(start - halo, 0), h - rows)
        end = h if top + rows == h else top + rows - halo
        yield top, start, end
        start = end


def sole_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None
