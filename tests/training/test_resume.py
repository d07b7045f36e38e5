"""A run that is stopped, however roughly, and resumed ends where the uninterrupted run ends, bit by bit."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch.utils._pytree import tree_leaves

from models.checkpoint import load_model
from tests.conftest import ROOT, Cli, Outcome
from training.log import Log
from utils.errors import InputError
from utils.parse import read_yaml

JOBS = {
    "original": ("train.py", "carn-x4", ["width=8"]),
    "phase 0": ("train_pcsr.py", "fsrcnn-pcsr-phase0", ["ema_decay=0.9", "accumulation=2", "pixels_per_patch=500"]),
    "phase 1": ("train_pcsr.py", "fsrcnn-pcsr-phase1", ["init=zero", "amp=true"]),
    "many scales": ("train_pcsr.py", "fsrcnn-pcsr-phase0-multiscale", ["accumulation=2"]),
    "muon": ("train_pcsr.py", "carn-pcsr-phase0", ["width=8", "optimizer=muon", "loss=mse", "ema_decay=0.9"]),
}
SMALL = ["patch_size=8", "batch_size=4", "data.train=train", "val=val", "iter_max=8"]
RARE = ["log_every=1", "val_every=4", "save_every=3"]
SIGNALLED = """
import importlib, os, runpy, signal, sys
import skimage.metrics, torch._dynamo, training.command  # once for all, as they take as long as such a training

def signal_in(module, name, call, number):
    *above, last = name.split(".")
    place = importlib.import_module(module)
    for each in above:
        place = getattr(place, each)
    original, seen = getattr(place, last), 0
    def counting(*args):
        nonlocal seen
        seen += 1
        if seen == call:
            os.kill(os.getpid(), number)
        return original(*args)
    setattr(place, last, counting)

for when, arguments in {runs!r}:
    if (child := os.fork()) == 0:
        signal_in(*when)
        sys.argv = arguments
        runpy.run_path({script!r}, run_name="__main__")
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def arguments(job: str, name: str = "run") -> list[str]:
    script, config, settings = JOBS[job]
    return [script, "--config", f"configs/{config}.yaml", "--name", name, "--set", *SMALL, *RARE, *settings]


