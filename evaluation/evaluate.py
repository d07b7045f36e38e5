"""The evaluation loop, shared by test.py, test_pcsr.py and validation during training."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest

import torch
from torch import Tensor

from datasets.folder import Pair
from evaluation.metrics import PsnrType, psnr, ssim
from inference.restore import OnResult, Restore, Restored
from utils.dist import Ranks, gather
from utils.errors import InputError
from utils.image import to_tensor
from utils.patches import EXACT, Patches, crop_length
from utils.resize import scaled_size


@dataclass(frozen=True)
class Row:
    """One image under one setting."""

    image: str
    setting: str
    psnr: float  # dB
    ssim: float
    heavy_share: float
    flops_paper: float
    flops_executed: float
    flops_paper_share: float  # relative to the all-heavy model, or to the original itself; nan for bicubic
    seconds: float


@dataclass(frozen=True)
class MeasuringProtocol:
    """How images are cut and measured."""

    scale: float
    patches: Patches | None = None  # None: the whole image at once
    crop: Patches | None = None  # LR is cut to n*step+patch_size of this grid
    psnr_type: PsnrType = "rgb"
    with_ssim: bool = True


WARM_UP = 8  # LR pixels on a side: few, because each validation during training warms up again


def crop_pair(pair: Pair, grid: Patches, scale: float) -> Pair:
    """Cut LR to the pixels that a patch grid covers, and HR to match.

    Raises InputError if they end within an HR pixel.
    """
    height, width = (crop_length(n, grid.patch_size, grid.step) for n in pair.lr.shape[-2:])
    cut = [length for length, whole in zip((height, width), pair.lr.shape[-2:], strict=True) if length < whole]
    if any(abs(length * scale - round(length * scale)) > EXACT for length in cut):
        ends = f"{width}x{height} LR pixels of {pair.name} end within an HR pixel at x{scale:g}"
        raise InputError(f"--crop: {ends}; leave it out, or give another --patch_size or --step")
    lr = pair.lr[..., :height, :width]
    rows, cols = scaled_size(lr, scale)
    return Pair(pair.name, pair.hr[..., :rows, :cols], lr)


def evaluate(
    pairs: Iterable[Pair], restore: Restore, protocol: MeasuringProtocol, on_result: OnResult | None = None
) -> list[Row]:
    """Restore and measure every pair under every setting."""
    rows: list[Row] = []
    for loaded in pairs:
        pair = crop_pair(loaded, protocol.crop, protocol.scale) if protocol.crop else loaded
        if not rows:
            restore(noise_like(pair.lr[..., :WARM_UP, :WARM_UP]))  # the first call takes the time of set-up
        for restored in restore(pair.lr, protocol.patches):
            rows.append(measure(pair.name, restored, pair.hr, protocol))
            if on_result is not None:
                on_result(pair.name, restored)
    return rows


def noise_like(lr: Tensor) -> Tensor:
    """An image of that size for a first call that nobody looks at; of noise, as flat areas may be left out."""
    return torch.rand(lr.shape, generator=torch.Generator().manual_seed(0))


def gather_rows(ranks: Ranks, rows: Sequence[Row]) -> list[Row]:
    """The rows of every rank's share of a PairedFolder, in the order that one process would have them."""
    images = [[list(group) for _, group in groupby(share, lambda row: row.image)] for share in gather(ranks, rows)]
    return [row for turn in zip_longest(*images, fillvalue=()) for group in turn for row in group]


def measure(name: str, restored: Restored, hr: Tensor | None, protocol: MeasuringProtocol) -> Row:
    """One row; as many border pixels as the scale are left out (shave). Without an HR image PSNR and SSIM are nan."""
    psnr_db = ssim_value = math.nan
    if hr is not None:
        sr, shave = to_tensor(restored.pixels), round(protocol.scale)
        psnr_db = psnr(sr, hr, shave, protocol.psnr_type)
        ssim_value = ssim(sr, hr, shave, protocol.psnr_type) if protocol.with_ssim else math.nan
    return Row(
        image=name,
        setting=restored.setting,
        psnr=psnr_db,
        ssim=ssim_value,
        heavy_share=restored.heavy_share,
        flops_paper=restored.flops.paper,
        flops_executed=restored.flops.executed,
        flops_paper_share=restored.flops.paper / restored.reference.paper if restored.reference.paper else math.nan,
        seconds=restored.seconds,
    )
