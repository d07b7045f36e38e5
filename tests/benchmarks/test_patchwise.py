"""Patches against whole images: what counts as a seam, and the benchmark."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks.patchwise import seams
from tests.conftest import TINY_PCSR, Cli, make_folder, save_tiny
from utils.patches import Patches


def test_seams_of_a_small_case() -> None:
    lr = torch.zeros(1, 3, 6, 10)
    rows, cols = torch.zeros(24, dtype=torch.bool), torch.zeros(40, dtype=torch.bool)
    for edge in (4, 8):  # patches of 4 start at 0, 4 and, flush with the end, 6; the edges of the image are no seams
        cols[4 * edge - 2 : 4 * edge + 2] = True
    cols[4 * 6 - 2 : 4 * 6 + 2] = True
    for edge in (2, 4):  # here at 0 and 2
        rows[4 * edge - 2 : 4 * edge + 2] = True
    assert torch.equal(seams(lr, Patches(4, 4), 2), rows[:, None] | cols)
    assert not seams(lr, Patches(10, 10), 8).any()
    assert seams(lr, Patches(8, 7), 1000).all()  # wider than the image


def test_seams_of_overlapping_patches_lie_on_both_sides() -> None:
    near = seams(torch.zeros(1, 3, 4, 12), Patches(8, 4), 1)[0]  # 0..8 and 4..12
    assert near.nonzero().flatten().tolist() == [15, 16, 31, 32]


def test_the_benchmark(cli: Cli, tmp_path: Path) -> None:
    save_tiny(tmp_path / "tiny", TINY_PCSR)
    make_folder(tmp_path / "a", [(61, 83), (150, 140)])  # LR 15x20 and 37x35
    sizes = ("--patch_size", 12, 24, 64, "--overlap", 4, 0, "--k", 0, "inf")
    options = ("--hr_data", "a", "--model", "tiny", "--rounds", 2, "--device", "cpu", *sizes)
    done = cli("benchmarks/patchwise.py", *options, "--json")
    assert done.code == 0, done.err
    images = pd.read_csv(tmp_path / "results/benchmarks/patchwise-images.csv").set_index(["image", "cut", "k"])
    summary = pd.read_csv(tmp_path / "results/benchmarks/patchwise.csv")
    assert json.loads(done.out.splitlines()[-1])[0].keys() == set(summary)
    cuts = ["whole", "12/8", "24/20", "64/60", "12/12", "24/24", "64/64"]
    assert summary["cut"].unique().tolist() == cuts and len(images) == 2 * 2 * len(cuts)
    small = images.loc["img_0"].to_dict()  # column -> (cut, k) -> value
    counts = {"12/8": 4, "12/12": 4, "24/20": 1, "64/64": 1}
    assert {cut: small["patches"][cut, 0.0] for cut in counts} == counts
    for k in (0.0, math.inf):
        for cut in ("24/20", "64/64"):  # one patch: the same picture and bill, and no seam
            for column in ("psnr", "flops_paper", "flops_executed", "heavy_share"):
                assert small[column][cut, k] == small[column]["whole", k]
            assert math.isnan(small["psnr_seams"][cut, k]) and math.isnan(small["whole_seams"][cut, k])
    repeated = 4 * 12 * 12 / (15 * 20)  # patches overlap, and all of them are paid for
    for bill in (small["flops_paper"], small["flops_executed"]):
        assert bill["12/8", math.inf] == pytest.approx(bill["whole", math.inf] * repeated, rel=1e-6)
    seamed = summary[summary["seam_share"] > 0]
    assert set(seamed["cut"]) == {"12/8", "12/12", "24/20", "24/24"}
    assert set(seamed.loc[seamed["cut"] == "24/20", "with_seams"]) == {1}
    assert (seamed["flops_paper_ratio"] > 1).all() and seamed[["psnr_seams", "whole_seams"]].notna().all(axis=None)
    assert (seamed.groupby("cut")["psnr_seams"].first() != seamed.groupby("cut")["whole_seams"].first()).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--overlap", 8), "--overlap 8"),
        (("--overlap", -1), "--overlap -1"),
        (("--seam", 0), "--seam"),
        (("--k", "nan"), "k must be a number, not nan"),
        (("--hr_data", "none"), "no such folder"),
        (("--model", "none"), "none"),
    ],
)
def test_bad_options(cli: Cli, tmp_path: Path, options: tuple[object, ...], message: str) -> None:
    save_tiny(tmp_path / "tiny", TINY_PCSR)
    make_folder(tmp_path / "a", [(48, 40)])
    fixed = ("--hr_data", "a", "--model", "tiny", "--device", "cpu", "--patch_size", 8)
    done = cli("benchmarks/patchwise.py", *fixed, *options)
    assert done.code == 2 and message in done.err and len(done.err.splitlines()) == 1
    assert not (tmp_path / "results").exists()
