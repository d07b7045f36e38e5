"""Rules that choose the heavy pixels, and the benchmark that compares them."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from benchmarks.routing import Router
from benchmarks.routing_report import heavy_way
from benchmarks.scores import compose, gradient_score, heaviest, patch_score, random_score, squared_error
from datasets.folder import Pair
from evaluation.metrics import psnr
from models.build import build_pcsr
from models.decide import assign_budget, heaviness
from models.fast.engine import Engine
from models.grid import bilinear, grid_over
from models.pcsr import refine
from tests.conftest import TINY_ORIGINAL, TINY_PCSR, Cli, make_folder, save_tiny
from utils.decode import read_image
from utils.errors import InputError

SHARES = [0.0, 0.05, 0.123, 0.5, 1.0]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("kind", ["distinct", "flat", "two values"])
def test_shares_are_exact_and_ties_in_scan_order(share: float, kind: str) -> None:
    score = {
        "distinct": torch.randn(2, 31, 17),
        "flat": torch.zeros(2, 31, 17),
        "two values": torch.randint(2, (2, 31, 17)).float(),
    }[kind]
    assignment = heaviest(score, share)
    order = score.flatten().argsort(descending=True, stable=True)
    expected = torch.zeros(score.numel(), dtype=torch.uint8)
    expected[order[: round(share * score.numel())]] = 1
    assert torch.equal(assignment, expected.view_as(score))


@pytest.mark.parametrize("share", [-0.1, 1.01, float("nan")])
def test_a_share_that_cannot_be(share: float) -> None:
    with pytest.raises(InputError, match="share"):
        heaviest(torch.rand(1, 4, 4), share)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5])
def test_ranked_log_odds_are_the_budget_rule(share: float) -> None:
    log_odds = torch.randn(1, 1, 90, 70)
    by_budget = assign_budget(log_odds, (0.3, 0.7), (0.0, 1.0), share)
    assert torch.equal(heaviest(log_odds[:, 0], share), by_budget)


def test_random_is_the_generators() -> None:
    like = torch.zeros(1, 50, 60)
    first, again, other = (random_score(like, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert heaviest(first, 0.2).sum() == 600


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_patches_are_filled_in_the_order_of_their_means(share: float) -> None:
    score = torch.rand(1, 40, 60)
    score[:, 8:16] = score[:, 16:24]  # patches of equal means are still taken one by one
    assignment = heaviest(patch_score(score, 8, generator()), share)
    assert assignment.sum() == round(share * 2400)
    filled, means = (
        image[0].float().unfold(0, 8, 8).unfold(1, 8, 8).contiguous().flatten(0, 1).flatten(1).mean(1)
        for image in (assignment, score)
    )  # 5 full rows of 7 patches
    narrow = assignment[0, :, 56:].float().unfold(0, 8, 8).flatten(1).mean(1)
    narrow_means = score[0, :, 56:].unfold(0, 8, 8).flatten(1).mean(1)
    filled, means = torch.cat([filled, narrow]), torch.cat([means, narrow_means])
    assert ((filled > 0) & (filled < 1)).sum() <= 1
    assert means[filled > 0].min() >= means[filled == 0].max() - 1e-6


def test_one_patch_alone_is_random() -> None:
    score = torch.arange(600.0).view(1, 20, 30)
    assignment = heaviest(patch_score(score, 64, generator()), 0.5)
    assert torch.equal(assignment, heaviest(random_score(score, generator()), 0.5))


def test_gradient_of_an_edge() -> None:
    lr = torch.zeros(1, 3, 6, 8)
    lr[..., 4:] = torch.tensor([0.6, 0.0, 0.8]).view(3, 1, 1)  # length 1
    expected = torch.zeros(1, 1, 6, 8)
    expected[..., 3:5] = 0.5
    torch.testing.assert_close(gradient_score(lr, (6, 8)), expected[:, 0])
    torch.testing.assert_close(gradient_score(lr.transpose(2, 3), (8, 6)), expected[:, 0].transpose(1, 2))
    torch.testing.assert_close(gradient_score(lr, (15, 20)), bilinear(expected, grid_over(expected, (15, 20)))[:, 0])


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_no_rule_beats_the_oracle(share: float) -> None:
    light, hr = torch.rand(2, 1, 3, 48, 64)
    heavy = light.lerp(hr, 0.3) + 0.2 * torch.randn(1, 3, 48, 64)

    def error(assignment: Tensor) -> float:
        return float(squared_error(compose(light, heavy, assignment), hr).double().sum())

    lowered = squared_error(light, hr) - squared_error(heavy, hr)
    best = error(heaviest(lowered, share))
    near = lowered + 0.05 * torch.randn(lowered.shape)
    scores = [random_score(near, generator()), near, patch_score(lowered, 8, generator()), -lowered]
    errors = [error(heaviest(score, share)) for score in scores]
    assert best < min(errors) and errors[3] == max(errors)


@torch.inference_mode()
def test_composed_is_what_the_model_upsamples() -> None:
    model, lr, size = build_pcsr(TINY_PCSR).eval(), torch.rand(1, 3, 12, 15), (48, 60)
    engine = Engine(model)
    encoded = engine.encode(lr)
    light, heavy = (engine.upsample(encoded, size, torch.full((1, *size), j)) for j in range(2))
    log_odds = engine.classify(encoded, size)
    for score in (log_odds[:, 0], patch_score(heaviness(log_odds), 16, generator())):
        assignment = heaviest(score, 0.3)
        expected = engine.upsample(encoded, size, assignment)
        torch.testing.assert_close(compose(light, heavy, assignment), expected, rtol=0, atol=1e-6)


def test_the_way_that_all_pixels_heavy_would_go() -> None:
    rules = {"all heavy": [(1.0, 27.0)], "random": [(0.1, 24.0), (0.5, 26.0)], "oracle": [(0.1, 28.0), (0.5, 28.0)]}
    lines = [(rule, *point) for rule, points in rules.items() for point in points]
    ways = heavy_way(pd.DataFrame(lines, columns=["rule", "share", "psnr"]))
    assert ways.to_dict() == {0.1: 0.75, 0.5: 0.5}


@pytest.mark.parametrize("refinement", [False, True])
@torch.inference_mode()
def test_psnr_is_that_of_the_picture(refinement: bool) -> None:
    model, hr, lr = build_pcsr(TINY_PCSR).eval(), torch.rand(1, 3, 48, 60), torch.rand(1, 3, 12, 15)
    rows = Router(model, torch.device("cpu"), [0.3], 1, refinement, seed=0).measure(Pair("name", hr, lr))
    feat, grid = model.encode(lr), grid_over(lr, (48, 60))
    chosen = {
        "classifier": heaviest(model.classify(feat, grid)[:, 0], 0.3),
        "gradient": heaviest(gradient_score(lr, (48, 60)), 0.3),
        "all heavy": torch.ones(1, 48, 60, dtype=torch.uint8),
    }
    for rule, assignment in chosen.items():
        sr = model.upsample(lr, feat, grid, assignment)
        expected = psnr(refine(sr, assignment) if refinement else sr, hr, 4)
        (row,) = [row for row in rows if row["rule"] == rule]
        assert row["psnr"] == pytest.approx(expected, abs=1e-3)  # of other kernels: a level may round the other way
        assert row["heavy_share"] == int(assignment.sum()) / assignment.numel()


@pytest.mark.parametrize("refinement", [(), ("--refinement",)])
def test_the_benchmark(cli: Cli, tmp_path: Path, refinement: tuple[str, ...]) -> None:
    save_tiny(tmp_path / "tiny", TINY_PCSR)
    make_folder(tmp_path / "a", [(61, 83), (150, 140)])
    make_folder(tmp_path / "b", [(48, 40)])
    options = ("--hr_data", "a", "b", "--model", "tiny", "--shares", 30, 5, "--rounds", 1, "--device", "cpu")
    done = cli("benchmarks/routing.py", *options, *refinement, "--plot", "out/r.png", "--json")
    assert done.code == 0, done.err
    assert "of the way to the oracle" in done.out and "\nall heavy  " in done.out
    assert ("not refined" in done.out) == (not refinement)
    assert read_image(tmp_path / "out/r.png").pixels.ndim == 3
    images = pd.read_csv(tmp_path / "results/benchmarks/routing-images.csv")
    summary = pd.read_csv(tmp_path / "results/benchmarks/routing.csv")
    assert json.loads(done.out.splitlines()[-1])[0].keys() == set(summary)
    assert len(images) == 3 * (2 + 11 * 2) and len(summary) == 2 * (2 + 11 * 2)
    equal = images[~images["rule"].isin(["gradient alone", "all light", "all heavy"])]
    assert (equal["heavy_share"] - equal["share"]).abs().max() < 1e-3
    paid = equal.groupby(["dataset", "image", "share"])[["flops_paper", "flops_executed"]].agg(["min", "max"])
    assert all((paid[account, "min"] == paid[account, "max"]).all() for account in ("flops_paper", "flops_executed"))
    paper = images.pivot_table("flops_paper", ["dataset", "image", "share"], "rule").dropna(subset="classifier")
    assert (paper["gradient alone"] / paper["classifier"] - 1).abs().max() < 1e-3
    reached = images.pivot_table("psnr", ["dataset", "image", "share"], "rule").dropna(subset="oracle")
    if not refinement:
        assert (reached.drop(columns="gradient alone").max(axis=1) == reached["oracle"]).all()
    way = summary.pivot_table("way", ["dataset", "share"], "rule")
    assert (way["oracle"] == 1).all() and (way["random"] == 0).all()
    assert summary[summary["rule"] == "oracle"]["decision_seconds"].isna().all()
    assert (summary[summary["rule"] == "classifier"]["decision_seconds"] > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--shares", "0"), "--shares 0"),
        (("--shares", "100"), "--shares 100"),
        (("--rounds", "0"), "--rounds: 0: must be 1 or more"),
        (("--hr_data", "a", "a"), "a: named twice"),
        (("--hr_data", "none"), "no such folder"),
        (("--images_csv", "out.csv", "--csv", "./out.csv"), "--images_csv out.csv: is the file of --csv"),
        (("--model", "three"), "3 upsamplers"),
        (("--model", "single"), "has no classifier"),
        (("--model", "original"), "has no classifier"),
    ],
)
def test_bad_options(cli: Cli, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    three = TINY_PCSR.model_copy(update={"upsamplers": ((4,), (6,), (8, 8))})
    single = TINY_PCSR.model_copy(update={"upsamplers": ((8, 8),), "classifier": None})
    for name, spec in (("tiny", TINY_PCSR), ("three", three), ("single", single)):
        save_tiny(tmp_path / name, spec)
    save_tiny(tmp_path / "original", TINY_ORIGINAL)
    make_folder(tmp_path / "a", [(48, 40)])
    done = cli("benchmarks/routing.py", "--hr_data", "a", "--model", "tiny", "--device", "cpu", *options)
    assert done.code == 2 and message in done.err and len(done.err.splitlines()) == 1 and not done.out
    assert not (tmp_path / "results").exists()
