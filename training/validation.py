"""Validation during training: the evaluation of whole images, shared out between the processes."""

import copy
from collections.abc import Callable
from functools import partial
from itertools import product, repeat
from pathlib import Path

from torch import distributed

from datasets.folder import PairedFolder
from evaluation.evaluate import Protocol, evaluate, gather_rows
from inference.restorers import original_restorer, pcsr_restorer
from models.blocks import OriginalModel
from models.pcsr import PCSR
from models.setting import Setting
from utils.config import DataSpec, listed
from utils.dist import Ranks
from utils.errors import InputError
from utils.files import check_separate

Validate = Callable[[OriginalModel | PCSR], dict[str, float]]  # a model -> the means that are logged
LOGGED = {"val/psnr": "psnr", "val/heavy_share": "heavy_share", "val/flops_share": "flops_paper_share"}  # of a Row


def open_validation(data: DataSpec, ranks: Ranks) -> Validate:
    """Read this process's share of the validation images. Raises InputError if they cannot be used.

    The result gives means over the images of all processes. It works on a copy: what evaluation does to a model (eval
    mode, another memory layout) does not reach the one that is trained.
    """
    _, scale = data.scales
    folders, lr_folders = listed(data.val), listed(data.val_lr)
    check_separate([*folders, *lr_folders])
    for folder, train in product([*folders, *lr_folders], [*listed(data.train), *listed(data.train_lr)]):
        if Path(train).resolve() in Path(folder).resolve().parents:
            raise InputError(f"{folder}: lies in {train}, so that it would be trained on as well; move it out of there")
    share = partial(PairedFolder, scale=scale, float_lr=not data.lr_round, rank=ranks.rank, world=ranks.world)
    both = zip(folders, lr_folders or repeat(None), strict=False)  # as many of each, or none of LR
    pairs = [pair for hr, lr in both for pair in share(hr, lr, below=True, degrade=data.degrade)]
    protocol = Protocol(scale, with_ssim=False)

    def validate(model: OriginalModel | PCSR) -> dict[str, float]:
        model = copy.deepcopy(model)
        if ranks.world > 1:  # each process has its own running statistics of BatchNorm; those of rank 0 are saved
            for buffer in model.buffers():
                distributed.broadcast(buffer, src=0)
        if isinstance(model, OriginalModel):
            restore = original_restorer(model, ranks.device)
        else:
            restore = pcsr_restorer(model, [Setting(scale=scale)], ranks.device)
        rows = gather_rows(ranks, evaluate(pairs, restore, protocol))
        return {name: sum(getattr(row, column) for row in rows) / len(rows) for name, column in LOGGED.items()}

    return validate
