"""A PCSR model prepared for inference: the arithmetic of models/pcsr.py, faster and one tile at a time.

The steps of PCSR.forward have the same names here: encode, classify, upsample. The caller, inference/encoding.py,
decides and refines. BatchNorm is folded into the convolutions. The per-pixel MLPs run as compiled code, C++ on CPUs
(models/fast/pixels.py) and Triton on CUDA (models/fast/gpu.py), elsewhere in plain torch (models/fast/plain.py). On
CPUs the encoder's convolutions are compiled code too (models/fast/accelerate.py).

In half precision the encoder, the tables and the weights of the MLPs are float16 or bfloat16. The image, the log odds
and the sums of the results stay in float32. On CPUs that compute in float16 the compiled code does so too. Whatever
exceeds the range of float16 is recomputed in float32: a whole tile if its features do; if only values within an MLP
do, the pixels of a vector in compiled C++ and all pixels of that MLP elsewhere. Elsewhere the layers of an encoder are
torch's, where a value beyond the range may become a finite wrong one before it reaches the features.
"""

import copy
import functools
from collections.abc import Sequence
from ctypes import CDLL
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from models.fast.accelerate import accelerate, knows_half
from models.fast.build import has_half, load_kernels, tell_plain
from models.fast.fold import folded
from models.fast.pixels import CompiledRunner, bilinear_compiled
from models.fast.plain import TorchRunner
from models.grid import Grid, bilinear, grid_over
from models.halo import find_halo
from models.mlp import PixelMLP
from models.pcsr import PCSR
from models.tile import Halo, Tile, whole, with_halo
from utils.device import image_layout


class MLPRunner(Protocol):
    """One PixelMLP on one device."""

    table_channels: int  # of a table, for each pixel

    def table(self, feat: Tensor) -> Tensor | None:
        """feat (b,c,h,w) -> the feature part of the first layer, (b,...).

        None if the numbers exceed the range of their type. The caller then computes the features again in float32.
        """

    def add_to(self, planes: Tensor, table: Tensor, grid: Grid, w: int, assignment: Tensor | None, own: int) -> None:
        """Add the MLP's outputs to planes (n,H,W) where assignment (H,W) uint8 is `own`; everywhere if it is None.

        table belongs to one image, which is w LR pixels wide.
        """


class GuardedRunner:
    """A runner in float16, and one in float32 that replaces it where it exceeds the range of float16.

    CompiledRunner needs no such guard.
    """

    def __init__(self, half: MLPRunner, exact: MLPRunner) -> None:
        self.half, self.exact = half, exact
        self.table_channels = half.table_channels

    def table(self, feat: Tensor) -> Tensor | None:
        """See MLPRunner.table; of features in float32, a table in float32."""
        if feat.dtype != torch.float16:
            return self.exact.table(feat)
        table = self.half.table(feat)
        return table if table is not None and table.isfinite().all() else None

    def add_to(self, planes: Tensor, table: Tensor, grid: Grid, w: int, assignment: Tensor | None, own: int) -> None:
        """See MLPRunner.add_to."""
        if table.dtype == torch.float16:
            added = torch.zeros_like(planes)
            self.half.add_to(added, table, grid, w, assignment, own)
            if added.isfinite().all():
                planes += added
                return
        self.exact.add_to(planes, table.float(), grid, w, assignment, own)


class Encoded(NamedTuple):
    """A tile of an image, encoded once: any output size and any assignment can be restored from it."""

    lr: Tensor  # (b,3,h,w), the whole image
    tile: Tile
    tables: tuple[Tensor, ...]  # one per MLP (upsamplers light .. heavy, then classifier), see MLPRunner.table