def at_iteration(number: int, monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Do something once, after the step of an iteration."""
    seen = 0

    def advance(self: Log) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            do()

    monkeypatch.setattr(Log, "advance", advance)


def assert_same_run(one: Path, two: Path) -> None:
    for name in ("model.safetensors", "metrics.jsonl", "metrics.csv", "best/model.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    one_state, two_state = (torch.load(folder / "state/00000008.pth", weights_only=True) for folder in (one, two))
    assert one_state.pop("seconds") > 0 and two_state.pop("seconds") > 0
    leaves, others = tree_leaves(one_state), tree_leaves(two_state)
    assert len(leaves) == len(others) > 20
    for leaf, other in zip(leaves, others, strict=True):
        assert torch.equal(leaf, other) if isinstance(leaf, torch.Tensor) else leaf == other


@pytest.mark.parametrize("job", JOBS)
def test_signals(job: str, cli: Cli, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli(*arguments(job, "whole")).code == 0
    for number in (signal.SIGTERM, signal.SIGINT) if job == "original" else (signal.SIGTERM,):
        run, before = folders / "save" / number.name, signal.getsignal(number)
        with monkeypatch.context() as patch:
            # the handler is called: a library loaded by another test may leave no stack for real signals
            at_iteration(5, patch, lambda number=number: signal.getsignal(number)(number, None))  # type: ignore
            stopped = cli(*arguments(job, run.name))
        assert stopped.code == 128 + number and stopped.err.count("\n") == 1
        assert f"stopped by {number.name}" in stopped.err and "iteration 5" in stopped.err and "--resume" in stopped.err
        assert [path.name for path in sorted((run / "state").iterdir())] == ["00000004.pth", "00000005.pth"]
        assert signal.getsignal(number) == before
        assert cli(*arguments(job, run.name), "--resume").code == 0
        assert_same_run(folders / "save/whole", run)


def signalled(work: Path, moments: Mapping[str, tuple[str, str, int, int]]) -> tuple[list[int], str]:
    """Runs of phase 0 by name, in processes of their own, which send themselves a signal in a call of a function.

    Returns their exit codes, which for a signal that ended them are negative, and what they wrote on stderr.
    """
    script = arguments("phase 0")[0]
    runs = [(moment, arguments("phase 0", name)) for name, moment in moments.items()]
    code = SIGNALLED.format(script=str(ROOT / script), runs=runs)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    return [int(line) for line in done.stdout.splitlines() if line.lstrip("-").isdigit()], done.stderr


def test_real_signals(cli: Cli, folders: Path) -> None:
    assert cli(*arguments("phase 0", "whole")).code == 0
    torn = {  # the part of a file that was never given its name, by the call of fsync
        # a checkpoint syncs config, weights and state, a validation the config and weights of the best and its table
        8: "best/.*",
        9: ".metrics.csv.*",
        11: ".model.safetensors.*",  # within a later write of weights
        12: "state/.*",  # and of a state
        17: "best/.*",  # in the last validation, which follows the state
        18: ".metrics.csv.*",
    }
    moments = {name: ("training.log", "Log.advance", 5, int(signal.Signals[name])) for name in ("SIGTERM", "SIGKILL")}
    moments |= {str(call): ("os", "fsync", call, int(signal.SIGKILL)) for call in torn}
    codes, told = signalled(folders, moments)
    assert codes == [128 + signal.SIGTERM, *[-signal.SIGKILL] * (1 + len(torn))], told
    assert told.count("stopped by SIGTERM") == 1
    for name, (_, place, call, _) in moments.items():
        run = folders / "save" / name
        kept = [6, 8] if call > 15 else [4, 5] if name == "SIGTERM" else [3, 4]
        assert sorted(int(path.stem) for path in (run / "state").glob("*.pth")) == kept
        assert place != "fsync" or len(list(run.glob(torn[call]))) == 1
        (run / ".config.yaml.swp").touch()  # an editor's
        assert cli(*arguments("phase 0", run.name), "--resume").code == 0
        assert_same_run(folders / "save/whole", run)
        assert [path.name for place in (".", "state", "best") for path in (run / place).glob(".*")] == [
            ".config.yaml.swp"
        ]


def test_a_stop_does_not_wait_for_a_validation(cli: Cli, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is told to stop in a validating iteration saves only; one that fails as it validates has saved.

    Both make up for the validation when they are resumed.
    """
    assert cli(*arguments("phase 0", "whole")).code == 0
    with monkeypatch.context() as patch:
        at_iteration(4, patch, lambda: signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None))  # type: ignore
        assert cli(*arguments("phase 0")).code == 128 + signal.SIGTERM
    run = folders / "save/run"
    assert (run / "state/00000004.pth").exists() and "val/psnr" not in (run / "metrics.jsonl").read_text()
    with monkeypatch.context() as patch:

        def fails(self: Log, iteration: int, *rest: object) -> None:
            if iteration == 8:
                raise InputError("no memory")
            before(self, iteration, *rest)  # type: ignore[arg-type]

        before = Log.validation
        patch.setattr(Log, "validation", fails)
        assert "no memory" in cli(*arguments("phase 0"), "--resume").err
    assert (run / "state/00000008.pth").exists()
    for _ in range(2):  # the second time nothing is left to do
        assert "all 8 iterations are done" in cli(*arguments("phase 0"), "--resume").out
        assert_same_run(folders / "save/whole", run)


