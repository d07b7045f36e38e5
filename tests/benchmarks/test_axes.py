"""benchmarks/axes.py: models side by side."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import TINY_ORIGINAL, TINY_PCSR, Cli, make_folder, save_tiny


@pytest.fixture
def work(tmp_path: Path) -> Path:
    make_folder(tmp_path / "hr", [(61, 83), (48, 40)])
    save_tiny(tmp_path / "save/plain", TINY_PCSR)
    save_tiny(tmp_path / "save/m3", TINY_PCSR.model_copy(update={"upsamplers": ((4,), (6, 6), (8, 8, 8))}))
    save_tiny(tmp_path / "save/phase0", TINY_PCSR.model_copy(update={"upsamplers": ((8, 8),), "classifier": None}))
    save_tiny(tmp_path / "save/original", TINY_ORIGINAL)
    (tmp_path / "save/m3/metrics.csv").write_text("iteration,val/psnr\n10,20.0\n20,21.0\n")
    return tmp_path


def test_every_model_and_scale_as_test_pcsr_measures_it(cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.report.plot_curve", lambda _: b"")  # slow to draw, and not looked at
    models = [f"save/{name}" for name in ("plain", "m3", "phase0")]
    options = ["--hr_data", "hr", "--scales", 2.5, 4, "--out_dir", "out"]
    outcome = cli("benchmarks/axes.py", "--models", *models, *options)
    assert outcome.code == 0, outcome.err
    table = pd.read_csv(work / "out/axes.csv")
    settings = ["k=-1", "k=0", "k=1", "adaptive"]
    rows = [(name, scale, rule) for name in ("plain", "m3") for scale in (2.5, 4) for rule in settings]
    rows += [("phase0", scale, "heavy") for scale in (2.5, 4)]
    assert list(zip(table["model"], table["scale"], table["setting"], strict=True)) == rows
    assert table.groupby("model")["iterations"].max().dropna().to_dict() == {"m3": 20}
    rules = ["--k", -1, 0, 1, "--adaptive", "--json"]
    expected = cli("test_pcsr.py", "--model", "save/m3", "--hr_data", "hr", "--per_image", "--scale", 2.5, *rules)
    for row in json.loads(expected.out.splitlines()[-1]):
        (found,) = table[
            (table["model"] == "m3") & (table["scale"] == 2.5) & (table["setting"] == row["setting"])
        ].to_dict("records")
        for key in ("images", "psnr", "heavy_share", "flops_paper", "flops_executed"):
            assert found[key] == pytest.approx(row[key], rel=1e-5), key
    files = ("out/m3/hr-x4/images.csv", "out/plain/hr-x4/images.csv", "--json")
    compared = cli("evaluation/report.py", "--compare", *files)
    assert [row["setting_a"] for row in json.loads(compared.out.splitlines()[-1])] == settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models", "save/original"], "save/original: an original model"),
        (["--models", "save/plain", "save/../save/plain"], "two are called plain"),
        (["--models", "save/none"], "no such model"),
        (["--models", "save/plain", "--scales", "0.5"], "scale 0.5: must be a finite number of 1 or more"),
        (["--models", "save/plain", "--hr_data", "nowhere"], "nowhere: no such folder"),
        (["--models", "save/plain", "--hr_data", "hr", "save/../hr"], "two data folders have the same name"),
        ([], "--models"),
    ],
)
def test_bad_input(options: list[str], message: str, cli: Cli, work: Path) -> None:
    outcome = cli("benchmarks/axes.py", "--hr_data", "hr", *options)
    assert outcome.code == 2 and outcome.err.count("\n") == 1 and message in outcome.err
    assert not (work / "results").exists()
