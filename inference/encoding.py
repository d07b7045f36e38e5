"""An image encoded once, so that moving the knob takes neither the encoder nor the classifier again."""

import torch
from torch import Tensor

from inference.restore import Clock, Restored, Setting
from inference.restore_pcsr import Result, Worker, decide
from utils.resize import scaled_size


def held_bytes(worker: Worker, lr: Tensor, scale: float) -> int:
    """What a Knob of lr (1,3,h,w) holds on the worker's device, a little more than it is."""
    height, width = scaled_size(lr, scale)
    return 4 * (lr.shape[2] * lr.shape[3] * (3 + worker.tables) + height * width * (worker.upsamplers - 1))


class Knob:
    """One image, its first layers at every LR pixel and its log odds at every HR pixel.

    Whatever the setting, the pixels are those that inference.restore_pcsr.pcsr_restorer gives.
    """

    @torch.inference_mode()
    def __init__(self, worker: Worker, lr: Tensor, scale: float, bits: int = 8) -> None:
        """Encode lr (1,3,h,w) in [0,1]. Raises InputError for a scale below 1 and an output too large for a file."""
        clock = Clock(worker.device)
        (lr,) = worker.load(lr, scale)
        self.worker, self.scale, self.bits, self.lr_pixels = worker, scale, bits, lr.shape[2] * lr.shape[3]
        self.size = scaled_size(lr, scale)
        self.parts, outer = worker.parts(lr, scale)
        self.encoded = [worker.model.encode(lr, around) for around in outer]
        self.log_odds = torch.empty(1, worker.upsamplers - 1, *self.size, device=lr.device)
        for encoded in self.encoded:
            rows, cols = encoded.part.window(lr, self.size)
            self.log_odds[..., rows, cols] = worker.model.log_odds(encoded, self.size)
        self.seconds = clock.lap()  # what encoding took

    @property
    def nbytes(self) -> int:
        """What it holds, in bytes."""
        tables = [table for encoded in self.encoded for table in encoded.tables]
        return sum(tensor.nbytes for tensor in (*tables, self.encoded[0].lr, self.log_odds))

    @torch.inference_mode()
    def restore(self, setting: Setting, refinement: bool) -> Restored:
        """The image under one setting; `seconds` are of this alone, without the encoding.

        Raises InputError for a budget out of reach, and for k that is not a number.
        """
        clock = Clock(self.worker.device)
        result = Result(setting, self.size, self.bits)
        decided = decide(self.log_odds, setting, self.worker.account, self.scale)
        for part, encoded in zip(self.parts, self.encoded, strict=True):
            rows, cols = encoded.part.window(encoded.lr, self.size)
            self.worker.paint(result, part, encoded, decided[:, rows, cols].contiguous(), refinement)
        result.seconds = clock.lap()
        return result.restored(self.worker.account, self.lr_pixels)
