import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.build import build_original, build_pcsr
from models.carn import CARNEncoder
from models.flops import network_flops
from models.grid import grid_over
from tests.conftest import ROOT
from utils.config import OriginalSpec, PCSRSpec, load_config

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
        model.upsample(feat, grid, assignment)
    counted = counter.get_total_flops() + batch_norm_flops(model, 42)
    heavy = int(assignment.sum())
    assert model.account().total(42, [24 * 28 - heavy, heavy]).executed == pytest.approx(counted)


def test_every_call_of_a_shared_layer_counts() -> None:
    encoder = CARNEncoder(8).eval()
    used: list[torch.nn.Module] = []
    for module in encoder.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.BatchNorm2d)):
            module.register_forward_hook(lambda layer, *_: used.append(layer))
    encoder(torch.rand(1, 3, 4, 4))
    assert [id(call.layer) for call in encoder.calls()] == [id(layer) for layer in used]
