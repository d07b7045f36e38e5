"""Jobs of two processes; a launch takes seconds, so that each checks several things."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from datasets.folder import PairedFolder
from evaluation.evaluate import MeasuringProtocol, evaluate
from inference.restorers import original_restorer
from models.build import build_original
from models.checkpoint import load_model
from models.flops import network_flops
from models.original import OriginalModel
from tests.conftest import ROOT, TINY_PCSR, Cli, Outcome, config_for, make_folder, save_tiny
from training.loop import settle, train
from training.tasks import OriginalTask
from utils.config import OriginalSpec
from utils.dist import Ranks, gather, start_ranks
from utils.dist import main as launch
from utils.errors import InputError

SMALL = ["patch_size=8", "batch_size=4", "data.train=train", "val=val", "log_every=1", "val_every=2", "save_every=2"]
TWO = Ranks(1, 2, torch.device("cpu"))
# train_pcsr.py, but rank 1 ends at some step: the n-th word of CRASHES says how and when at the n-th start
CRASHING = f"""
import os, runpy, signal, time, torch
step, steps = torch.optim.Adam.step, []
def crashing(*args, **kwargs):
    steps.append(None)
    crashes, start = os.environ["CRASHES"].split(), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    crash = crashes[start] if start < len(crashes) and os.environ["RANK"] == "1" else None
    if crash == f"SIGKILL:{{len(steps)}}":
        os.kill(os.getpid(), signal.SIGKILL)
    if start < len(crashes) and crashes[start] == f"SIGKILL:{{len(steps)}}":
        time.sleep(1)  # rank 0 is told to stop before it notices that rank 1 is gone
    if crash == f"exception:{{len(steps)}}":
        raise RuntimeError("a bug")
    return step(*args, **kwargs)
