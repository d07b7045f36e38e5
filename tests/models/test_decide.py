import math

import pytest
import torch
from torch import Tensor

from models import decide
from models.build import BACKBONES, build_pcsr
from models.decide import assign_adaptive, assign_budget, assign_k, bisect, check_budget, least_budget
from models.setting import Setting
from tests.conftest import ROOT, TINY_PCSR
from utils.config import PCSRSpec
from utils.errors import InputError
from utils.parse import load_config

COST = (0.32, 0.68)
SPEND = (0.45, 1.0)


def odds(prob: Tensor) -> Tensor:
    """prob (b,M,H,W) as log_odds (b,M-1,H,W)."""
    logs = prob.clamp_min(torch.finfo(prob.dtype).tiny).log()
    return logs[:, 1:] - logs[:, :1]


def random_prob(count: int = 2, height: int = 60, width: int = 80) -> Tensor:
    return (3 * torch.randn(1, count, height, width)).softmax(1)


def mean_spend(assignment: Tensor, spend: tuple[float, ...]) -> float:
    return float(torch.tensor(spend, dtype=torch.float64)[assignment.long()].mean())


@pytest.mark.parametrize("k", [-1.0, -0.5, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("count", [2, 3])
def test_k_is_the_papers_argmax(k: float, count: int) -> None:
    prob, cost = random_prob(count), torch.linspace(0.1, 0.6, count)
    expected = (prob / cost[None, :, None, None] ** k).argmax(1)
    assert torch.equal(assign_k(odds(prob), cost.tolist(), k), expected)


def test_k_reaches_both_ends_and_ties_go_to_light() -> None:
    prob = random_prob()
    assert assign_k(odds(prob), COST, math.inf).max() == 0
    assert assign_k(odds(prob), COST, -math.inf).min() == 1
    assert assign_k(odds(torch.full((1, 2, 4, 4), 0.5)), COST, 0.0).max() == 0
    assert assign_k(odds(random_prob(3)), (0.1, 0.3, 0.6), -1e39).min() == 2
    certain = odds(torch.tensor([0.0, 1.0]).view(1, 2, 1, 1))
    assert assign_k(certain, COST, 50.0).item() == 1  # the log of a probability of zero is finite


def test_share_falls_as_k_grows() -> None:
    prob = random_prob()
    shares = [float(assign_k(odds(prob), COST, k).float().mean()) for k in (-2, -1, 0, 1, 2)]
    assert shares == sorted(shares, reverse=True) and shares[0] > shares[-1]


@pytest.mark.parametrize("budget", [0.45, 0.5, 0.7, 0.99, 1.0])
@pytest.mark.parametrize("kind", ["random", "flat", "two values", "saturated"])
def test_budget_is_met(budget: float, kind: str) -> None:
    heavy = {
        "random": torch.rand(1, 60, 80),
        "flat": torch.full((1, 60, 80), 0.3),
        "two values": torch.randint(2, (1, 60, 80)).float() * 0.4 + 0.3,
        "saturated": torch.randint(3, (1, 60, 80)).float() / 2,
    }[kind]
    assignment = assign_budget(odds(torch.stack([1 - heavy, heavy], 1)), COST, SPEND, budget)
    assert mean_spend(assignment, SPEND) == pytest.approx(budget, abs=0.001)
    light, chosen = heavy[assignment == 0], heavy[assignment == 1]
    if light.numel() and chosen.numel():  # no light pixel is heavier than a heavy one
        assert light.max() <= chosen.min()


def test_budget_with_three_upsamplers() -> None:
    prob, spend = random_prob(3), (0.3, 0.6, 1.0)
    for budget in (0.3, 0.4, 0.65, 0.9, 1.0):
        assignment = assign_budget(odds(prob), (0.15, 0.32, 0.53), spend, budget)
        assert mean_spend(assignment, spend) == pytest.approx(budget, abs=0.001)
    assert set(assign_budget(odds(prob), (0.15, 0.32, 0.53), spend, 0.6).unique().tolist()) == {0, 1, 2}


def test_budget_agrees_with_the_k_that_spends_it() -> None:
    prob = random_prob(height=300, width=400)  # larger than the sample
    by_k = assign_k(odds(prob), COST, 0.7)
    by_budget = assign_budget(odds(prob), COST, SPEND, mean_spend(by_k, SPEND))
    assert (by_k != by_budget).float().mean() < 1e-3


def test_a_search_ends_where_float64_is_coarse() -> None:
    low, high = bisect(lambda k: 2.0 if k < 3e10 else 0.0, 1.0, -1e12, 1e12)
    assert low < 3e10 <= high < low + 1e-4


def test_adaptive_finds_two_clusters_and_is_deterministic() -> None:
    heavy = torch.where(torch.rand(1, 200, 400) < 0.3, 0.8, 0.2) + 0.05 * torch.randn(1, 200, 400)
    prob = torch.stack([1 - heavy, heavy], 1)
    assignment = assign_adaptive(odds(prob))
    assert torch.equal(assignment, (heavy > 0.5).long())
    torch.manual_seed(1)
    assert torch.equal(assignment, assign_adaptive(odds(prob)))


def test_adaptive_on_a_flat_image_is_all_light() -> None:
    assert assign_adaptive(odds(torch.full((1, 2, 8, 8), 0.5))).max() == 0
    assert assign_adaptive(odds(torch.full((1, 2, 1, 1), 0.5))).max() == 0


def test_adaptive_with_three_upsamplers() -> None:
    index = torch.randint(3, (1, 40, 40))
    prob = torch.nn.functional.one_hot(index, 3).permute(0, 3, 1, 2).float() * 0.9 + 0.03
    assert torch.equal(assign_adaptive(odds(prob)), index)


def test_sampled_thresholds_see_every_sub_pixel_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """The heavy probability depends on the column modulo 4; a stride of 4 or 16 would see one column in four."""
    monkeypatch.setattr(decide, "SAMPLE", 1000)
    column = torch.arange(256) % 4
    heavy = (torch.rand(1, 256, 256) * 0.4 + 0.2 * column).clamp(0, 1)
    prob = torch.stack([1 - heavy, heavy], 1)
    sampled = assign_adaptive(odds(prob)).float().mean()
    monkeypatch.setattr(decide, "SAMPLE", 1 << 20)
    assert abs(float(sampled - assign_adaptive(odds(prob)).float().mean())) < 0.02
    monkeypatch.setattr(decide, "SAMPLE", 1000)
    for budget in (0.5, 0.7, 0.95):
        assert mean_spend(assign_budget(odds(prob), COST, SPEND, budget), SPEND) == pytest.approx(budget, abs=0.001)


@pytest.mark.parametrize("size", [(1296, 1944), (768, 768), (1536, 2100), (321, 481)])
def test_all_columns_are_sampled(size: tuple[int, int]) -> None:
    """At x3, for example, each width is a multiple of 3, as the stride may be."""
    column = torch.arange(size[1]).expand(1, 1, *size)
    counts = torch.bincount(decide.sampled(column).flatten())
    assert len(counts) == size[1] and counts.max() <= counts.min() + 1


def test_adaptive_survives_an_outlier_outside_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "SAMPLE", 1000)
    heavy = 0.2 + 1e-4 * torch.rand(1, 200, 200)
    heavy[0, 0, 1] = 0.9
    assert int(assign_adaptive(odds(torch.stack([1 - heavy, heavy], 1))).sum()) == 1


@pytest.mark.parametrize("size", [1.0, 100.0, 1e4])
def test_a_budget_is_met_however_sure_the_classifier_is(size: float) -> None:
    """Log odds are differences of logits, which have no bound; neighbouring upsamplers may cost nearly the same."""
    cost, spend = [0.30, 0.33, 0.37], [3.0, 3.3, 3.7]
    log_odds = size * (1 + torch.rand(1, 2, 40, 50))
    for budget in (3.0, 3.05, 3.5, 3.7):
        assignment = assign_budget(log_odds, cost, spend, budget)
        spent = float(torch.tensor(spend)[assignment.long()].double().mean())
        assert budget - 0.001 <= spent <= budget + 1e-6


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_least_budget_that_an_error_names_can_be_met(backbone: str, scale: int) -> None:
    spec = load_config(ROOT / f"configs/{backbone}-pcsr-phase1.yaml").model
    assert isinstance(spec, PCSRSpec)
    flops = build_pcsr(spec).flops
    with pytest.raises(InputError) as refused:
        check_budget(Setting("budget", 0.01, scale=scale), flops)
    named = float(str(refused.value).split("between ")[1].split(" ")[0])
    check_budget(Setting("budget", named, scale=scale), flops)
    assert named == pytest.approx(least_budget(flops, scale), abs=1e-3)


def test_all_heavy_in_float16() -> None:
    model = build_pcsr(TINY_PCSR.model_copy(update={"upsamplers": ((2,), (4,), (8, 8))}))
    log_odds = torch.zeros(1, 2, 3, 4, dtype=torch.float16)
    assert (model.decide(log_odds, Setting("heavy")) == 2).all()
