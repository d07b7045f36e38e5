from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.build import BACKBONES, build, build_original, build_pcsr
from models.flops import RULES, Flops, network_flops
from models.grid import grid_over
from models.parts import Parts
from tests.conftest import ROOT
from utils.config import OriginalSpec, PCSRSpec, load_config
from utils.errors import InputError

LR_PIXELS, HR_PIXELS = 32 * 32, 128 * 128
# Millions per 32x32 LR patch at x4, paper account: original, encoder, heavy, light, classifier (published counter)
PUBLISHED = {
    "carn": (1156.45, 477.63, 681.38, 64.88, 22.28),
    "srresnet": (5193.99, 1987.38, 3203.07, 190.05, 55.05),
    "fsrcnn": (468.02, 20.47, 435.22, 24.58, 3.41),
}


def specs(backbone: str) -> tuple[OriginalSpec, PCSRSpec]:
    original = load_config(ROOT / f"configs/{backbone}-x4.yaml").model
    pcsr = load_config(ROOT / f"configs/{backbone}-pcsr-phase1.yaml").model
    assert isinstance(original, OriginalSpec) and isinstance(pcsr, PCSRSpec)
    return original, pcsr


@pytest.mark.parametrize("backbone", PUBLISHED)
def test_paper_account_equals_the_published_counter(backbone: str) -> None:
    original_spec, pcsr_spec = specs(backbone)
    original, encoder, heavy, light, classifier = (value * 1e6 for value in PUBLISHED[backbone])
    assert network_flops(build_original(original_spec)).paper * LR_PIXELS == pytest.approx(original, abs=5001)
    model = build_pcsr(pcsr_spec)
    account = model.account()
    assert account.per_lr.paper * LR_PIXELS == pytest.approx(encoder, abs=5001)
    assert account.upsamplers[1].paper * HR_PIXELS == pytest.approx(heavy, abs=5001)
    assert account.upsamplers[0].paper * HR_PIXELS == pytest.approx(light, abs=5001)
    assert account.classifier.paper * HR_PIXELS == pytest.approx(classifier, abs=5001)


def test_cost_of_carn() -> None:
    model = build_pcsr(specs("carn")[1])
    assert model.account().cost(4) == pytest.approx([0.3188, 0.6812], abs=1e-4)


def batch_norm_flops(module: torch.nn.Module, positions: int) -> float:
    """What torch's counter leaves out: one multiply-accumulate per element."""
    return sum(2.0 * m.num_features * positions for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d))


@pytest.mark.parametrize("backbone", PUBLISHED)
def test_executed_account_equals_torchs_counter(backbone: str) -> None:
    original_spec, pcsr_spec = specs(backbone)
    lr = torch.rand(1, 3, 6, 7)
    original = build_original(original_spec).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        original(lr)
    counted = counter.get_total_flops() + batch_norm_flops(original, 42)
    assert network_flops(original).executed * 42 == pytest.approx(counted)

    model = build_pcsr(pcsr_spec).eval()
    size = (24, 28)
    assignment = torch.randint(2, (1, *size))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        feat, grid = model.encode(lr), grid_over(lr, size)
        model.classify(feat, grid)
        model.upsample(lr, feat, grid, assignment)
    counted = counter.get_total_flops() + batch_norm_flops(model, 42)
    heavy = int(assignment.sum())
    assert model.account().total(42, [24 * 28 - heavy, heavy]).executed == pytest.approx(counted)


class Twice(nn.Module):
    """One layer, used twice: on the image and on what it makes of it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x))


class Gain(nn.Module):
    """A layer of somebody else's, which models/flops.py does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x


class Idle(nn.Module):
    """Uses the weights of a layer and not the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.conv.weight)


@pytest.mark.parametrize(
    ("layer", "paper", "executed"),
    [
        (nn.Conv2d(3, 3, 3, padding=1, groups=3), 2 * 9 * 3, 2 * 9 * 3),
        (nn.Sequential(nn.Conv2d(3, 8, 2, 2), nn.ConvTranspose2d(8, 3, 2, 2)), 2 * 24 + 2 * 96, 2 * 24 + 2 * 24),
        (nn.ConvTranspose2d(3, 3, 3, padding=1, groups=3), 2 * 9 * 3, 2 * 9 * 3),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), 6, 6),
        (nn.PReLU(3), 3, 0),
    ],
)
def test_every_call_of_a_shared_layer_counts(layer: nn.Module, paper: float, executed: float) -> None:
    assert network_flops(Twice(layer)) == (2 * paper, 2 * executed)


def test_counting_leaves_the_network_alone() -> None:
    network = Twice(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))).half().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.inference_mode():
        assert network_flops(network) == (48, 48)
    assert network.training and all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(layer._forward_hooks for layer in network.modules())


def test_a_layer_without_a_rule_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Twice(nn.Sequential(nn.Conv2d(3, 3, 1), Gain()))
    with pytest.raises(InputError, match=r"layer\.1 \(Gain\) cannot be counted: add a rule for Gain to RULES"):
        network_flops(network)
    monkeypatch.setitem(RULES, Gain, lambda layer, x, y: Flops(y.numel(), 0))
    assert network_flops(network) == (2 * (2 * 9 + 3), 2 * 2 * 9)


def whatever(network: nn.Module, width: int) -> nn.Module:
    return network


def test_a_network_that_cannot_be_counted_is_an_error_when_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    for network, reason in (
        (Idle(), r"conv \(Conv2d\).*does not call it"),
        (nn.Conv2d(3, 3, 64), "must run on the CPU, on 32x32 pixels"),
    ):
        with pytest.raises(InputError, match=reason):
            network_flops(network)
        parts = Parts(partial(whatever, network), lambda width, scale: nn.Identity())
        monkeypatch.setitem(BACKBONES, "fsrcnn", parts)
        for spec in specs("fsrcnn"):
            with pytest.raises(InputError, match=reason):
                build(spec)
