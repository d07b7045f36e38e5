"""Models and the engine on a GPU against the same on the CPU, which is the reference."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.build import BACKBONES, build
from models.checkpoint import load_model, save_weights
from models.decide import decide
from models.fast.engine import Engine
from models.grid import grid_over
from models.pcsr import PCSR, refine
from models.setting import Rule, Setting
from tests.conftest import ROOT, config_for
from training.loop import gradients
from training.tasks import build_task
from utils.config import OriginalSpec, PCSRSpec
from utils.dist import Ranks
from utils.parse import load_config

CPU = torch.device("cpu")
SIZES = [(92, 148), (57, 93), (23, 37)]  # HR of 23x37 LR: x4, about x2.5, x1
LIGHTEST = (4,)  # hidden widths of a third upsampler


def spec_of(backbone: str, config: str, **changes: object) -> Any:
    spec = load_config(ROOT / f"configs/{backbone}-{config}.yaml").model
    return type(spec).model_validate({**spec.model_dump(), **changes})


def model_of(backbone: str, config: str = "pcsr-phase1", **changes: object) -> Any:
    """A model as wide as the configs say, with random weights and, if it has BatchNorm, statistics worth using."""
    model = build(spec_of(backbone, config, **changes))
    for _ in range(2):
        model.encoder(torch.rand(2, 3, 12, 12))
    return model.eval()


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Equal to within this share of the largest value, which is taken for 1 if it is less."""
    allowed = tolerance * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found.cpu().float(), expected, rtol=0, atol=allowed)


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.inference_mode()
def test_forward(backbone: str, device: torch.device) -> None:
    model, lr = model_of(backbone), torch.rand(2, 3, 23, 37)
    size, grid = (57, 93), grid_over(lr, (57, 93))
    assignment = torch.randint(2, (2, *size), dtype=torch.uint8)
    feat = model.encode(lr)
    expected = feat, model.classify(feat, grid), model.upsample(lr, feat, grid, assignment)
    model, lr, assignment = model.to(device), lr.to(device), assignment.to(device)
    feat, grid = model.encode(lr), grid_over(lr, size)
    found = feat, model.classify(feat, grid), model.upsample(lr, feat, grid, assignment)
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other, 1e-4)
    sr, chosen, prob = model(lr, size, Setting())
    assert sr.device.type == chosen.device.type == prob.device.type == device.type


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.inference_mode()
def test_original(backbone: str, device: torch.device) -> None:
    model, lr = model_of(backbone, "x4"), torch.rand(2, 3, 23, 37)
    expected = model(lr)
    assert_near(model.to(device)(lr.to(device)), expected, 1e-4)


@pytest.mark.parametrize("job", ["x4", "pcsr-phase0", "pcsr-phase1"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_losses_and_gradients(backbone: str, job: str, device: torch.device) -> None:
    spec = load_config(ROOT / f"configs/{backbone}-{job}.yaml", ["train.pixels_per_patch=null"]).train
    model, lr, hr = model_of(backbone, job), torch.rand(2, 3, 16, 16), torch.rand(2, 3, 64, 64)
    state, results = model.state_dict(), []
    for place in (CPU, device):
        copy = build(spec_of(backbone, job))
        copy.load_state_dict(state)
        task = build_task(spec, copy, Ranks(0, 1, place)).to(place).train()
        losses = gradients(task, lr.to(place), hr.to(place), spec)
        grads = {name: part.grad.cpu() for name, part in task.named_parameters() if part.grad is not None}
        results.append((losses, grads))
    (expected, reference), (found, grads) = results
    assert found.keys() == expected.keys() and grads.keys() == reference.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name].cpu(), value, rtol=1e-3, atol=1e-4)
    largest = max(float(grad.abs().max()) for grad in reference.values())
    torch.testing.assert_close(grads, reference, rtol=1e-2, atol=1e-3 * largest)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backbone", BACKBONES)
@torch.inference_mode()
def test_autocast(backbone: str, dtype: torch.dtype, device: torch.device) -> None:
    model, lr = model_of(backbone, "pcsr-phase0"), torch.rand(2, 3, 23, 37)
    expected, _, _ = model(lr, (57, 93), Setting("heavy"))
    with torch.autocast(device.type, dtype):
        sr, _, _ = model.to(device)(lr.to(device), (57, 93), Setting("heavy"))
    assert_near(sr, expected, 5e-2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("backbone", BACKBONES)
@torch.inference_mode()
def test_engine(backbone: str, count: int, size: tuple[int, int], device: torch.device) -> None:
    light, heavy = spec_of(backbone, "pcsr-phase1").upsamplers
    model: PCSR = model_of(backbone, upsamplers=[LIGHTEST, light, heavy][-count:])
    fast, lr = Engine(model, device), torch.rand(2, 3, 23, 37)
    if device.type == "cuda":
        assert {type(runner).__name__ for runner in fast.runners} == {"TritonRunner"}
    feat, grid, encoded = model.encode(lr), grid_over(lr, size), fast.encode(lr.to(device))
    assert_near(fast.classify(encoded, size), model.classify(feat, grid), 1e-4)
    few = (torch.rand(2, *size) < 0.02).to(torch.uint8) * (count - 1)  # rows without one heavy pixel
    for assignment in (torch.randint(count, (2, *size), dtype=torch.uint8), few):
        expected = model.upsample(lr, feat, grid, assignment)
        sr = fast.upsample(encoded, size, assignment.to(device))
        assert_near(sr, expected, 1e-4)
        assert_near(refine(sr, assignment.to(device)), refine(expected, assignment), 1e-4)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backbone", BACKBONES)
@torch.inference_mode()
def test_engine_in_half_precision(backbone: str, precision: torch.dtype, device: torch.device) -> None:
    model, lr, size = model_of(backbone), torch.rand(2, 3, 23, 37), (57, 93)
    fast = Engine(model, device, precision)
    if device.type == "cuda":
        assert {type(runner).__name__ for runner in fast.runners} == {"TritonRunner"}
    encoded = fast.encode(lr.to(device))
    feat, grid, assignment = model.encode(lr), grid_over(lr, size), torch.randint(2, (2, *size), dtype=torch.uint8)
    assert_near(fast.classify(encoded, size), model.classify(feat, grid), 5e-2)
    expected = model.upsample(lr, feat, grid, assignment)
    assert_near(fast.upsample(encoded, size, assignment.to(device)), expected, 5e-2)


RULES: list[tuple[Rule, float]] = [("k", 0.3), ("adaptive", 0.0), ("budget", 0.8), ("heavy", 0.0)]


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule[0])
def test_decisions(rule: tuple[Rule, float], count: int, device: torch.device) -> None:
    light, heavy = spec_of("carn", "pcsr-phase1").upsamplers
    model: PCSR = model_of("carn", upsamplers=[LIGHTEST, light, heavy][-count:])
    log_odds = torch.randn(1, count - 1, 157, 203)
    expected = decide(log_odds, Setting(*rule), model.flops)
    found = decide(log_odds.to(device), Setting(*rule), model.flops).cpu()
    assert (found == expected).float().mean() > 0.9999  # but for pixels on the threshold


def test_checkpoints_move_between_devices(tmp_path: Path, device: torch.device) -> None:
    spec: PCSRSpec | OriginalSpec = spec_of("carn", "pcsr-phase1")
    model = model_of("carn")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_weights(tmp_path, model.to(device), config_for(spec))
    loaded, _ = load_model(tmp_path)
    for name, tensor in loaded.state_dict().items():
        assert tensor.device == CPU and torch.equal(tensor, state[name]), name
