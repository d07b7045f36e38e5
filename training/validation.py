"""Validation during training: the evaluation of whole images, shared out between the processes."""

import copy
from collections.abc import Callable, Sequence

from torch import distributed

from datasets.folder import PairedFolder
from evaluation.evaluate import Protocol, Row, evaluate, gather_rows
from inference.restore import Setting, original_restorer
from inference.restore_pcsr import REFINE, pcsr_restorer
from models.blocks import Backbone
from models.pcsr import PCSR
from utils.config import DataSpec
from utils.dist import Ranks

Validate = Callable[[Backbone | PCSR], dict[str, float]]  # a model -> the means that are logged


def open_validation(data: DataSpec, ranks: Ranks) -> Validate:
    """Read this process's share of the validation images. Raises InputError if they cannot be used.

    The result gives means over the images of all processes. It works on a copy: what evaluation does to a model (eval
    mode, another memory layout) does not reach the one that is trained.
    """
    _, scale = data.scales
    pairs = list(PairedFolder(data.val, None, scale, not data.lr_round, ranks.rank, ranks.world))
    protocol = Protocol(scale, with_ssim=False)

    def validate(model: Backbone | PCSR) -> dict[str, float]:
        model = copy.deepcopy(model)
        if ranks.world > 1:  # each process has running statistics of BatchNorm from its own crops; rank 0 saves its own
            for buffer in model.buffers():
                distributed.broadcast(buffer, src=0)
        if isinstance(model, Backbone):
            restore = original_restorer(model, ranks.device)
        else:
            restore = pcsr_restorer(model, [Setting("k")], REFINE, ranks.device)
        return means(gather_rows(ranks, evaluate(pairs, restore, protocol)))

    return validate


def means(rows: Sequence[Row]) -> dict[str, float]:
    """Over the images: PSNR in dB, and the shares of pixels and of FLOPs that a PCSR model spends, 0 .. 1."""

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    return {
        "val/psnr": mean([row.psnr for row in rows]),
        "val/heavy_share": mean([row.heavy_share for row in rows]),
        "val/flops_share": mean([row.flops_paper_share for row in rows]),
    }
