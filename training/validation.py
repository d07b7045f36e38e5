"""Validation during training: the evaluation of whole images, shared out between the processes."""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import count, repeat
from typing import NamedTuple

import torch
from torch import Tensor, distributed

from datasets.folder import Pair, PairedFolder
from datasets.pairs import doubts
from evaluation.evaluate import MeasuringProtocol, evaluate, gather_rows
from inference.restore import Restored
from inference.restorers import original_restorer, pcsr_restorer
from inference.visual import as_pictures
from models.original import OriginalModel
from models.pcsr import PCSR
from models.setting import Setting
from utils.cli import tell
from utils.config import Config, DataSpec, TrainSpec, listed
from utils.dist import Ranks
from utils.image import Array, to_pixels

# names in the log -> fields of a Row; DECIDED: only for PCSR models
LOGGED = {"val/psnr": "psnr", "val/ssim": "ssim"}
DECIDED = {"val/heavy_share": "heavy_share", "val/flops_share": "flops_paper_share"}
EXACT_DB = 100.0  # dB, of an image that is restored exactly: in a mean, infinity would hide all others


class Validation(NamedTuple):
    """The results of one validation."""

    means: dict[str, float]  # over the images of all processes; a measure that was not taken is missing
    pictures: dict[str, Array]  # by name, of this process's first images


class StoredPair(NamedTuple):
    """A Pair in memory, in a quarter of it if the values are those of 8 bits: each image is one of `as_bytes`."""

    name: str
    hr: Tensor  # (1,3,H,W)
    lr: Tensor  # (1,3,h,w)

    def pair(self) -> Pair:
        return Pair(self.name, as_floats(self.hr), as_floats(self.lr))


def as_bytes(image: Tensor) -> Tensor:
    """image (1,3,h,w) float32 in [0,1] as uint8 if that is exact, else the image itself."""
    levels = (255 * image).round().byte()
    return levels if torch.equal(as_floats(levels), image) else image


def as_floats(image: Tensor) -> Tensor:
    """The inverse of `as_bytes`: (1,3,h,w) float32."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image


Validate = Callable[[OriginalModel | PCSR], Validation]


def is_best(spec: TrainSpec, psnr: float, before: Iterable[float]) -> bool:
    """Whether a validation is the best so far: the one with the highest PSNR.

    In phase 1 it is always the newest, as PSNR alone would choose the weights that make the most pixels heavy.
    """
    return spec.phase == 1 or not any(earlier >= psnr for earlier in before)


def validation_pairs(data: DataSpec, ranks: Ranks) -> list[StoredPair]:
    """This process's share of the images. Raises InputError if they cannot be used.

    Rank 0 warns if some of its LR images show other things than their HR images.
    """
    scale, lr_folders = data.scales[1], listed(data.val_lr) or repeat(None)  # as many of LR, or none
    share = partial(PairedFolder, scale=scale, float_lr=not data.lr_round, rank=ranks.rank, world=ranks.world)
    found: list[StoredPair] = []
    for hr, lr in zip(listed(data.val), lr_folders, strict=False):
        folder = share(hr, lr, below=True, degrade=data.degrade)
        found += (pairs := [StoredPair(name, as_bytes(hr), as_bytes(lr)) for name, hr, lr in folder])
        if ranks.main and lr is not None and scale == round(scale):
            for line in in_doubt(folder, pairs):
                tell(line)
    return found


def in_doubt(folder: PairedFolder, pairs: Sequence[StoredPair]) -> list[str]:
    """A warning if some of the pairs, which were read from this folder, show different things."""

    def images(number: int) -> tuple[Array, Array]:
        _, hr, lr = pairs[number].pair()
        return to_pixels(hr), to_pixels(lr)

    # each pair has an LR file; mypy cannot know that
    files = [(hr, lr) for hr, lr in zip(folder.hr_paths, folder.lr_paths, strict=True) if lr is not None]
    return doubts(files, images, round(folder.scale))


def open_validation(config: Config, ranks: Ranks) -> Validate:
    """Read this process's share of the validation images. Raises InputError if they cannot be used.

    The function that is returned works on a copy, because evaluation changes a model (eval mode, memory layout), and
    the one that is trained must stay as it is.
    """
    data, spec = config.data, config.train
    pairs, (_, scale) = validation_pairs(data, ranks), data.scales
    protocol = MeasuringProtocol(scale, with_ssim=spec.val_ssim)

    def validate(model: OriginalModel | PCSR) -> Validation:
        made: dict[str, Array] = {}
        order = count(1)

        def draw_pictures(name: str, restored: Restored) -> None:
            if (number := next(order)) <= spec.val_images:
                shown = restored if restored.upsamplers > 1 else replace(restored, assignment=None)
                pictures = as_pictures(name, shown)
                if made.keys() & pictures.keys():  # an image of another folder has this name
                    pictures = as_pictures(f"{name}-{number}", shown)
                made.update(pictures)

        model = copy.deepcopy(model)
        if ranks.world > 1:  # each process has its own running statistics of BatchNorm; those of rank 0 are saved
            for buffer in model.buffers():
                distributed.broadcast(buffer, src=0)
        if isinstance(model, OriginalModel):
            restore = original_restorer(model, ranks.device)
        else:
            restore = pcsr_restorer(model, [Setting(scale=scale)], ranks.device)
        rows = gather_rows(ranks, evaluate((stored.pair() for stored in pairs), restore, protocol, draw_pictures))
        logged = LOGGED if isinstance(model, OriginalModel) else LOGGED | DECIDED
        # all measures but PSNR are at most 1
        values = {name: [min(getattr(row, column), EXACT_DB) for row in rows] for name, column in logged.items()}
        means = {name: sum(each) / len(each) for name, each in values.items()}
        return Validation({name: mean for name, mean in means.items() if not math.isnan(mean)}, made)

    return validate
