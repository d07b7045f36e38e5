"""make report: its steps make their results again when the weights have changed."""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks import report
from benchmarks.report import Step
from tests.conftest import ROOT, TINY_PCSR, make_folder, save_tiny


@pytest.mark.slow
def test_results_of_earlier_weights_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORK", "KEPT"):
        monkeypatch.setattr(report, name, tmp_path / name)
    monkeypatch.chdir(ROOT)
    model, hr = save_tiny(tmp_path / "tiny", TINY_PCSR), make_folder(tmp_path / "hr", [(40, 48)])
    table, picture = tmp_path / "WORK/tiny/hr/images.csv", tmp_path / "KEPT/img_0/comparison.png"
    common = ["--model", str(model), "--device", "cpu", "--out_dir"]
    evaluation = ["test_pcsr.py", *common, str(table.parent), "--hr_data", str(hr), "--per_image"]
    demo = ["demo.py", *common, str(picture.parents[1]), "--img_path", str(hr / "img_0.png")]
    reads = [model / "model.safetensors"]
    steps = [Step("evaluation", evaluation, [table], reads), Step("demo", demo, [picture], reads)]
    for path in (table, picture):  # of before
        path.parent.mkdir(parents=True)
        for name in (path.name, "summary.csv", "curve.png", "report.csv", "hr.png"):
            path.with_name(name).write_text("old")
    for step in steps:
        assert not step.done()
        step.run()
        assert step.done()
    assert [path.name for path in (tmp_path / "KEPT").iterdir()] == ["img_0"] and picture.stat().st_size > 1000
    report.collect(steps[:1])
    assert pd.read_csv(tmp_path / "KEPT/summary.csv")["model"].tolist() == ["tiny"]
    save_tiny(model, TINY_PCSR)
    assert not any(step.done() for step in steps)