class Engine:
    """A model for inference, without gradients; it does not follow later changes of the model.

    `size` = (H,W) is always that of the whole HR image. Results cover the HR pixels over the encoded tile.

    device and precision                        weights    per-pixel MLPs  beyond the range of float16
    CPU, float32                                float32    C++
    CPU, float16, with kernels (AVX512-FP16)    float32    C++             features: in float32; pixels: the kernel does
    CPU, other types, or without a compiler     that type  torch           features: in float32; pixels: GuardedRunner
    CUDA, any type but float64                  that type  Triton          as above
    """

    def __init__(self, model: PCSR, device: torch.device | None = None, precision: torch.dtype | None = None) -> None:
        """Without `device` and `precision`, those of the model are used."""
        self.device = device or model.mean.device
        self.precision = precision or model.mean.dtype
        self.flops = model.flops
        self.model = folded(model).to(self.device)
        if self.has_compiled():
            self.model.float()  # what the kernels read
        self.model.encoder.to(memory_format=image_layout(self.device))  # type: ignore[call-overload]
        self.upsampler_count = len(model.upsamplers)
        mlps = self.model.mlps()
        self.channels = mlps[0].in_channels  # channels of the features
        if model.classifier is not None:
            mlps[-1] = differences(mlps[-1])
        self.compiled: CDLL | None = load_kernels() if self.has_compiled() else None
        self.exact = self.model.encoder  # for tiles whose features exceed the range of float16: it takes float32
        if self.compiled is not None:
            accelerate(self.model.encoder)
        else:
            if self.precision == torch.float16:
                self.exact = copy.deepcopy(self.model.encoder).float()
            self.model.encoder.to(self.precision)
        self.runners = self.choose_runners(mlps)
        self.table_channels = sum(runner.table_channels for runner in self.runners)

    def has_compiled(self) -> bool:
        """Whether kernels in C++ exist for this device and precision; they read weights in float32."""
        if self.device.type != "cpu":
            return False
        return self.precision == torch.float32 or (self.precision == torch.float16 and has_half())

    def choose_runners(self, mlps: Sequence[PixelMLP]) -> list[MLPRunner]:
        if self.compiled is not None:
            return [CompiledRunner(mlp) for mlp in mlps]
        runners = self.runners_in(self.precision, mlps)
        if self.precision != torch.float16:
            return runners
        exact = self.runners_in(torch.float32, mlps)
        if type(exact[0]) is not type(runners[0]):  # Triton could compile one of them only; their tables differ
            runners, exact = torch_runners(torch.float16, mlps), torch_runners(torch.float32, mlps)
        return [GuardedRunner(*pair) for pair in zip(runners, exact, strict=True)]

    def runners_in(self, precision: torch.dtype, mlps: Sequence[PixelMLP]) -> list[MLPRunner]:
        """Runners that are not compiled C++, each with a copy of its MLP's weights."""
        if self.device.type == "cuda" and precision != torch.float64:
            return triton_runners([copy.deepcopy(mlp).to(precision) for mlp in mlps], self.model.mean)
        return torch_runners(precision, mlps)

    @functools.cached_property
    def halo(self) -> Halo | None:
        """The pixels that the encoder must see around a tile; None: the whole image."""
        return find_halo(self.model.encoder)

    @torch.inference_mode()
    def encode(self, lr: Tensor, tile: Tile | None = None) -> Encoded:
        """lr (b,3,h,w) in [0,1] -> the encoding of one tile, or of the whole image if no tile is given."""
        tile = tile or whole(lr)
        return self.project(lr, tile, self.features(lr, tile))

    @torch.inference_mode()
    def features(self, lr: Tensor, tile: Tile, precision: torch.dtype | None = None) -> Tensor:
        """feat (b,c,h,w) of a tile, as in the whole image, because the encoder sees the halo around the tile."""
        precision = precision or self.precision
        encoder = self.model.encoder if precision == self.precision else self.exact
        seen, inside = (lr, tile) if tile == whole(lr) else with_halo(lr, tile, self.halo)
        # compiled layers that know float32 alone are given that, whatever the precision
        takes = precision if self.compiled is None or knows_half(self.model.encoder) else torch.float32
        return encoder((seen - self.model.mean).to(takes))[..., inside.rows, inside.cols].to(precision)

    @torch.inference_mode()
    def project(self, lr: Tensor, tile: Tile, feat: Tensor) -> Encoded:
        """The feature part of every MLP's first layer; in float32 if features or tables exceed the range of float16."""
        tables = [runner.table(feat) for runner in self.runners]
        held = tuple(table for table in tables if table is not None)
        if len(held) < len(tables):
            return self.project(lr, tile, self.features(lr, tile, torch.float32))
        return Encoded(lr if self.compiled is None else lr.float(), tile, held)

    @torch.inference_mode()
    def classify(self, encoded: Encoded, size: tuple[int, int]) -> Tensor:
        """As PCSR.classify: log(prob_j / prob_0) of the upsamplers j = 1 .. M-1, (b,M-1,H,W) over the tile."""
        grid = grid_over(encoded.lr, size, self.model.cell_limits, encoded.tile)
        shape = (len(encoded.lr), self.upsampler_count - 1, len(grid.rows.index), len(grid.cols.index))
        log_odds = encoded.lr.new_zeros(shape)
        if self.upsampler_count > 1:
            self.add(log_odds, encoded, grid, self.upsampler_count)  # the classifier is the last of the MLPs
        return log_odds

    @torch.inference_mode()
    def upsample(self, encoded: Encoded, size: tuple[int, int], assignment: Tensor) -> Tensor:
        """sr (b,3,H,W) over the tile, not clamped; each pixel by the upsampler that assignment (b,H,W) names."""
        grid = grid_over(encoded.lr, size, self.model.cell_limits, encoded.tile)
        chosen = assignment.to(torch.uint8)
        sr = self.bilinear(encoded.lr, grid)
        for j in range(self.upsampler_count):
            self.add(sr, encoded, grid, j, chosen)
        return sr

    @torch.inference_mode()
    def interpolate(self, lr: Tensor, size: tuple[int, int], tile: Tile) -> Tensor:
        """bilinear(lr) over a tile of lr (b,3,h,w), to which the upsamplers would add, (b,3,R,C)."""
        return self.bilinear(lr, grid_over(lr, size, self.model.cell_limits, tile))

    def bilinear(self, lr: Tensor, grid: Grid) -> Tensor:
        """As models.grid.bilinear; runs compiled code where it exists."""
        return bilinear(lr, grid).contiguous() if self.compiled is None else bilinear_compiled(lr, grid)

    def add(self, planes: Tensor, encoded: Encoded, grid: Grid, index: int, assignment: Tensor | None = None) -> None:
        """Add the outputs of MLP `index` to planes (b,n,H,W), at the pixels whose assignment (b,H,W) is `index`."""
        width = encoded.tile.cols.stop - encoded.tile.cols.start
        for image, plane in enumerate(planes):
            chosen = None if assignment is None else assignment[image].contiguous()
            self.runners[index].add_to(plane, encoded.tables[index][image], grid, width, chosen, index)


