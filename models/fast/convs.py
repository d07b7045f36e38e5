"""Convolutions for the compiled kernel: how they are cut into stages, and the memory of what passes between them.

See convs.cpp for what a stage is.
"""

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models.tile import Tile, whole

INPUTS = 8  # of a step, as in convs.cpp
CACHE_BYTES = 1_000_000  # of a tile's rows: about what a core has to itself
UNIT = 3  # vectors: tiles with what they compute beyond are a multiple wide, so that the kernel has few odd ends
LEAST_WIDTH = 96  # a stage is made no longer than such a tile fits the cache


class Value(ctypes.Structure):
    """Where the rows of a value are; the same structs are in convs.cpp."""

    _fields_ = (("rows", ctypes.c_void_p), *((name, ctypes.c_int) for name in ("offset", "channels", "count", "pitch")))


class Step(ctypes.Structure):
    """One convolution."""

    _fields_ = (
        ("inputs", ctypes.c_int * INPUTS),
        *((name, ctypes.c_int) for name in ("count", "out", "add")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "slope")),
        *((name, ctypes.c_int) for name in ("groups", "cin", "cout", "k", "reach")),
    )


class StageTiles(ctypes.Structure):
    """The steps of a stage and its tiles."""

    _fields_ = tuple(
        (name, ctypes.c_int) for name in ("first", "end", "height", "width", "reach", "top", "left", "bottom", "right")
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

    def reads(self) -> dict[int, int]:
        """The values that a pixel of the result depends on, and from how far away."""
        radius = self.layer.kernel_size[0] // 2
        return ({} if self.add is None else {self.add: 0}) | dict.fromkeys(self.inputs, radius)

    def step(self, reach: int) -> Step:
        layer, weights = self.layer, (self.weight, self.bias, self.slope)
        return Step(
            (ctypes.c_int * INPUTS)(*self.inputs),
            len(self.inputs),
            self.out,
            -1 if self.add is None else self.add,
            *(None if tensor is None else tensor.data_ptr() for tensor in weights),
            layer.groups,
            layer.in_channels // layer.groups,
            layer.out_channels // layer.groups,
            layer.kernel_size[0],
            reach,
        )


class Stage:
    """Convolutions that advance together; `channels` per value, `planes` the values that later ones read."""

    def __init__(self, convs: Sequence[Conv], channels: dict[int, int], planes: set[int]) -> None:
        self.convs = convs
        own = {conv.out for conv in convs}
        self.reach = dict.fromkeys(own, 0)  # also of what is read: how far beyond the result's pixels
        for conv in reversed(convs):
            for value, radius in conv.reads().items():
                self.reach[value] = max(self.reach.get(value, 0), self.reach[conv.out] + radius)
        self.kept = dict.fromkeys(own - planes, 1)  # rows of what nothing else reads
        lowest = dict(self.reach)
        for conv in convs:
            for value, radius in conv.reads().items():
                lowest[value] = min(lowest[value], self.reach[conv.out] - radius)
        rows = {value: reach - lowest[value] + 1 for value, reach in self.reach.items()}  # between newest and oldest
        self.kept = {value: rows[value] for value in own - planes}
        self.floats = sum(count * channels[value] for value, count in rows.items())  # touched, per column
        # several tiles compute what reaches beyond them: it must stay theirs
        self.sound = not any(self.reach[value] for value in own & planes)
        self.far = max(self.reach[value] for value in own)
        self.beyond = 0  # the region that later stages read around the one that is asked for


def into_stages(convs: Sequence[Conv], channels: dict[int, int]) -> Iterator[Stage]:
    """The convolutions in stages, each as long as the cache allows."""
    start = 0
    while start < len(convs):
        for stop in range(start + 1, len(convs) + 1):
            planes = {value for conv in convs[stop:] for value in conv.reads()}
            stage = Stage(convs[start:stop], channels, planes)
            if stop > start + 1 and 4 * LEAST_WIDTH * stage.floats > CACHE_BYTES:
                break
            if stage.sound:
                best = stage
        yield best
        start += len(best.convs)


class Runner:
    """Runs convolutions on one image after the other; value 0 is the image, the last one's is the result."""

    def __init__(self, convs: Sequence[Conv], channels: dict[int, int], compiled: ctypes.CDLL) -> None:
        self.channels, self.compiled = channels, compiled
        self.stages = list(into_stages(convs, channels))
        self.result = convs[-1].out
        self.lanes = compiled.lanes()
        needed: dict[int, int] = {}
        for stage in reversed(self.stages):
            stage.beyond = max((needed.get(conv.out, 0) for conv in stage.convs), default=0)
            for value, reach in stage.reach.items():
                needed[value] = max(needed.get(value, 0), stage.beyond + reach)
        self.halo = needed[0]

    def places(self) -> dict[int, int]:
        """Which piece of memory each plane lies in; one is used again when its value is not needed any more."""
        last = {value: i for i, stage in enumerate(self.stages) for value in stage.reach}
        place, count = {0: 0}, 1
        free: list[tuple[int, int]] = []  # place, channels
        for i, stage in enumerate(self.stages):
            for value in [conv.out for conv in stage.convs if conv.out not in stage.kept]:
                same = [spot for spot, channels in free if channels == self.channels[value]]
                place[value] = same[0] if same else count
                if same:
                    free.remove((same[0], self.channels[value]))
                count += not same
            free += [(place[value], self.channels[value]) for value in place if last[value] == i]
        return place

    def tiles(self, stage: Stage, first: int, seen: torch.Size, inside: Tile) -> StageTiles:
        """The tiles of a stage whose steps begin with `first`; `inside` are the pixels asked for of those seen."""

        def region(wanted: slice, n: int) -> tuple[int, int]:
            return max(wanted.start - stage.beyond, 0), min(wanted.stop + stage.beyond, n)

        top, bottom = region(inside.rows, seen[2])
        left, right = region(inside.cols, seen[3])
        unit = UNIT * self.lanes
        fits = max(CACHE_BYTES // (4 * stage.floats * unit), 1 + 2 * stage.far // unit) * unit - 2 * stage.far
        width = min(fits, right - left)
        across, threads = -(-(right - left) // width), torch.get_num_threads()

        def rows_of_busiest(height: int) -> int:
            return -(-across * -(-(bottom - top) // height) // threads) * (height + stage.far)

        height = min(range(8, max(bottom - top, 8) + 8, 8), key=rows_of_busiest)
        return StageTiles(first, first + len(stage.convs), height, width, stage.far, top, left, bottom, right)

    def padded(self, width: int) -> int:
        return -(-width // self.lanes) * self.lanes

    def __call__(self, images: Tensor, inside: Tile | None = None) -> Tensor:
        """images (b,3,h,w) float32 on the CPU -> feat (b,c,..), channels-last, of all pixels or those `inside`.

        They depend on `halo` pixels around them: what else there is of the image.
        """
        batch, _, h, w = images.shape
        inside = inside or whole(images)
        lanes = self.lanes
        pitch = lanes + self.padded(w) + lanes
        place = self.places()
        channels = {spot: self.channels[value] for value, spot in place.items()}
        planes = {spot: torch.empty(h, count, pitch) for spot, count in channels.items()}
        planes[0].zero_()
        values = (Value * len(self.channels))()
        for value, spot in place.items():
            values[value] = Value(planes[spot].data_ptr(), 0, channels[spot], h, pitch)
        steps: list[Step] = []
        tiles: list[StageTiles] = []
        largest = 0
        for stage in self.stages:
            tiles.append(self.tiles(stage, len(steps), images.shape, inside))
            steps += [conv.step(stage.reach[conv.out]) for conv in stage.convs]
            offset, inner = 0, lanes + self.padded(tiles[-1].width + 2 * stage.far) + lanes
            for value, count in stage.kept.items():
                values[value] = Value(None, offset, self.channels[value], count, inner)
                offset += count * self.channels[value] * inner
            largest = max(largest, offset)
        steps.append(Step((ctypes.c_int * INPUTS)(self.result), 1))  # no groups: it is given out
        tiles[-1].end += 1
        zeros = torch.zeros(max(self.channels.values()), max(value.pitch for value in values))
        rows, cols = (wanted.stop - wanted.start for wanted in inside)
        feat = torch.empty(batch, rows, cols, self.channels[self.result])
        for image, out in zip(images, feat, strict=True):
            planes[0][..., lanes : lanes + w] = image.transpose(0, 1)
            self.compiled.convolve(
                values,
                (Step * len(steps))(*steps),
                (StageTiles * len(tiles))(*tiles),
                len(tiles),
                *map(ctypes.c_void_p, (zeros.data_ptr(), out.data_ptr())),
                *(h, w, largest, torch.get_num_threads()),
            )
        return feat.permute(0, 3, 1, 2)
