"""Phase 1 that learns gains, against the plain formulation in float64."""

import copy
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

import training.queries
from models.build import build_pcsr
from models.decide import assign_k
from models.fast.accelerate import accelerate
from models.grid import grid_over
from models.pcsr import PCSR
from tests.conftest import TINY_PCSR, Cli, save_tiny
from tests.training.test_losses import ALONE, COMPILED, PLAIN, gradients, recipe, spec
from tests.training.test_training import SMALL, config, folders  # noqa: F401 - a fixture
from training.losses import FLOOR, FOCUS, gain_loss
from training.queries import Group
from training.tasks import Phase1Gains, build_task

PRICE = 0.3
GAINS = {"phase": 1, "phase1_loss": "gains", "gain_price": PRICE}


def plain_gains(model: PCSR, lr: Tensor, hr: Tensor, loss: str) -> Tensor:
    """Every pixel of the whole batch at once."""
    feat, grid = model.encode(lr), grid_over(lr, (hr.shape[2], hr.shape[3]))
    each = [model.upsample_by(lr, feat, grid, j) for j in range(len(model.upsamplers))]
    log_odds = model.classify(feat, grid)  # (b,M-1,H,W)
    cost = model.flops.cost(hr.shape[3] / lr.shape[3])
    errors = [(sr.detach() - hr).square().mean(1) for sr in each]  # (b,H,W)
    unit = errors[-1].mean((1, 2), keepdim=True) + FLOOR
    total = torch.stack([PLAIN[loss](sr - hr) for sr in each[:-1]]).sum()
    before = torch.zeros_like(errors[0])
    for m, (lighter, heavier) in enumerate(pairwise(cost)):
        k = (log_odds[:, m] - before) / math.log(heavier / lighter)
        before = log_odds[:, m]
        fee = math.exp(FOCUS) * PRICE * (heavier - lighter) / cost[-1]
        gain = (errors[m] - errors[m + 1]) / unit
        total = total + (fee * (1 + (k - FOCUS).exp()).log() + gain * (1 + (FOCUS - k).exp()).log()).mean()
    return total


@pytest.mark.parametrize("size", [(32, 32), (21, 27)])
@pytest.mark.parametrize(
    ("backbone", "upsamplers", "hidden_classifier", "loss"),
    [("softgate", 3, True, "psnr"), ("carn", 2, False, "l1"), ("fsrcnn", 3, False, "mse"), ("softgate", 2, True, "l1")],
)
@pytest.mark.parametrize("kernels", [False, COMPILED])
def test_loss_and_gradients_are_exact(
    kernels: bool, backbone: str, upsamplers: int, hidden_classifier: bool, loss: str, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    task = Phase1Gains(build_pcsr(spec(backbone, upsamplers, hidden_classifier)), recipe(loss=loss, **GAINS), ALONE)
    task.train()
    lr, hr = torch.rand(3, 3, 8, 8), torch.rand(3, 3, *size)
    precise = copy.deepcopy(task.model).double()
    if kernels:
        accelerate(task)
    value, ours = gradients(task, lambda: task(lr, hr)["loss"])
    expected = plain_gains(precise, lr.double(), hr.double(), loss)
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    reference = {f"model.{name}": p.grad for name, p in precise.named_parameters() if p.grad is not None}
    assert ours.keys() == reference.keys() == {name for name, p in task.named_parameters() if p.requires_grad}
    for name, gradient in ours.items():
        assert (gradient - reference[name]).norm() <= 1e-4 * reference[name].norm() + 1e-6, name


def test_one_group_and_many_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices other than CPUs take the whole batch as one group."""
    task = Phase1Gains(build_pcsr(spec("softgate", 3)), recipe(**GAINS), ALONE).train()
    lr, hr = torch.rand(3, 3, 8, 8), torch.rand(3, 3, 32, 32)
    several = task(lr, hr)
    monkeypatch.setattr(training.queries, "CACHED", ())
    one = task(lr, hr)
    assert several.keys() == one.keys() == {"loss", "l1", "gains", "heavy_share"}
    for name, value in several.items():
        torch.testing.assert_close(value, one[name], rtol=1e-4, atol=1e-5)


def test_k_is_the_logarithm_of_the_price() -> None:
    """Where the loss is lowest, the k rule takes the upsampler of the largest gain minus price times FLOPs."""
    cost, errors = [0.2, 0.25, 0.55], [3.0, 2.0, 1.0]
    group = Group(slice(None), torch.zeros(4), torch.zeros(4, 4), torch.zeros(4, 3), 1, 1.0)
    logits = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    of_pixels = torch.tensor(errors, dtype=torch.float64)[:, None].expand(3, 4)  # four pixels, all alike
    optimizer = torch.optim.Rprop([logits])
    for _ in range(300):
        optimizer.zero_grad()
        gain_loss(logits, of_pixels, cost, PRICE, group).backward()
        optimizer.step()
    log_odds = (logits[:1, 1:] - logits[:1, :1]).detach()  # (1,2)
    chosen = []
    for k in [step / 10 + 0.05 for step in range(-20, 50)]:
        price = PRICE * math.exp(k)
        worth = [
            -error / (errors[-1] + FLOOR) - price * each / cost[-1] for error, each in zip(errors, cost, strict=True)
        ]
        chosen.append(int(assign_k(log_odds, cost, k)))
        assert chosen[-1] == worth.index(max(worth)), k
    assert set(chosen) == {0, 1, 2}


def test_a_heavier_upsampler_that_is_worse_gives_no_loss_without_end() -> None:
    group = Group(slice(None), torch.zeros(1), torch.zeros(1, 4), torch.zeros(1, 3), 1, 1.0)
    errors = torch.tensor([[1.0], [2.0]])

    def loss(log_odds: float) -> float:
        return gain_loss(torch.tensor([[0.0, log_odds]]), errors, [0.3, 0.7], PRICE, group).item()

    assert loss(-1e3) == pytest.approx(loss(-1e6), rel=1e-5)


def test_phase0_stays_and_the_rest_learns() -> None:
    model = build_pcsr(spec("carn", 3))
    task = build_task(recipe(**GAINS), model, ALONE).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in task.parameters() if p.requires_grad], 1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        task(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 32, 32))["loss"].backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        frozen = name.startswith(("encoder.", "upsamplers.2.", "mean"))
        assert torch.equal(value, before[name]) == frozen, name


def test_a_run_is_resumed_exactly(cli: Cli, folders: Path) -> None:  # noqa: F811
    heavy = TINY_PCSR.model_copy(update={"upsamplers": ((8, 8),), "classifier": None})
    save_tiny(folders / "save" / "heavy", heavy)
    model = ["backbone=fsrcnn", "options={}", "width=6", "upsamplers=[[3],[4],[8,8]]", "classifier=[4]"]
    settings = ["--set", *SMALL, *model, "init=save/heavy", "iter_max=4", "data.scale=4"]
    train = ("train_pcsr.py", "--config", config("softgate-pcsr-phase1-m3"), "--name", "run", *settings)
    assert cli(*train).code == 0
    weights = folders / "save" / "run" / "model.safetensors"
    uninterrupted = weights.read_bytes()
    (folders / "save" / "run" / "state" / "00000004.pth").unlink()
    weights.unlink()
    assert cli("train_pcsr.py", "--resume", "--name", "run").code == 0
    assert weights.read_bytes() == uninterrupted
