"""The published weights compute here what the published code computes with them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.checkpoint import load_model
from models.flops import network_flops
from models.original import OriginalModel
from models.pcsr import PCSR
from models.setting import Setting

IMAGES = ["woman", "butterfly"]
SCALES = [4, 2, 3, 2.5]
KS = {"k0": 0.0, "k0_refined": 0.0, "k1": 1.0, "kminus0.5": -0.5, "heavy": float("-inf")}


class Case:
    def __init__(self, folder: Path, image: str) -> None:
        self.arrays = np.load(folder / "outputs" / f"carn_{image}.npz")
        self.numbers: dict[str, Any] = json.loads((folder / "outputs" / f"carn_{image}.json").read_text())
        self.lr = torch.from_numpy(self.arrays["lr_u8"]).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(params=IMAGES)
def case(reference: Path, request: pytest.FixtureRequest) -> Case:
    return Case(reference / "reference", request.param)


@pytest.fixture
def pcsr(reference: Path) -> PCSR:
    model, _ = load_model(reference / "reference" / "carn-pcsr-phase1.pth")
    assert isinstance(model, PCSR)
    return model


def settled(n: int, size: int) -> NDArray[np.bool_]:
    """Rows or columns whose centre does not fall exactly between two LR pixels, where the nearest one is a tie."""
    return ((2 * np.arange(size) + 1) * n) % (2 * size) != 0


def test_original(reference: Path, case: Case) -> None:
    model, _ = load_model(reference / "reference" / "carn-x4.pth")
    assert isinstance(model, OriginalModel)
    with torch.no_grad():
        sr = model(case.lr)[0].numpy()
    assert np.abs(sr - case.arrays["original_x4"]).max() < 1e-4
    flops = network_flops(model).paper * case.lr[0, 0].numel()
    assert flops == pytest.approx(case.numbers["original_x4_flops_paper"], rel=0.005)


@pytest.mark.parametrize("scale", SCALES)
@torch.no_grad()
def test_pcsr(case: Case, pcsr: PCSR, scale: float) -> None:
    h, w = case.lr.shape[-2:]
    size = (round(h * scale), round(w * scale))
    keep: tuple[NDArray[Any], ...] = np.ix_(settled(h, size[0]), settled(w, size[1]))
    parts = pcsr.flops
    assert parts.cost(scale) == pytest.approx(case.numbers[f"x{scale}_cost"], abs=1e-5)
    for name, k in KS.items():
        if name in ("k1", "kminus0.5") and scale != 4:
            continue  # the reference has these at x4 only
        refined = name.endswith("refined")
        sr, assignment, prob = pcsr(case.lr, size, Setting("k", k, refined, scale))
        assert np.abs(prob[0, 1].numpy() - case.arrays[f"x{scale}_prob_heavy"])[keep].max() < 1e-4
        expected = np.ones(size) if name == "heavy" else case.arrays[f"x{scale}_{name}_assignment"]
        assert (assignment[0].numpy() == expected)[keep].mean() >= 0.9995, name
        error = np.abs(sr[0].numpy() - case.arrays[f"x{scale}_{name}_sr"])
        compared = neighbours_settled(h, w, size) if refined else keep
        assert error[:, *compared].max() < 1e-4, name
        heavy = float(assignment.sum())
        flops = parts.total(h * w, [assignment.numel() - heavy, heavy]).paper
        assert flops == pytest.approx(case.numbers[f"x{scale}_{name}_flops_paper"], rel=0.005), name


def neighbours_settled(h: int, w: int, size: tuple[int, int]) -> tuple[NDArray[Any], ...]:
    """Refinement reads the 3x3 neighbourhood, so a tie reaches one row or column further."""
    axes = []
    for n, length in zip((h, w), size, strict=True):
        good = np.pad(settled(n, length), 1, constant_values=True)
        axes.append(good[:-2] & good[1:-1] & good[2:])
    return np.ix_(*axes)


@torch.no_grad()
def test_adaptive(case: Case, pcsr: PCSR) -> None:
    h, w = case.lr.shape[-2:]
    assignment = pcsr(case.lr, (4 * h, 4 * w), Setting("adaptive")).assignment
    assert abs(float(assignment.float().mean()) - case.arrays["x4_adm_assignment"].mean()) < 0.03
    heavy = float(assignment.sum())
    flops = pcsr.flops.total(h * w, [assignment.numel() - heavy, heavy]).paper
    assert flops == pytest.approx(case.numbers["x4_adm_flops_paper"], rel=0.03)
