"""Restoring by overlapping patches, as the published evaluation does."""

from collections.abc import Sequence

import torch
from torch import Tensor

from inference.encoding import ResultInProgress, check_settings
from inference.finish import finish
from inference.restore import Clock, Restored, hr_size
from models.decide import decide
from models.fast.engine import Engine
from models.pcsr import refine
from models.setting import Setting
from models.tile import whole
from utils.patches import Patches


@torch.inference_mode()
def restore_patches(
    engine: Engine, lr: Tensor, patches: Patches, settings: Sequence[Setting], bits: int = 8
) -> list[Restored]:
    """lr (1,3,h,w) restored by overlapping patches, which are decided together and averaged where they overlap.

    Raises InputError for patches that do not fall on whole pixels, and for settings that differ in their scale.
    """
    scale = settings[0].scale
    check_settings(engine, scale, settings)
    patches.windows(lr, scale)  # raises before anything is computed
    batches = [batch.to(engine.device) for batch in patches.split(lr)]
    size = hr_size(batches[0], scale)
    clock = Clock(engine.device)
    encoded = [engine.encode(batch) for batch in batches]
    log_odds = torch.cat([engine.classify(each, size) for each in encoded])
    lengths = [len(batch) for batch in batches]
    shared = clock.lap()
    results = []
    for setting in settings:
        result = ResultInProgress(setting, hr_size(lr, scale), bits)
        assignments = decide(log_odds, setting, engine.account).split(lengths)
        pairs = list(zip(encoded, assignments, strict=True))
        srs = [engine.upsample(each, size, chosen) for each, chosen in pairs]
        if setting.refinement:
            srs = [refine(sr, chosen) for sr, chosen in zip(srs, assignments, strict=True)]
        sr = patches.merge(srs, lr, scale)
        finish(sr, None, whole(sr), result.pixels)
        result.assignment[:] = patches.merge_heaviest(assignments, lr, scale)[0].cpu().numpy()
        for assignment in assignments:
            result.count(assignment, engine.upsampler_count)
        result.seconds = clock.lap()
        results.append(result)
    lr_pixels = sum(lengths) * batches[0].shape[2] * batches[0].shape[3]
    return [result.restored(engine.account, lr_pixels, shared) for result in results]
