"""The benchmarks run, and their other side computes the same."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks import published
from models.build import build_pcsr
from models.decide import assign_k
from models.pcsr import refine
from tests.conftest import ROOT, TINY_ORIGINAL, TINY_PCSR, make_folder, save_tiny


@pytest.mark.parametrize("size", [(36, 48), (23, 32)])
@torch.inference_mode()
def test_the_published_formulation_gives_the_same_picture(size: tuple[int, int]) -> None:
    model, lr = build_pcsr(TINY_PCSR).eval(), torch.rand(1, 3, 9, 12)
    encoded = model.encode(lr)
    assignment = assign_k(model.log_odds(encoded, size), model.account().cost(size[0] / 9), 0.0)
    expected = refine(model.upsample(encoded, size, assignment), assignment)
    torch.testing.assert_close(published.restore(model, lr, size, 0.0), expected, rtol=0, atol=2e-5)


def test_inference(tmp_path: Path) -> None:
    save_tiny(tmp_path / "pcsr", TINY_PCSR)
    save_tiny(tmp_path / "original", TINY_ORIGINAL)
    make_folder(tmp_path / "hr", [(61, 83)])
    command = [sys.executable, str(ROOT / "benchmarks/inference.py"), "--img_path", "hr", "--rounds", "1", "--json"]
    weights = ["--model", "pcsr", "--original", "original", "--device", "cpu"]
    done = subprocess.run([*command, *weights], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout.splitlines()[-1])}
    assert {"published k=0", "original eager", "k=0", "all light", "all heavy", "ADM"} <= rows.keys()
    assert rows["all light"]["flops_executed"] < rows["all heavy"]["flops_executed"]
    assert all(row["seconds"] > 0 for row in rows.values()) and rows["published k=0"]["flops_paper"] is None
    assert pd.read_csv(tmp_path / "results/benchmarks/inference.csv")["output"].unique().tolist() == ["80x60"]


def test_training(tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    command = [sys.executable, str(ROOT / "benchmarks/training.py"), "--backbone", "fsrcnn", "--rounds", "1"]
    small = ["--batch_size", "2", "--patch_size", "8", "--pixels_per_patch", "100", "--device", "cpu"]
    done = subprocess.run([*command, *small], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "results/benchmarks/training.csv")
    assert table["job"].unique().tolist() == ["original", "phase 0", "phase 1"] and (table["seconds"] > 0).all()
