"""A tiny model with fixed weights computes what it has always computed: forward pass, decision and refinement."""

import numpy as np
import pytest
import torch

from inference.upscaler import Upscaler
from tests.quality.pin import CASES, CROP, PARITY, SAMPLED, crops, levels, parity, tiny_model
from utils.resize import downscale

REMEDY = "if the method was meant to change: python -m tests.quality.pin --parity"
MOST = 0.998  # of the pixels: where two upsamplers are as good as equal, either may be taken


def test_the_network() -> None:
    computed = parity(tiny_model())
    with np.load(PARITY) as pinned:
        assert computed.keys() == set(pinned), REMEDY
        for key, values in computed.items():
            before = pinned[key]
            assert values.shape == before.shape, f"{key}: {REMEDY}"
            if key.endswith("assignment"):
                assert (values == before).mean() >= MOST, f"{key}: {REMEDY}"
            elif key.endswith("log-odds"):
                assert np.abs(values - before).max() < 1e-4, f"{key}: {REMEDY}"
            else:  # within a level of 8 bits, or of floats
                near = np.abs(values.astype(float) - before) <= (1 if before.dtype == np.uint8 else 1e-4)
                assert near.mean() >= MOST, f"{key}: {REMEDY}"


@pytest.mark.parametrize("case", CASES)
def test_what_is_made_ready_for_inference(case: str) -> None:
    """The same through the kernels, where there is a compiler."""
    scale, k = CASES[case]
    upscaler = Upscaler(tiny_model(), torch.device("cpu"))
    sr, info = upscaler.upscale(levels(downscale(crops()[CROP], 4)), scale=scale, k=k, adaptive=k is None)
    with np.load(PARITY) as pinned:
        assert (info.assignment.numpy() == pinned[f"{case}: assignment"]).mean() >= MOST
        assert info.heavy_share == pytest.approx(pinned[f"{case}: assignment"].mean(), abs=1 - MOST)
        near = np.abs(sr.numpy().astype(float) - pinned[f"{case}: refined"]) <= 1
    assert near.mean() >= MOST


@pytest.mark.parametrize("case", CASES)
def test_the_pinned_pixels_show_every_step(case: str) -> None:
    """Both upsamplers are chosen, and pixels are refined; otherwise the other tests would see less than they say."""
    with np.load(PARITY) as pinned:
        assert 0.1 < pinned[f"{case}: assignment"].mean() < 0.9
        refined = pinned[f"{case}: refined"][:, ::SAMPLED, ::SAMPLED] / 255
        assert (np.abs(pinned[f"{case}: sr"].clip(0, 1) - refined) > 0.01).mean() > 0.05
