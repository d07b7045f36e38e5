"""The command for GPUs: what it does first, how long its jobs may take, and a rehearsal on the CPU."""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_inference import PRECISIONS, inference, picture
from benchmarks.gpu_training import ON_CPU, train_run, training
from datasets.pack import pack
from models.checkpoint import load_model
from tests.conftest import ROOT, Cli, make_folder

CPU = torch.device("cpu")
COMMAND = """
import signal
from pathlib import Path
import torch
from benchmarks import gpu
from utils.cli import run
gpu.__file__ = {job!r}
signal.signal(signal.SIGTERM, gpu.stop)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
run(lambda: gpu.start({{"kind": "machine"}}, Path({out!r}), torch.device("cpu"), 60))
"""


def options(**changes: object) -> Namespace:
    given = {"train_backbone": "srresnet", "images": None, "pack": None, "train_minutes": 4.0}
    return Namespace(**{**given, "train_set": [], "batch_size": 2, **changes})


def test_the_most_important_first() -> None:
    jobs = gpu.plan(options(pack=Path("pack.npz")))
    first = [(job["kind"], job.get("backbone")) for job in jobs[:5]]
    expected = [
        ("machine", None),
        ("tests", None),
        ("inference", "carn"),
        ("training", "srresnet"),
        ("train", "srresnet"),
    ]
    assert first == expected
    assert {job["backbone"] for job in jobs if job["kind"] == "training"} == {"carn", "srresnet", "softgate", "fsrcnn"}
    assert "train" not in [job["kind"] for job in gpu.plan(options())]
    for job in jobs[:4]:
        assert gpu.limit(job, 1000, 0) == gpu.MOST[job["kind"]]
        assert gpu.limit(job, 300, 290) == 10  # the rest is kept for the training
    assert 4 * 60 < gpu.limit(jobs[4], 1000, 0) < 400 and gpu.limit(jobs[4], 200, 0) == 200
    assert all((ROOT / "tests" / name).is_file() for name in gpu.TESTS)


def test_the_training_takes_the_fastest_way() -> None:
    speeds = {"bfloat16": 10, "tf32": 12, "bfloat16 compiled": 13}
    rows = [{"backbone": "carn", "job": "phase 0", "way": way, "it_per_s": speed} for way, speed in speeds.items()]
    assert gpu.flags_of(rows, "carn") == []
    rows[-1]["it_per_s"] = 20
    assert gpu.flags_of(rows, "carn") == ["--amp", "--compile"]
    assert gpu.flags_of(rows, "fsrcnn") == gpu.flags_of([{"error": "RuntimeError: none"}], "carn") == ["--amp"]


def test_picture(tmp_path: Path) -> None:
    made = picture(700, 2000, None)
    assert made.shape == (700, 2000, 3) and made.std() > 20
    assert picture(64, 300, make_folder(tmp_path / "hr", [(61, 83), (48, 40)])).shape == (64, 300, 3)