def torch_runners(precision: torch.dtype, mlps: Sequence[PixelMLP]) -> list[MLPRunner]:
    """Runners of plain torch, each with a copy of its MLP's weights."""
    return [TorchRunner(copy.deepcopy(mlp).to(precision)) for mlp in mlps]


@functools.cache
def triton_runner() -> Any:
    """The class of the runners for CUDA. Raises ImportError without Triton, which comes with CUDA builds of torch."""
    from models.fast.gpu import TritonRunner  # noqa: PLC0415 - as above, and its import takes time

    return TritonRunner


def triton_runners(mlps: Sequence[PixelMLP], mean: Tensor) -> list[MLPRunner]:
    """Runners by Triton, compiled here; if that fails, those of plain torch, and a line on stderr."""
    try:
        runners = [triton_runner()(mlp) for mlp in mlps]
        lr = mean.new_zeros(1, 3, 8, 8)
        for runner, mlp in zip(runners, mlps, strict=True):
            feat = lr.new_zeros(1, mlp.in_channels, 8, 8, dtype=mlp.linears()[0].weight.dtype)
            table = runner.table(feat)[0]
            for assignment in (None, lr.new_zeros(8, 8, dtype=torch.uint8)):  # each needs a program of its own
                runner.add_to(lr.new_zeros(mlp.out_channels, 8, 8), table, grid_over(lr, (8, 8)), 8, assignment, 0)
        return runners
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no Triton, no C compiler for it, a GPU it does not know, too little shared memory
        tell_plain(str(error).strip().partition("\n")[0])
        return [TorchRunner(mlp) for mlp in mlps]


def differences(classifier: PixelMLP) -> PixelMLP:
    """The classifier, changed to give log odds: its logits minus that of the lightest upsampler."""
    classifier = copy.deepcopy(classifier)
    last = classifier.linears()[-1]
    with torch.no_grad():
        last.weight = nn.Parameter(last.weight[1:] - last.weight[:1], requires_grad=False)
        last.bias = nn.Parameter(last.bias[1:] - last.bias[:1], requires_grad=False)
    last.out_features = classifier.out_channels = len(last.bias)
    return classifier
