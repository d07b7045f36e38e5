"""An image encoded by a PCSR model, from which it is restored under any number of settings.

`Encoding` serves whole images and images in tiles, files, the web page and the `Upscaler` alike.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from inference.finish import canvas, finish
from inference.flat import budget_left, divide, undivided
from inference.precision import dtype_of, name_of
from inference.restore import Clock, Restored, hr_size
from inference.tiles import MAPS, TilePlan, allowance, until_it_fits
from models.decide import LARGE, check_budget, decide
from models.fast.engine import Encoded, Engine
from models.flops import PCSRFlops
from models.setting import Setting
from models.tile import Tile, whole
from utils.device import give_back
from utils.errors import InputError

HR_FLOATS = 10  # numbers that are held per HR pixel: the log odds, sr, and while refining the means of sr and masks


class ResultInProgress:
    """What one setting makes of one image, painted tile by tile; `restored` is the finished result."""

    def __init__(self, setting: Setting, size: tuple[int, int], bits: int) -> None:
        self.setting, self.size = setting, size
        self.pixels = canvas(*size, bits)
        self.assignment = np.empty(size, np.uint8)
        self.counts: Counter[int] = Counter()  # HR pixels per upsampler
        self.interpolated = 0  # HR pixels
        self.seconds = 0.0

    def paint(self, engine: Engine, encoded: Encoded, assignment: Tensor, tile: Tile) -> None:
        """Write one tile. `encoded` covers the tile and the pixels around it, assignment (1,R,C) their HR pixels."""
        rows, cols = tile.window(encoded.lr, self.size)
        inside = Tile(rows, cols).within(encoded.tile.window(encoded.lr, self.size))
        sr = engine.upsample(encoded, self.size, assignment)
        finish(sr, assignment if self.setting.refinement else None, inside, self.pixels[rows, cols])
        self.count(assignment[:, inside.rows, inside.cols], engine.upsampler_count)
        self.assignment[rows, cols] = assignment[0, inside.rows, inside.cols].cpu().numpy()

    def interpolate(self, sr: Tensor, tile: Tile) -> None:
        """Write sr (1,3,R,C), a tile of HR pixels that no network computes. In the assignment they are light."""
        finish(sr, None, whole(sr), self.pixels[tile.rows, tile.cols])
        self.assignment[tile.rows, tile.cols] = 0
        self.interpolated += sr.shape[2] * sr.shape[3]

    def count(self, assignment: Tensor, upsamplers: int) -> None:
        self.counts.update({j: int(torch.count_nonzero(assignment == j)) for j in range(upsamplers)})

    def restored(self, flops: PCSRFlops, lr_pixels: int, seen: int, shared_seconds: float) -> Restored:
        """Of an image of `lr_pixels`, of which the encoder saw `seen`."""
        upsamplers = len(flops.upsamplers)
        counts = [self.counts[j] for j in range(upsamplers)]
        pixels = sum(counts) + self.interpolated
        heavy = flops.total(lr_pixels, [0] * (upsamplers - 1) + [pixels])
        share, seconds = counts[-1] / pixels, shared_seconds + self.seconds
        spent = flops.total(seen, counts)
        return Restored(str(self.setting), self.pixels, self.assignment, upsamplers, share, spent, heavy, seconds)


class Encoding:
    """One image at one scale. With `keep` it is encoded now and its features stay, so that the knob can be moved.

    Whenever a GPU's memory does not suffice, the work begins again with smaller tiles.
    """

    def __init__(
        self, engine: Engine, lr: Tensor, scale: float, bits: int = 8, plan: TilePlan | None = None, keep: bool = True
    ) -> None:
        """lr (1,3,h,w) in [0,1]; results have 8 or 16 bits. Raises InputError for an output too large for a file."""
        self.size = hr_size(lr, scale)
        self.engine, self.scale, self.bits, self.keep = engine, scale, bits, keep
        self.lr = lr.to(engine.device).contiguous()  # now, or the kernels would copy it for every tile
        until_it_fits(plan or TilePlan(), self.begin)

    def begin(self, plan: TilePlan) -> None:
        """Cut the image into tiles and, with `keep`, encode it."""
        self.log_odds: Tensor | None = None  # (1,M-1,H,W)
        self.feats: list[Tensor | None] = []  # one per tile; emptied before the free memory decides how tiles are cut
        halo = self.engine.halo if plan.skip_flat else None  # before the clock starts, as finding it takes time
        clock = Clock(self.engine.device)
        self.plan = plan
        self.division = divide(self.lr, plan.skip_flat, halo) if plan.skip_flat else undivided(self.lr)
        dividing = clock.lap()
        self.tiles, self.flat = (self.cut(pieces) for pieces in (self.division.busy, self.division.flat))
        # refinement reads one pixel around a tile; the halo of the encoder comes on top of that
        self.around = [tile.grown(self.lr, 1) for tile in self.tiles]
        self.skipped = self.mask(self.flat) if self.flat else None
        clock.lap()  # cutting may find the halo, too
        if self.keep:
            self.log_odds, self.feats = self.classify_all(keep=True)
        self.seconds = dividing + clock.lap()  # what dividing and encoding took

    def cut(self, pieces: Sequence[Tile]) -> list[Tile]:
        """Rectangles of the image, cut into tiles that fit into the memory."""
        bytes_each, lr = pixel_bytes(self.engine, self.scale), self.lr
        cuts = [(piece, self.plan.cut(lr[..., piece.rows, piece.cols], self.engine, bytes_each)) for piece in pieces]
        return [tile.out_of(piece) for piece, tiles in cuts for tile in tiles]

    def mask(self, tiles: Sequence[Tile]) -> Tensor:
        """The HR pixels of tiles, (H,W) of bool."""
        mask = torch.zeros(self.size, dtype=torch.bool, device=self.lr.device)
        for tile in tiles:
            rows, cols = tile.window(self.lr, self.size)
            mask[rows, cols] = True
        return mask

    def classify_all(self, keep: bool) -> tuple[Tensor, list[Tensor | None]]:
        """The log odds of the whole image, found tile by tile, and the features of each tile, None without `keep`.

        What is skipped gets those of light pixels.
        """
        feats: list[Tensor | None] = []
        log_odds = torch.empty(
            *(1, self.engine.upsampler_count - 1, *self.size), dtype=torch.float32, device=self.lr.device
        )
        with self.plan.bar(len(self.tiles)) as bar:
            for around in self.around:
                feat = self.engine.features(self.lr, around)
                rows, cols = around.window(self.lr, self.size)
                encoded = self.engine.project(self.lr, around, feat)
                log_odds[..., rows, cols] = self.engine.classify(encoded, self.size)
                feats.append(feat if keep else None)
                bar.update()
        if self.skipped is not None:  # tiles reach one pixel into it
            log_odds.masked_fill_(self.skipped, -LARGE)
        return log_odds, feats

    @torch.inference_mode()
    def restore(self, settings: Sequence[Setting]) -> list[Restored]:
        """The image under several settings; `seconds` hold what this call took, without the encoding that was kept.

        Raises InputError for a setting of another scale or precision, and for a budget that cannot be met.
        """
        check_settings(self.engine, self.scale, settings)
        return until_it_fits(self.plan, partial(self.restore_tiles, settings))

    def decide_all(self, log_odds: Tensor, setting: Setting) -> Tensor:
        """The assignment (1,H,W) of the whole image from its log odds (1,M-1,H,W); what is skipped is light.

        Rules that depend on the image see the computed pixels only. Raises InputError for a budget that cannot be met
        without skipping: what an image allows does not depend on how flat it is.
        """
        flops = self.engine.flops
        if self.skipped is None or not setting.sees_whole_image or self.engine.upsampler_count == 1:
            return self.decide_tile(log_odds, setting, (slice(None), slice(None)))
        if setting.rule == "budget":
            check_budget(setting, flops)
        assignment, computed = torch.zeros_like(self.skipped, dtype=torch.uint8)[None], ~self.skipped
        if count := int(computed.count_nonzero()):
            if setting.rule == "budget":
                value = budget_left(setting.value, flops, self.scale, computed.numel(), count, self.division.seen)
                setting = replace(setting, value=value)
            assignment[:, computed] = decide(log_odds[..., computed][..., None], setting, flops)[..., 0]
        return assignment

    def decide_tile(self, log_odds: Tensor, setting: Setting, window: tuple[slice, slice]) -> Tensor:
        """The assignment (1,R,C) of a window of the image from its log odds (1,M-1,R,C); what is skipped is light."""
        assignment = decide(log_odds, setting, self.engine.flops)
        return assignment if self.skipped is None else assignment.masked_fill_(self.skipped[window], 0)

    def classified_first(self, settings: Sequence[Setting]) -> tuple[Tensor | None, list[Tensor | None]]:
        """The log odds of the whole image, and the features of each tile that are kept with them.

        None, and no features, if each tile can be decided by itself: no rule sees the whole image, or one tile is it.
        """
        one_by_one = not any(setting.sees_whole_image for setting in settings) or (
            len(self.tiles) == 1 and not self.flat
        )
        if self.log_odds is not None or one_by_one:
            return self.log_odds, self.feats
        held = feature_bytes(self.engine) * self.lr.shape[2] * self.lr.shape[3]
        return self.classify_all(keep=held <= allowance(self.engine.device))

    def restore_tiles(self, settings: Sequence[Setting], plan: TilePlan) -> list[Restored]:
        if plan != self.plan:
            self.begin(plan)
        engine, clock = self.engine, Clock(self.engine.device)
        results = [ResultInProgress(setting, self.size, self.bits) for setting in settings]
        all_odds, feats = self.classified_first(settings)
        shared = clock.lap()
        decided: dict[Setting, Tensor] = {}
        if all_odds is not None:
            for result in results:
                decided[result.setting] = self.decide_all(all_odds, result.setting)
                result.seconds += clock.lap()
        for tile in self.flat:
            sr = engine.interpolate(self.lr, self.size, tile)
            for result in results:
                result.interpolate(sr, tile.window(self.lr, self.size))
        shared += clock.lap()
        with self.plan.bar(len(self.tiles)) as bar:
            for i, (tile, around) in enumerate(zip(self.tiles, self.around, strict=True)):
                feat = feats[i] if feats else None
                encoded = engine.project(self.lr, around, engine.features(self.lr, around) if feat is None else feat)
                log_odds = engine.classify(encoded, self.size) if all_odds is None else None
                shared += clock.lap()
                rows, cols = window = around.window(self.lr, self.size)
                for result in results:
                    if log_odds is None:
                        assignment = decided[result.setting][:, rows, cols].contiguous()
                    else:
                        assignment = self.decide_tile(log_odds, result.setting, window)
                    result.paint(engine, encoded, assignment, tile)
                    result.seconds += clock.lap()
                del encoded, log_odds, assignment  # before the next tile takes its memory
                bar.update()
        lr_pixels = self.lr.shape[2] * self.lr.shape[3]
        return [result.restored(engine.flops, lr_pixels, self.division.seen, shared) for result in results]

    def restore_once(self, settings: Sequence[Setting]) -> list[Restored]:
        """As `restore`, but `seconds` hold the encoding too."""
        results = [replace(each, seconds=each.seconds + self.seconds) for each in self.restore(settings)]
        give_back(self.lr)
        return results

    @property
    def nbytes(self) -> int:
        """What it holds, in bytes."""
        return sum(tensor.nbytes for tensor in (self.lr, self.log_odds, *self.feats) if tensor is not None)


def check_settings(engine: Engine, scale: float, settings: Sequence[Setting]) -> None:
    """Raises InputError for a setting of another scale, or of another precision than the engine computes in."""
    for setting in settings:
        if setting.scale != scale:
            raise InputError(f"scale {setting.scale:g}: the image was encoded for scale {scale:g}; encode it anew")
        if dtype_of(engine.model, engine.device, setting.precision) != engine.precision:
            own = name_of(engine.precision)
            raise InputError(f"precision {setting.precision}: the model was prepared for {own}; prepare it anew")


def pixel_bytes(engine: Engine, scale: float) -> float:
    """Bytes that one LR pixel takes while the engine works on it."""
    on_lr = engine.precision.itemsize * (MAPS * engine.channels + engine.table_channels)
    return on_lr + 4 * HR_FLOATS * scale**2


def feature_bytes(engine: Engine) -> int:
    """Bytes that the features of one LR pixel take."""
    return engine.precision.itemsize * engine.channels


def held_bytes(engine: Engine, lr: Tensor, scale: float) -> int:
    """Bytes that an Encoding of lr (1,3,h,w) keeps, but for the few pixels that its tiles share."""
    height, width = hr_size(lr, scale)
    per_lr, per_hr = 12 + feature_bytes(engine), 4 * (engine.upsampler_count - 1)  # lr and log odds are float32
    return per_lr * lr.shape[2] * lr.shape[3] + per_hr * height * width
