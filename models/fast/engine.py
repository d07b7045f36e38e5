"""A PCSR model prepared for inference: the same numbers, sooner.

BatchNorm is folded into the convolutions; the per-pixel MLPs run as compiled code, C++ on CPUs (models/fast/kernel.py)
and Triton on CUDA (models/fast/gpu.py), on CPUs the encoder too (models/fast/convs.py).
"""

import copy
import sys
from collections.abc import Callable
from ctypes import CDLL
from typing import Protocol

import torch
from torch import Tensor, nn

from models.fast.convs import Runner
from models.fast.fold import folded
from models.fast.kernel import PixelKernel, enlarge, load_kernels
from models.fast.program import Program, Unsupported
from models.grid import Axis
from models.mlp import PixelMLP
from models.pcsr import PCSR, Encoded, Pixels, bilinear
from models.tile import Part, whole, with_halo


def prepare(model: PCSR) -> PCSR:
    """A copy of a trained model for inference, with the same methods; later changes of the model do not reach it."""
    device, dtype = model.mean.device, model.mean.dtype
    parts = folded(model)
    assert isinstance(parts, PCSR)
    parts.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "cuda" and dtype != torch.float64:
        return with_triton(parts)
    compiled = load_kernels() if (device.type, dtype) == ("cpu", torch.float32) else None
    if compiled is None:
        return parts
    return FastPCSR(parts, lambda mlp: PixelKernel(mlp, compiled), compiled)


def with_triton(model: PCSR) -> PCSR:
    """A folded model with Triton kernels, compiled here; itself, and a line on stderr, if that fails."""
    try:
        from models.fast.gpu import TritonKernel  # noqa: PLC0415 - Triton comes with the CUDA builds of torch only

        fast = FastPCSR(model, TritonKernel)
        encoded = fast.encode(model.mean.new_zeros(1, 3, 8, 8))
        for j in range(len(model.upsamplers)):
            fast.upsample(encoded, (8, 8), torch.full((1, 8, 8), j, dtype=torch.uint8, device=model.mean.device))
        fast.log_odds(encoded, (8, 8))
        return fast
    except Exception as error:  # no Triton, no C compiler for it, a GPU it does not know, too little shared memory
        reason = str(error).strip().partition("\n")[0]
        print(f"the kernels were not built, plain torch is used instead, which is slower: {reason}", file=sys.stderr)
        return model


class Kernel(Protocol):
    """One PixelMLP on one device, see PixelKernel."""

    def table(self, feat: Tensor) -> Tensor: ...

    def add_to(
        self, planes: Tensor, table: Tensor, rows: Axis, cols: Axis, w: int, assignment: Tensor | None, own: int
    ) -> None: ...


class FastPCSR(PCSR):
    """PCSR whose MLPs are kernels, on CPUs the encoder too; for inference, without gradients."""

    def __init__(self, model: PCSR, kernel: Callable[[PixelMLP], Kernel], compiled: CDLL | None = None) -> None:
        nn.Module.__init__(self)
        self.encoder, self.upsamplers, self.classifier = model.encoder, model.upsamplers, model.classifier
        self.register_buffer("mean", model.mean)
        self.compiled = compiled
        self.run_encoder = None if compiled is None else runner(model.encoder, compiled)
        mlps = model.mlps()
        if model.classifier is not None:
            mlps[-1] = differences(mlps[-1])
        self.kernels = [kernel(mlp) for mlp in mlps]
        self.eval()

    def features(self, lr: Tensor, part: Part) -> Tensor:
        if self.run_encoder is None:
            return super().features(lr, part)
        seen, inside = with_halo(lr, part, 0 if part == whole(lr) else self.halo)
        return self.run_encoder(seen - self.mean, inside)

    def project(self, lr: Tensor, part: Part, feat: Tensor) -> Encoded:
        return Encoded(lr, part, tuple(kernel.table(feat) for kernel in self.kernels))

    def log_odds(self, encoded: Encoded, size: tuple[int, int]) -> Tensor:
        pixels = Pixels(encoded, size)
        log_odds = encoded.lr.new_zeros(pixels.batch, len(self.upsamplers) - 1, *pixels.size)
        if self.classifier is not None:
            self._add(log_odds, encoded, pixels, len(self.upsamplers))
        return log_odds

    def upsample_with(self, encoded: Encoded, size: tuple[int, int], index: int) -> Tensor:
        pixels = Pixels(encoded, size)
        sr = self._residual(encoded, size)
        self._add(sr, encoded, pixels, range(len(self.upsamplers))[index])
        return sr

    def upsample(self, encoded: Encoded, size: tuple[int, int], assignment: Tensor) -> Tensor:
        pixels = Pixels(encoded, size)
        sr = self._residual(encoded, size)
        chosen = assignment.to(torch.uint8)
        for j in range(len(self.upsamplers)):
            self._add(sr, encoded, pixels, j, chosen)
        return sr

    def _residual(self, encoded: Encoded, size: tuple[int, int]) -> Tensor:
        if self.compiled is None:
            return bilinear(encoded.lr, size, encoded.part).contiguous()
        return enlarge(encoded.lr, size, encoded.part, self.compiled)

    def _add(
        self, planes: Tensor, encoded: Encoded, pixels: Pixels, index: int, assignment: Tensor | None = None
    ) -> None:
        """Add what MLP `index` gives to planes (b,n,H,W), at the pixels of assignment (b,H,W) that chose it."""
        for image, plane in enumerate(planes):
            chosen = None if assignment is None else assignment[image].contiguous()
            table = encoded.tables[index][image]
            self.kernels[index].add_to(plane, table, pixels.rows, pixels.cols, pixels.w, chosen, index)


def runner(encoder: nn.Module, compiled: CDLL) -> Runner | None:
    """The encoder as compiled code, None if it cannot be that."""
    try:
        program = Program(encoder)
    except Unsupported:
        return None
    return Runner(program.convs, program.channels, compiled)


def differences(classifier: PixelMLP) -> PixelMLP:
    """The classifier with its logits minus that of the lightest upsampler: all that decisions need."""
    classifier = copy.deepcopy(classifier)
    last = classifier.linears()[-1]
    with torch.no_grad():
        last.weight = nn.Parameter(last.weight[1:] - last.weight[:1], requires_grad=False)
        last.bias = nn.Parameter(last.bias[1:] - last.bias[:1], requires_grad=False)
    last.out_features = classifier.out_channels = len(last.bias)
    return classifier
