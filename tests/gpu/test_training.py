"""Training on a GPU: resumed, moved to another device, compiled, and shared between processes by NCCL."""

import signal
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from models.build import build
from models.checkpoint import load_model
from tests.conftest import ROOT, Cli
from training.log import Log
from training.loop import gradients, settle
from training.tasks import build_task
from utils.dist import Ranks, from_main
from utils.parse import load_config

JOBS = {
    "original": ("train.py", "carn-x4", ["width=8"]),
    "phase 0": ("train_pcsr.py", "softgate-pcsr-phase0", ["options.depth=2", "width=8"]),
    "phase 1": ("train_pcsr.py", "fsrcnn-pcsr-phase1", ["init=zero", "amp=true", "pixels_per_patch=500"]),
}
SMALL = ["patch_size=8", "batch_size=4", "data.train=train", "val=val", "iter_max=8", "time_limit=null"]
SHARE = 0.03  # sums in another order on a CPU give 0.002, a lost state of the optimizer 0.04 to 0.3
RARE = ["log_every=1", "val_every=4", "save_every=3"]


def arguments(job: str, name: str, device: str, *settings: str) -> list[str]:
    script, config, own = JOBS[job]
    options = ["--config", f"configs/{config}.yaml", "--name", name, "--device", device]
    return [script, *options, "--set", *SMALL, *RARE, *own, *settings]


def assert_same_steps(cli: Cli, job: str, device: str, one: Path, two: Path, *settings: str) -> None:
    """Two trainings with these settings have taken the same steps: on a GPU, which takes sums in any order, the weights
    differ by a small share of the way that they have come.
    """
    still = ["iter_max=1", "warmup=0", "learning_rate=1e-12", "learning_rate_min=1e-12"]
    assert cli(*arguments(job, "start", device, *settings, *still)).code == 0
    start, weights, others = (
        torch.cat([part.detach().flatten() for part in load_model(folder)[0].parameters()])
        for folder in (one.parent / "start", one, two)
    )
    apart, way = (weights - others).norm(), (weights - start).norm()
    assert way > 0 and apart <= (0 if device == "cpu" else SHARE) * way


@pytest.mark.parametrize("job", JOBS)
def test_resume(job: str, cli: Cli, folders: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cli(*arguments(job, "whole", device.type))
    assert whole.code == 0 and f"device: {device.type}" in whole.out, whole.err
    steps: list[None] = []

    def advance(self: Log) -> None:
        steps.append(None)
        if len(steps) == 5:
            handler = signal.getsignal(signal.SIGTERM)  # see tests/training/test_resume.py
            assert callable(handler)
            handler(signal.SIGTERM, None)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "advance", advance)
        assert cli(*arguments(job, "run", device.type)).code == 128 + signal.SIGTERM
    assert cli("train_pcsr.py" if job != "original" else "train.py", "--resume", "--name", "run").code == 0
    assert_same_steps(cli, job, device.type, folders / "save/whole", folders / "save/run")


def test_a_state_moves_to_the_cpu(cli: Cli, folders: Path, device: torch.device) -> None:
    assert cli(*arguments("phase 0", "run", device.type)).code == 0
    resumed = cli("train_pcsr.py", "--resume", "--name", "run", "--device", "cpu", "--set", "iter_max=10")
    assert resumed.code == 0, resumed.err
    back = cli("train_pcsr.py", "--resume", "--name", "run", "--device", device.type, "--set", "iter_max=12")
    assert back.code == 0, back.err


@pytest.mark.parametrize("job", ["phase 0", "phase 1"])
def test_compiled(job: str, cli: Cli, folders: Path, device: torch.device) -> None:
    if device.type == "cpu":
        pytest.skip("on a CPU it takes a minute")
    settings = ["amp=false", "data.scale=4", "data.top_share=0"]  # each scale would be compiled by itself
    plain = cli(*arguments(job, "plain", device.type, *settings))
    assert plain.code == 0, plain.err
    compiled = cli(*arguments(job, "compiled", device.type, *settings, "compile=true"))
    assert compiled.code == 0, compiled.err
    assert_same_steps(cli, job, device.type, folders / "save/plain", folders / "save/compiled", *settings)


@pytest.mark.parametrize("job", ["x4", "pcsr-phase0", "pcsr-phase1"])
def test_gradients_of_a_job(job: str, tmp_path: Path, device: torch.device) -> None:
    """The backends of a job with one process: NCCL on CUDA, gloo beside it for what lies on the CPU."""
    spec = load_config(ROOT / f"configs/carn-{job}.yaml", ["train.accumulation=2"]).train
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{tmp_path}/store",
        rank=0,
        world_size=1,
    )
    try:
        ranks = Ranks(0, 1, device)
        model = build(load_config(ROOT / f"configs/carn-{job}.yaml").model)
        task = build_task(spec, model, ranks)
        settle(task, ranks, spec)
        lr, hr = torch.rand(4, 3, 8, 8, device=device), torch.rand(4, 3, 32, 32, device=device)
        gradients(task, lr, hr, spec)
        expected = {name: part.grad.clone() for name, part in task.named_parameters() if part.grad is not None}
        task.zero_grad()
        gradients(DistributedDataParallel(task), lr, hr, spec)
        for name, part in task.named_parameters():
            if part.grad is not None:
                torch.testing.assert_close(part.grad, expected[name], rtol=1e-3, atol=1e-4)
        two = Ranks(0, 2, device)  # as one of two: the sums go through the backends
        assert two.mean(torch.ones(3, device=device)).tolist() == [0.5] * 3
        assert two.any(True) and from_main(ranks, lambda: 1) == 1
    finally:
        distributed.destroy_process_group()
