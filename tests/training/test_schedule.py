"""Learning rates and the steps taken at them."""

import copy

import pytest
import torch

from tests.conftest import TINY_PCSR, config_for
from training.muon import RMS, Muon
from training.optimizers import build_optimizers, take_step
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


def test_what_holds_one_number_for_each_channel_is_no_matrix() -> None:
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(8, 12, 3))  # a size (12,1,1,1), and a direction
    assert [tuple(each.shape) for each in Muon(layer, 0.1).matrices] == [(12, 8, 3, 3)]


def test_clipped_gradients_have_the_norm() -> None:
    layer = torch.nn.Linear(5, 3)
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    for clip, expected in ((0.5, 0.5), (100.0, None)):
        layer.load_state_dict(dict(zip(("weight", "bias"), before, strict=True)))
        layer(torch.ones(4, 5)).square().sum().backward()
        norm = torch.stack([parameter.grad.norm() for parameter in layer.parameters()]).norm().item()  # type: ignore[union-attr]
        assert 0.5 < norm < 100
        take_step(layer, [torch.optim.SGD(layer.parameters())], config_for(TINY_PCSR, grad_clip=clip).train, 0.1)
        moved = [new - old for new, old in zip(layer.parameters(), before, strict=True)]
        size = torch.stack([difference.norm() for difference in moved]).norm().item()
        assert size == pytest.approx(0.1 * (expected or norm), rel=1e-4)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_weights_decay_beside_their_step(optimizer: str) -> None:
    """And neither biases nor BatchNorm do."""
    block = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.PReLU())
    image, rate, decay = torch.rand(2, 3, 6, 6), 0.1, 0.3
    before = [parameter.detach().clone() for parameter in block.parameters()]
    after = []
    for weight_decay in (0.0, decay):
        layers, spec = copy.deepcopy(block), config_for(TINY_PCSR, optimizer=optimizer, weight_decay=weight_decay).train
        layers(image).square().mean().backward()
        take_step(layers, build_optimizers(layers, spec), spec, rate)
        after.append(list(layers.parameters()))
    for old, plain, decayed in zip(before, *after, strict=True):
        assert not torch.equal(plain, old)
        torch.testing.assert_close(decayed, plain - (rate * decay * old if old.ndim > 1 else 0))
