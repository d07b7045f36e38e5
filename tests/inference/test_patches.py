"""The default protocol of the evaluation: overlapping patches, decided together and averaged where they overlap."""

import numpy as np
import pytest
import torch

from inference.restorers import pcsr_restorer
from models.build import build_pcsr
from models.setting import Rule, Setting
from tests.conftest import TINY_PCSR, balance
from utils.patches import Patches

PATCHES = Patches(12, 8)
RULES: list[tuple[Rule, float]] = [("k", 0.0), ("budget", 0.9), ("adaptive", 0.0)]


@pytest.mark.parametrize("upsamplers", [((4,), (8, 8)), ((4,), (6,), (8, 8))])
@pytest.mark.parametrize("refinement", [True, False])
@pytest.mark.parametrize("scale", [4.0, 2.5])
def test_patches_equal_the_method_on_each(upsamplers: object, refinement: bool, scale: float) -> None:
    model = build_pcsr(TINY_PCSR.model_copy(update={"upsamplers": upsamplers})).eval()
    lr = torch.rand(1, 3, 30, 20)  # the last row of patches begins 2 pixels after the one before
    balance(model, lr, scale)
    settings = [Setting(*rule, refinement, scale) for rule in RULES]
    batch, side = torch.cat(PATCHES.split(lr)), round(PATCHES.patch_size * scale)
    for setting, result in zip(settings, pcsr_restorer(model, settings, torch.device("cpu"))(lr, PATCHES), strict=True):
        with torch.inference_mode():
            sr, assignment, _ = model(batch, (side, side), setting)
        expected = PATCHES.merge([sr], lr, scale)[0].permute(1, 2, 0).clamp(0, 1).mul(255).round().numpy()
        heaviest = PATCHES.merge_heaviest([assignment], lr, scale)[0].numpy()
        assert len(np.unique(heaviest)) > 1 and result.assignment is not None
        assert (result.assignment != heaviest).mean() < 1e-3  # pixels on the threshold
        levels = np.abs(result.pixels.astype(int) - expected)
        assert (levels > 1).mean() < 2e-3 and (levels > 0).mean() < 1e-2