torch.optim.Adam.step = crashing
runpy.run_path({str(ROOT / "train_pcsr.py")!r}, run_name="__main__")
"""


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    make_folder(tmp_path / "train", [(48, 64), (64, 48), (40, 40)])
    make_folder(tmp_path / "val", [(40, 44)])  # nothing in it for a second rank
    (tmp_path / "crashing.py").write_text(CRASHING)
    return tmp_path


def start_two(folder: Path, script: str | Path, *args: object, **environment: str) -> subprocess.Popen[str]:
    """`./dist.sh SCRIPT ARGS --cpu 2` in a folder, as a process group of its own."""
    return subprocess.Popen(
        [str(ROOT / "dist.sh"), str(script), *map(str, args), "--cpu", "2"],
        cwd=folder,
        env={
            **os.environ,
            "VIRTUAL_ENV": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def two_processes(folder: Path, script: str | Path, *args: object, **environment: str) -> Outcome:
    job = start_two(folder, script, *args, **environment)
    out, err = job.communicate()
    return Outcome(job.returncode, out, err)


def assert_same_run(one: Path, two: Path) -> None:
    """FSRCNN has no BatchNorm, so that half the batch twice gives the gradients of the whole."""
    expected, found = (load_model(folder)[0].state_dict() for folder in (one, two))
    for key, value in expected.items():
        torch.testing.assert_close(value, found[key], atol=2e-5, rtol=1e-4)
    logs = [[json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (one, two)]
    assert [record["iteration"] for record in logs[0]] == [record["iteration"] for record in logs[1]]
    psnr = [[record["val/psnr"] for record in log if "val/psnr" in record] for log in logs]
    assert psnr[0] == pytest.approx(psnr[1], abs=1e-2)


def test_two_processes_train_as_one_through_crashes(cli: Cli, folders: Path) -> None:
    """One before there is a state, one with a state."""
    zero = ["--config", "configs/fsrcnn-pcsr-phase0.yaml", "--name", "zero", "--set", *SMALL, "data.scale=[2,4]"]
    assert cli("train_pcsr.py", *zero, "iter_max=2").code == 0
    some = ["iter_max=6", f"init={folders / 'save/zero'}", "data.scale=[2,4]"]
    train = ["--config", "configs/fsrcnn-pcsr-phase1.yaml", "--set", *SMALL, *some, "--name"]
    assert cli("train_pcsr.py", *train, "one").code == 0
    (folders / "save/two").mkdir()
    (folders / "save/two/notes.txt").write_text("taken")
    crashes = "exception:2 SIGKILL:5"
    job = two_processes(folders, "crashing.py", *train, "two", "--max_restarts", 1, CRASHES=crashes)
    assert job.code == 137
    assert job.err.count("Traceback") == 1 and "rank 1 failed:" in job.err and "RuntimeError: a bug" in job.err
    assert job.out.count("save/two-2, iterations 1 to 6") == 2
    assert "rank 0 failed after the signal SIGTERM: RuntimeError: " in job.err
    assert "error: rank 1 was ended by SIGKILL" in job.err
    again = cli("train_pcsr.py", *train, "two-2", "--resume")
    assert again.code == 0 and "save/two-2, iterations 5 to 6" in again.out
    assert_same_run(folders / "save/one", folders / "save/two-2")


def test_a_signal_saves_and_the_validation_is_made_up_for(folders: Path) -> None:
    """The signal goes to every process at once, as schedulers do it, and so to torchrun, which passes it on: each gets
    it twice. CARN's BatchNorm: each process normalises with its own crops, all validate with the statistics of rank 0.
    """
    make_folder(folders / "val", [(40, 44), (48, 40), (44, 44)])
    args = ["--config", ROOT / "configs/carn-x4.yaml", "--name", "run", "--set", *SMALL, "iter_max=9000"]
    job = start_two(folders, ROOT / "train.py", *args, "save_every=9000", "val_every=1")
    assert job.stdout is not None
    while "iteration 3/" not in job.stdout.readline():
        assert job.poll() is None
    os.killpg(job.pid, signal.SIGTERM)
    out, err = job.communicate(timeout=60)
    assert job.returncode == 143 and err.count("\n") == 1 and "stopped by SIGTERM" in err, out + err
    state = max((folders / "save/run/state").iterdir())
    assert f"iteration {int(state.stem)} is saved" in err
    table = folders / "save/run/metrics.csv"
    assert pd.read_csv(table)["iteration"].max() == int(state.stem) - 1
    again = ("--name", "run", "--resume", "--set", "time_limit=0.0001")  # which is used up
    assert two_processes(folders, ROOT / "train.py", *again).code == 0
    model, _ = load_model(folders / "save/run")
    assert isinstance(model, OriginalModel)
    restore = original_restorer(model, torch.device("cpu"))
    rows = evaluate(PairedFolder(str(folders / "val"), None, 4), restore, MeasuringProtocol(4))
    mean = sum(row.psnr for row in rows) / 3
    last = pd.read_csv(table).iloc[-1]
    assert last["iteration"] == int(state.stem) and last["val/psnr"] == pytest.approx(mean, abs=1e-3)


def test_bad_input_is_one_line(folders: Path) -> None:
    args = ["--config", ROOT / "configs/fsrcnn-x4.yaml", "--set", *SMALL, "batch_size=3"]
    refused = two_processes(folders, ROOT / "train.py", *args, "--max_restarts", 1)
    assert (refused.code, refused.err) == (2, "error: data.batch_size: 2 processes do not divide 3\n")
    assert not (folders / "save").exists()
    save_tiny(folders / "tiny", TINY_PCSR)
    (folders / "val/second.png").write_text("the share of rank 1")
    args = ["--model", "tiny", "--hr_data", "val", "--per_image", "--save_images"]
    refused = two_processes(folders, ROOT / "test_pcsr.py", *args)
    assert refused.code == 2 and refused.err.count("\n") == 1
    assert refused.err.startswith("error: rank 1: val/second.png")
    assert not (folders / "results").exists()


@pytest.mark.parametrize(
    "args,message",
    [
        ([], "script"),
        (["train.py", "--cpu", "2"], "train.py: no such script"),
        (["crashing.py"], "--gpu --cpu"),
        (["crashing.py", "--cpu", "0"], "--cpu 0"),
        (["crashing.py", "--cpu", "2", "--gpu", "0"], "not allowed with"),
        (["crashing.py", "--gpu", "0,4711"], "--gpu 0,4711"),
        (["crashing.py", "--cpu", "2", "--max_restarts", "-1"], "--max_restarts -1"),
    ],
)
def test_bad_launches(args: list[str], message: str, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # restored behind the test
    monkeypatch.setattr("sys.argv", ["./dist.sh", *args])
    with pytest.raises(InputError, match=message):
        launch()


def test_a_restart_that_could_not_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MAX_RESTARTS": "1", "USE_AGENT_STORE": "True", "RUN_ID": "none"}.items():
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    with pytest.raises(InputError, match="--rdzv_id"):
        start_ranks("cpu")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    with pytest.raises(InputError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        start_ranks("cpu")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    start_ranks("cpu")


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.dist.pick_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {"WORLD_SIZE": "4", "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"^torchrun --nproc_per_node: there are more processes than GPUs here, 2$"):
        start_ranks("cuda")


def test_a_gpu_of_apple_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.dist.pick_device", torch.device)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="give --device cpu"):
        start_ranks("mps")


def test_evaluation_is_shared_out(cli: Cli, folders: Path) -> None:
    make_folder(folders / "hr", [(61, 83), (48, 40), (52, 44)])
    save_tiny(folders / "tiny", TINY_PCSR)
    args = ["--model", "tiny", "--hr_data", "hr", "--per_image", "--k", 0, 1, "--save_images", "--json", "--out_dir"]
    assert cli("test_pcsr.py", *args, "one").code == 0
    shared = two_processes(folders, ROOT / "test_pcsr.py", *args, "two")
    assert shared.code == 0, shared.err
    assert shared.out.count("written to") == 1 and len(json.loads(shared.out.splitlines()[-1])) == 2
    one, two = (pd.read_csv(folders / name / "images.csv").drop(columns="seconds") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two, rtol=1e-6)
    files = [{path.name: path.read_bytes() for path in (folders / n).rglob("*img_*.png")} for n in ("one", "two")]
    assert len(files[0]) == 6 and files[0].keys() == files[1].keys()


def test_shares_make_up_a_folder(folders: Path) -> None:
    make_folder(folders / "hr", [(40, 40)] * 5)
    shares = [
        [path.name for path in PairedFolder(str(folders / "hr"), None, 4, False, r, 3).hr_paths] for r in (0, 1, 2)
    ]
    assert shares == [["img_0.png", "img_3.png"], ["img_1.png", "img_4.png"], ["img_2.png"]]
    alone = PairedFolder(str(folders / "val"), None, 4, False, 1, 2)
    assert len(alone) == 0 and list(alone) == []
    assert gather(Ranks(0, 1, torch.device("cpu")), "mine") == ["mine"]


def test_synchronised_batchnorm_keeps_names_and_flops(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = OriginalSpec(kind="original", backbone="carn", width=8, scale=4)
    model = build_original(spec)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    flops = network_flops(model)
    synchronised = config_for(spec, sync_bn=True)
    with pytest.raises(InputError, match=r"train\.sync_bn.*CUDA"):
        train(synchronised, nn.Module(), list, Path("never"), TWO, None)  # type: ignore[arg-type]
    task = OriginalTask(model, synchronised.train)
    settle(task, Ranks(0, 1, torch.device("cpu")), synchronised.train)
    assert not any(isinstance(layer, nn.SyncBatchNorm) for layer in model.modules())
    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, "to", lambda *args, **kwargs: None)  # converting needs no GPU, running does
        settle(task, Ranks(0, 2, torch.device("cuda", 0)), synchronised.train)
    assert any(isinstance(layer, nn.SyncBatchNorm) for layer in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.state_dict().keys() == before.keys() and network_flops(model) == flops
