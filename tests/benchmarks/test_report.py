"""make report: its steps make their results again when the weights have changed."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from benchmarks import report
from benchmarks.report import Step
from tests.conftest import ROOT, TINY_PCSR, Cli, make_folder, save_tiny
from utils.errors import InputError


@pytest.mark.slow
def test_results_of_earlier_weights_are_replaced(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_this_process(words: list[str], **_: object) -> SimpleNamespace:
        return SimpleNamespace(returncode=cli(*words[1:]).code)

    for name in ("WORK", "KEPT"):
        monkeypatch.setattr(report, name, tmp_path / name)
    monkeypatch.setattr(report, "subprocess", SimpleNamespace(run=in_this_process))
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


def test_a_step_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORK", "KEPT"):
        monkeypatch.setattr(report, name, tmp_path / name)
    picture = tmp_path / "KEPT/astronaut/comparison.png"
    picture.parent.mkdir(parents=True)
    picture.write_text("old")
    step = Step("demo", ["-c", f"open({str(picture)!r}, 'w'); raise SystemExit(1)"], [picture], [])
    with pytest.raises(InputError, match=r"demo: python -c .* failed"):
        step.run()
    assert [path.name for path in picture.parents[1].iterdir()] == ["astronaut"]
    assert picture.read_text() == "old" and not step.done()


def test_what_changes_while_a_step_runs_makes_it_due_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORK", "KEPT"):
        monkeypatch.setattr(report, name, tmp_path / name)
    weights, table = tmp_path / "weights", tmp_path / "KEPT/table.csv"
    weights.write_text("old")
    table.parent.mkdir()
    step = Step(
        "table", ["-c", f"open({str(table)!r}, 'w'); open({str(weights)!r}, 'a').write('new')"], [table], [weights]
    )
    step.run()
    assert not step.done()
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0))
    step.run()
    assert step.done()