@pytest.mark.parametrize("room,name", [(20_000, "model.safetensors"), (200_000, "state/00000006.pth")])
def test_full_disk(room: int, name: str, cli: Cli, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        at_iteration(5, patch, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard)))
        full = cli(*arguments("phase 0"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert full.code == 2 and full.err.count("\n") == 1
    assert full.err.startswith(f"error: cannot write save/run/{name}: ")
    assert sorted(path.name for path in (folders / "save/run/state").iterdir()) == ["00000003.pth", "00000004.pth"]
    assert cli(*arguments("phase 0"), "--resume").code == 0


def test_another_config_is_refused(cli: Cli, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli(*arguments("phase 0")).code == 0
    refused = cli(*arguments("phase 0"), "learning_rate=0.5", "ema_decay=0.8", "log_every=3", "--resume")
    assert refused.code == 2 and refused.err.count("\n") == 1
    assert "train.learning_rate (was 0.001, now 0.5)" in refused.err
    assert "train.ema_decay (was 0.9, now 0.8)" in refused.err and "log_every" not in refused.err
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", Mock(side_effect=MemoryError))
        refused = cli(*arguments("phase 0"), "--resume")
        assert refused.code == 2 and "00000008.pth: needs more memory than there is" in refused.err
    for damage in (b"cut", b"\x80\x02}q\x00."):  # not a checkpoint at all, and an empty dict
        (folders / "save/run/state/00000008.pth").write_bytes(damage)
        damaged = cli(*arguments("phase 0"), "--resume")
        assert damaged.code == 2 and damaged.err.count("\n") == 1
        assert "00000008.pth: not a readable training state" in damaged.err
    for name in ("some/where", "..", ""):
        assert "plain folder name" in cli(*arguments("phase 0", name)).err


ENCODER = """
from torch import nn


class Encoder(nn.Sequential):
    def __init__(self, width: int, dilation: int = 1, depth: int = 1) -> None:
        layers = [nn.Conv2d(width, width, 3, 1, dilation, dilation) for _ in range(depth)]
        super().__init__(nn.Conv2d(3, width, 3, padding=1), *layers)
"""


def test_a_default_of_the_network_has_changed_since(cli: Cli, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run keeps the options with which it began; code that its weights do not fit is an error."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # compiled code of the same second would be taken

    def train(code: str, *more: str) -> Outcome:
        (folders / "net.py").write_text(code)
        sys.modules.pop("net", None)
        return cli(*more)

    resume = ("train_pcsr.py", "--name", "run", "--resume", "--set")
    assert train(ENCODER, *arguments("phase 0"), "backbone=net:Encoder").code == 0
    more = train(ENCODER.replace("dilation: int = 1", "dilation: int = 2"), *resume, "iter_max=9")
    assert more.code == 0, more.err
    assert read_yaml(folders / "save/run/config.yaml")["model"]["options"] == {"dilation": 1, "depth": 1}
    more = train(ENCODER.replace("3, padding=1)", "5, padding=2)"), *resume, "iter_max=10")
    assert more.code == 2 and more.err.count("\n") == 1 and "do not fit this config's network" in more.err


def test_a_finished_run_and_phase1_without_phase0(cli: Cli, folders: Path) -> None:
    assert cli(*arguments("phase 1")).code == 0
    weights = (folders / "save/run/model.safetensors").read_bytes()
    finished = cli(*arguments("phase 1"), "--resume")
    assert finished.code == 0 and "save/run: all 8 iterations are done" in finished.out
    (folders / "save/run/state/00000008.pth").unlink()
    (folders / "zero/model.safetensors").unlink()  # the state has its weights
    assert cli(*arguments("phase 1"), "--resume").code == 0
    assert (folders / "save/run/model.safetensors").read_bytes() == weights


def test_the_average_is_shipped(cli: Cli, folders: Path) -> None:
    assert cli(*arguments("phase 0")).code == 0
    state = torch.load(folders / "save/run/state/00000008.pth", weights_only=True)
    weights, _ = load_model(folders / "save/run")
    assert all(torch.equal(tensor, state["average"][name]) for name, tensor in weights.state_dict().items())
    moving = [name for name, tensor in state["model"].items() if not torch.equal(tensor, state["average"][name])]
    assert len(moving) > 10
    records = [json.loads(line) for line in (folders / "save/run/metrics.jsonl").read_text().splitlines()]
    assert len([record for record in records if "val/psnr" in record]) == 2


def test_accumulation_keeps_the_gradients(cli: Cli, folders: Path) -> None:
    """FSRCNN has no BatchNorm, so that the parts of a batch know nothing of each other."""

    def gradients(name: str, *settings: str) -> list[torch.Tensor]:
        """Adam's first moments after one iteration: a tenth of the gradients."""
        everything = [word for word in arguments("phase 0", name) if not word.startswith("pixels")]
        assert cli(*everything, "iter_max=1", *settings).code == 0
        state = torch.load(folders / f"save/{name}/state/00000001.pth", weights_only=True)
        return [entry["exp_avg"] for entry in state["optimizers"][0]["state"].values()]

    for one, four in zip(gradients("one", "accumulation=1"), gradients("four", "accumulation=4"), strict=True):
        torch.testing.assert_close(one, four, rtol=1e-4, atol=1e-8)
    uneven = cli(*arguments("phase 0", "uneven"), "accumulation=3")
    assert uneven.code == 2 and "train.accumulation" in uneven.err
