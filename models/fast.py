"""A PCSR model prepared for inference: the same numbers, sooner.

BatchNorm is folded into the convolutions; on CPUs the per-pixel MLPs run as compiled code (models/kernel.py).
"""

from collections.abc import Callable
from ctypes import CDLL

import torch
from torch import Tensor, nn

from models.convs import Runner
from models.fold import folded
from models.kernel import PixelKernel, load_kernels
from models.pcsr import PCSR, Encoded, Pixels, bilinear
from models.program import Program, Unsupported


def prepare(model: PCSR) -> PCSR:
    """A copy of a trained model for inference, with the same methods; later changes of the model do not reach it."""
    device, dtype = model.mean.device, model.mean.dtype
    compiled = load_kernels() if (device.type, dtype) == ("cpu", torch.float32) else None
    parts = folded(model)
    assert isinstance(parts, PCSR)
    parts.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if compiled is None:
        return parts
    return FastPCSR(parts, runner(parts.encoder, compiled), [PixelKernel(mlp, compiled) for mlp in parts.mlps()])


def runner(encoder: nn.Module, compiled: CDLL) -> Callable[[Tensor], Tensor]:
    """The encoder as a compiled program, or itself if it cannot be one."""
    try:
        program = Program(encoder)
    except Unsupported:
        return encoder
    return Runner(program.convs, program.channels, compiled)


class FastPCSR(PCSR):
    """PCSR whose MLPs are kernels; for inference on CPUs, without gradients."""

    def __init__(self, model: PCSR, run: Callable[[Tensor], Tensor], kernels: list[PixelKernel]) -> None:
        nn.Module.__init__(self)
        self.encoder, self.upsamplers, self.classifier = model.encoder, model.upsamplers, model.classifier
        self.register_buffer("mean", model.mean)
        self.run_encoder = run
        self.kernels = kernels
        self.eval()

    def encode(self, lr: Tensor) -> Encoded:
        feat = self.run_encoder(lr - self.mean)  # (b,c,h,w)
        return Encoded(lr, tuple(kernel.table(feat) for kernel in self.kernels))

    def logits(self, encoded: Encoded, size: tuple[int, int]) -> Tensor:
        return self._planes(encoded, size).permute(0, 2, 3, 1)

    def classify(self, encoded: Encoded, size: tuple[int, int]) -> Tensor:
        return self._planes(encoded, size).softmax(1)

    def upsample_with(self, encoded: Encoded, size: tuple[int, int], index: int) -> Tensor:
        sr = bilinear(encoded.lr, size).contiguous()
        self._add(sr, encoded, range(len(self.upsamplers))[index])
        return sr

    def upsample(self, encoded: Encoded, size: tuple[int, int], assignment: Tensor) -> Tensor:
        sr = bilinear(encoded.lr, size).contiguous()
        for j in range(len(self.upsamplers)):
            self._add(sr, encoded, j, assignment.to(torch.uint8))
        return sr

    def _planes(self, encoded: Encoded, size: tuple[int, int]) -> Tensor:
        """Classifier output (b,M,H,W)."""
        logits = torch.zeros(len(encoded.lr), len(self.upsamplers), *size)
        self._add(logits, encoded, len(self.upsamplers))
        return logits

    def _add(self, planes: Tensor, encoded: Encoded, index: int, assignment: Tensor | None = None) -> None:
        """Add what MLP `index` gives to planes (b,n,H,W), at the pixels of assignment (b,H,W) that chose it."""
        pixels = Pixels(encoded.lr, (planes.shape[2], planes.shape[3]))
        for image, plane in enumerate(planes):
            chosen = None if assignment is None else assignment[image].contiguous()
            table = encoded.tables[index][image]
            self.kernels[index].add_to(plane, table, pixels.rows, pixels.cols, pixels.w, chosen, index)
