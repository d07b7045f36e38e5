"""An image encoded by a PCSR model, from which it is restored under any number of settings.

`Encoding` serves whole images and images in tiles, files, the web page and the `Upscaler` alike.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from inference.finish import canvas, finish
from inference.restore import Clock, Restored, hr_size
from inference.tiles import MAPS, TilePlan, allowance
from models.decide import decide
from models.fast.engine import Encoded, Engine
from models.flops import PCSRFlops
from models.setting import Setting
from models.tile import Tile

HR_FLOATS = 10  # per HR pixel: log odds, sr, and what refinement needs of it


class Result:
    """What one setting makes of one image, as it grows tile by tile."""

    def __init__(self, setting: Setting, size: tuple[int, int], bits: int) -> None:
        self.setting, self.size = setting, size
        self.pixels = canvas(*size, bits)
        self.assignment = np.empty(size, np.uint8)
        self.counts: Counter[int] = Counter()  # HR pixels per upsampler
        self.seconds = 0.0

    def paint(self, engine: Engine, encoded: Encoded, assignment: Tensor, tile: Tile) -> None:
        """Write one tile. `encoded` covers the tile and the pixels around it, assignment (1,R,C) their HR pixels."""
        rows, cols = tile.window(encoded.lr, self.size)
        inside = Tile(rows, cols).within(encoded.tile.window(encoded.lr, self.size))
        sr = engine.upsample(encoded, self.size, assignment)
        finish(sr, assignment if self.setting.refinement else None, inside, self.pixels[rows, cols])
        self.count(assignment[:, inside.rows, inside.cols], engine.upsampler_count)
        self.assignment[rows, cols] = assignment[0, inside.rows, inside.cols].cpu().numpy()

    def count(self, assignment: Tensor, upsamplers: int) -> None:
        self.counts.update({j: int(torch.count_nonzero(assignment == j)) for j in range(upsamplers)})

    def restored(self, account: PCSRFlops, lr_pixels: int, shared_seconds: float) -> Restored:
        upsamplers = len(account.upsamplers)
        counts = [self.counts[j] for j in range(upsamplers)]
        flops = account.total(lr_pixels, counts)
        heavy = account.total(lr_pixels, [0] * (upsamplers - 1) + [sum(counts)])
        share, seconds = counts[-1] / sum(counts), shared_seconds + self.seconds
        return Restored(str(self.setting), self.pixels, self.assignment, upsamplers, share, flops, heavy, seconds)


class Encoding:
    """One image at one scale. With `keep` it is encoded now and its features stay, so that the knob can be moved."""

    def __init__(
        self,
        engine: Engine,
        lr: Tensor,
        scale: float,
        bits: int = 8,
        plan: TilePlan | None = None,
        keep: bool = True,
    ) -> None:
        """lr (1,3,h,w) in [0,1]; results have 8 or 16 bits. Raises InputError for an output too large for a file."""
        self.size = hr_size(lr, scale)
        self.engine, self.lr, self.scale, self.bits = engine, lr.to(engine.device), scale, bits
        self.plan = plan or TilePlan()
        self.tiles = self.plan.cut(self.lr, engine, pixel_bytes(engine, scale))
        self.feats: list[Tensor | None] = [None] * len(self.tiles)
        self.log_odds: Tensor | None = None  # (1,M-1,H,W), once all tiles have been looked at
        clock = Clock(engine.device)
        if keep:
            self.look(keep=True)
        self.seconds = clock.lap()  # what encoding took

    def look(self, keep: bool) -> None:
        """Find the log odds of the whole image, tile by tile, and keep the features if asked."""
        self.log_odds = torch.empty(1, self.engine.upsampler_count - 1, *self.size, device=self.lr.device)
        with self.plan.bar(len(self.tiles)) as bar:
            for i, tile in enumerate(self.tiles):
                around = self.around(tile)
                feat = self.engine.features(self.lr, around)
                rows, cols = around.window(self.lr, self.size)
                encoded = self.engine.project(self.lr, around, feat)
                self.log_odds[..., rows, cols] = self.engine.classify(encoded, self.size)
                self.feats[i] = feat if keep else None
                bar.update()

    def around(self, tile: Tile) -> Tile:
        """A tile with the pixels around it that refinement reads."""
        return tile.grown(self.lr, 1)

    def encode(self, index: int) -> Encoded:
        """Tile `index` with the pixels around it, from its features if they were kept."""
        around, feat = self.around(self.tiles[index]), self.feats[index]
        return self.engine.project(self.lr, around, self.engine.features(self.lr, around) if feat is None else feat)

    @torch.inference_mode()
    def restore(self, settings: Sequence[Setting]) -> list[Restored]:
        """The image under several settings; `seconds` hold what this call took, and not the encoding that was kept.

        Raises InputError for a budget that cannot be met.
        """
        engine, clock = self.engine, Clock(self.engine.device)
        results = [Result(setting, self.size, self.bits) for setting in settings]
        # these rules need the log odds of all tiles before the first pixel
        see_all = any(setting.rule in ("adaptive", "budget") for setting in settings)
        if self.log_odds is None and see_all and len(self.tiles) > 1:
            self.look(keep=4 * engine.channels * self.lr.shape[2] * self.lr.shape[3] <= allowance(engine.device))
        shared = clock.lap()
        decided: dict[Setting, Tensor] = {}
        if self.log_odds is not None:
            for result in results:
                decided[result.setting] = decide(self.log_odds, result.setting, engine.account)
                result.seconds += clock.lap()
        with self.plan.bar(len(self.tiles)) as bar:
            for i, tile in enumerate(self.tiles):
                encoded = self.encode(i)
                log_odds = engine.classify(encoded, self.size) if self.log_odds is None else None
                shared += clock.lap()
                rows, cols = encoded.tile.window(self.lr, self.size)
                for result in results:
                    if log_odds is None:
                        assignment = decided[result.setting][:, rows, cols].contiguous()
                    else:
                        assignment = decide(log_odds, result.setting, engine.account)
                    result.paint(engine, encoded, assignment, tile)
                    result.seconds += clock.lap()
                del encoded, log_odds, assignment  # before the next tile takes its memory
                bar.update()
        return [result.restored(engine.account, self.lr.shape[2] * self.lr.shape[3], shared) for result in results]

    @property
    def nbytes(self) -> int:
        """What it holds, in bytes."""
        held = [tensor for tensor in (*self.feats, self.lr, self.log_odds) if tensor is not None]
        return sum(tensor.nbytes for tensor in held)


def pixel_bytes(engine: Engine, scale: float) -> float:
    """Bytes that one LR pixel takes while the engine works on it."""
    on_lr = engine.precision.itemsize * (MAPS * engine.channels + engine.table_channels)
    return on_lr + 4 * HR_FLOATS * scale**2


def held_bytes(engine: Engine, lr: Tensor, scale: float) -> int:
    """Bytes that an Encoding of lr (1,3,h,w) keeps, but for the few pixels that its tiles share."""
    height, width = hr_size(lr, scale)
    return 4 * (lr.shape[2] * lr.shape[3] * (3 + engine.channels) + height * width * (engine.upsampler_count - 1))
