"""Learning rates and the steps taken at them."""

import pytest
import torch

from tests.conftest import TINY_PCSR, config_for
from training.muon import RMS, Muon
from training.schedule import learning_rate, progress_made


def test_schedule() -> None:
    spec = config_for(TINY_PCSR, iter_max=1000, learning_rate=1.0, learning_rate_min=1e-7, warmup=100).train
    rates = [learning_rate(spec, i, progress_made(spec, i, 0.0)) for i in range(1, 1001)]
    assert rates[49] == pytest.approx(0.5) and rates[99] == 1 and rates[100] == 1
    assert rates[550] == pytest.approx(0.5, abs=1e-3) and rates[-1] < 1e-5
    assert rates[99:] == sorted(rates[99:], reverse=True)


def test_a_stable_schedule_anneals_at_its_end() -> None:
    settings = {"learning_rate": 1.0, "learning_rate_min": 1e-7, "schedule": "stable", "anneal": 0.5}
    spec = config_for(TINY_PCSR, iter_max=1000, **settings).train
    rates = [learning_rate(spec, i, progress_made(spec, i, 0.0)) for i in range(1, 1001)]
    assert (
        rates[:501] == pytest.approx([1.0] * 501)
        and rates[750] == pytest.approx(0.5)
        and rates[-1] == pytest.approx(0.002, abs=1e-4)
    )


def test_a_time_limit_sets_the_pace() -> None:
    spec = config_for(TINY_PCSR, iter_max=1000, learning_rate=1.0, learning_rate_min=1e-7, time_limit=2.0).train
    assert progress_made(spec, 1, 60.0) == 0.5 and progress_made(spec, 901, 60.0) == 0.9
    assert learning_rate(spec, 1, 0.5) == pytest.approx(0.5) and progress_made(spec, 3, 999.0) == 1.0


def test_a_muon_step_is_orthogonal() -> None:
    layer = torch.nn.Conv2d(8, 12, 3, groups=2)
    before = layer.weight.detach().clone()
    layer(torch.rand(2, 8, 9, 9)).square().mean().backward()
    Muon(layer, 0.1).step()
    steps = (before - layer.weight.detach()).reshape(2, 6, 36) / (0.1 * RMS * 36**0.5)
    values = torch.linalg.svdvals(steps)
    assert values.min() > 0.6 and values.max() < 1.3