def test_rows_of_restoring_and_training(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu_inference.SIZES", {"2K": (64, 64)})
    monkeypatch.setattr("benchmarks.gpu_inference.LEAST", 1)
    monkeypatch.setattr("benchmarks.gpu_inference.TIMED", {"cpu": 0.0})
    monkeypatch.chdir(ROOT)
    rows = list(inference("fsrcnn", "2K", None, CPU))
    assert not [row for row in rows if "error" in row]
    ways = {row["name"]: row for row in rows if "name" in row}
    assert {f"ours {name}, k=0" for name in PRECISIONS} < ways.keys() and "published" in ways
    assert ways["published"]["psnr"] == pytest.approx(ways["ours float32, k=0"]["psnr"], abs=0.01)
    assert ways["ours bfloat16, k=0"]["psnr"] == pytest.approx(ways["ours float32, k=0"]["psnr"], abs=0.5)
    steps = [row for row in rows if "step" in row]
    assert len(steps) == 6 * len(PRECISIONS) and all(row["floor_seconds"] > 0 for row in steps)
    rows = list(training("fsrcnn", CPU))
    assert len(rows) == 2 * len(ON_CPU) and all(row["it_per_s"] > 0 for row in rows)
    assert {row["way"] for row in rows} == {"bfloat16", "float32"}


@pytest.mark.slow
def test_results_of_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file whose tests pass, fail, skip and hang; the last is interrupted in time."""
    test = "import time\nimport pytest\npytestmark = pytest.mark.gpu\n"
    test += "def test_good(): pass\ndef test_bad(): assert 1 == 2\ndef test_left_out(): pytest.skip('no reason')\n"
    (tmp_path / "test_some.py").write_text(test + "def test_hanging(): time.sleep(60)\n")
    monkeypatch.setattr(gpu, "TESTS", ("", os.path.relpath(tmp_path / "test_some.py", ROOT / "tests")))
    monkeypatch.setattr(gpu, "REHEARSED", "test")
    began = time.monotonic()
    rows = {row["test"].rpartition("::")[2]: row for row in gpu.tests(tmp_path, CPU, gpu.WRITING + gpu.START + 9)}
    assert time.monotonic() - began < 50
    outcomes = {name: row["outcome"] for name, row in rows.items()}
    assert outcomes == {
        "test_good": "passed",
        "test_bad": "failure",
        "test_left_out": "skipped",
        gpu.TESTS[1]: "interrupted",
    }
    assert "1 == 2" in rows["test_bad"]["message"] and "no reason" in rows["test_left_out"]["message"]


def test_a_training_from_packed_crops(cli: Cli, tmp_path: Path) -> None:
    pack(make_folder(tmp_path / "train", [(80, 90), (70, 80)]), tmp_path / "pack.npz", 64, 20, 0)
    job = {"backbone": "fsrcnn", "minutes": 1.0, "pack": "pack.npz", "batch_size": 2, "run": "run", "flags": []}
    settings = ["iter_max=2", "val_every=2"]
    first, second = train_run({**job, "settings": settings}, tmp_path, CPU)
    assert first["iterations"] == second["iterations"] == 2 and first["validations"][0]["val/psnr"] > 5
    assert len(first["files"]) == 3 and len(second["files"]) == 2
    assert all((tmp_path / name).is_file() for name in (*first["files"], *second["files"]))
    (tmp_path / "weights").mkdir()
    for name in ("model.safetensors", "config.yaml"):
        (tmp_path / f"run-phase1-{name}").rename(tmp_path / "weights" / name)
    load_model(tmp_path / "weights")


def test_no_gpu(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    outcome = cli("benchmarks/gpu.py")
    assert outcome.code == 2 and outcome.err == "error: no CUDA device here; --device cpu --minutes 2 rehearses\n"
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert cli("benchmarks/gpu.py").err == outcome.err
    outcome = cli("benchmarks/gpu.py", "--device", "cpu", "--images", "missing")
    assert outcome.code == 2 and "missing: no such folder" in outcome.err
    Path("pack.npz").touch()
    outcome = cli("benchmarks/gpu.py", "--device", "cpu", "--pack", "pack.npz", "--train_minutes", 9)
    assert outcome.code == 2 and outcome.err == "error: --train_minutes 9: needs --minutes 10.25 or more\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_ends_with_the_command(number: signal.Signals, tmp_path: Path) -> None:
    """A job that would take a minute and has a child of its own; neither is left after SIGTERM or Ctrl-C."""
    started = tmp_path / "started"
    job = "import subprocess, sys, time\nfrom pathlib import Path\n"
    job += "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    job += f"Path({str(tmp_path / 'new')!r}).write_text(str(child.pid))\n"
    job += f"Path({str(tmp_path / 'new')!r}).rename({str(started)!r})\ntime.sleep(60)\n"
    (tmp_path / "job.py").write_text(job)
    # a process of its own: a library loaded by another test may leave no stack for real signals
    code = COMMAND.format(job=str(tmp_path / "job.py"), out=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True) as command:
        while not started.exists() and command.poll() is None:
            time.sleep(0.01)
        command.send_signal(number)
        errors = command.communicate()[1]
    assert command.returncode == 128 + number, errors
    assert errors.startswith("stopped by SIGTERM") if number == signal.SIGTERM else errors == ""
    status = Path(f"/proc/{started.read_text()}/stat")
    end = time.monotonic() + 10
    while status.exists() and " Z " not in status.read_text() and time.monotonic() < end:
        time.sleep(0.01)  # SIGKILL takes a moment
    assert time.monotonic() < end


@pytest.mark.slow
def test_rehearsal(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [{"kind": "machine"}, {"kind": "training", "backbone": "nonsense"}, {"kind": "machine"}]
    monkeypatch.setattr(gpu, "plan", lambda args: jobs)
    gpu.run_all(options(minutes=2.0, out=tmp_path / "out"), CPU)
    content = json.loads((tmp_path / "out/gpu.json").read_text())
    assert [result["status"][:6] for result in content["jobs"]] == ["done", "done", "done"]
    assert content["jobs"][0]["rows"][0]["torch"] == torch.__version__
    assert all("nonsense" in row["error"] for row in content["jobs"][1]["rows"])  # which costs the others nothing
    assert (tmp_path / "out/gpu.log").is_file() and "machine: done" in capsys.readouterr().out
    stopped = gpu.start(jobs[0], tmp_path / "out", CPU, 0.5)
    assert stopped["status"] == "stopped after 0 seconds" and stopped["rows"] == []
    failed = gpu.start({"kind": "train"}, tmp_path / "out", CPU, 60)
    assert failed["status"].startswith("failed with code 1")
