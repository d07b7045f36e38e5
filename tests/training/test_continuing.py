"""A resumed run goes on with its own config, and is told what it may change; what a run reports and keeps."""

import errno
import json
import os
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from models.build import build
from models.checkpoint import load_model
from tests.conftest import ROOT, TINY_PCSR, Cli, config_for, make_folder
from training.command import take_up
from training.describe import duration, part_rows, whole_rows
from training.log import Log
from training.runs import claimed, read_state, states, write_state
from training.validation import open_validation
from utils.dist import Ranks
from utils.errors import InputError
from utils.parse import load_config

CONFIG = ["--config", "configs/fsrcnn-pcsr-phase0.yaml"]
SMALL = ["patch_size=8", "batch_size=4", "data.train=train", "val=val", "iter_max=4", "width=8", "pixels_per_patch=50"]
BEGIN = ["train_pcsr.py", *CONFIG, "--set", *SMALL, "log_every=2", "val_every=2", "save_every=3"]
RESUME = ["train_pcsr.py", "--resume", "--name", "run"]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    make_folder(tmp_path / "train", [(48, 64), (40, 40)])
    make_folder(tmp_path / "val", [(40, 44)])
    return tmp_path


@pytest.fixture
def run(cli: Cli, folders: Path) -> Path:
    """A finished run of four iterations in save/run."""
    assert cli(*BEGIN, "--name", "run").code == 0
    return folders / "save/run"


def rates(folder: Path) -> dict[int, float]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {record["iteration"]: record["train/learning_rate"] for record in records if "train/loss" in record}


def test_a_run_is_resumed_by_its_name_alone(cli: Cli, run: Path) -> None:
    whole = (run / "model.safetensors").read_bytes()
    (run / "state/00000004.pth").unlink()
    assert cli(*RESUME).code == 0
    assert (run / "model.safetensors").read_bytes() == whole
    assert "--config" in cli("train_pcsr.py", "--resume").err
    assert "use train_pcsr.py" in cli("train.py", "--resume", "--name", "run").err


def test_a_run_is_extended(cli: Cli, run: Path) -> None:
    finished = cli(*RESUME)
    assert finished.code == 0 and "all 4 iterations are done" in finished.out and "iter_max=MORE" in finished.out
    assert cli(*RESUME, "--set", "iter_max=8", "log_every=1").code == 0
    assert "iter_max: 8" in (run / "config.yaml").read_text()
    assert rates(run)[5] == pytest.approx(0.5e-3, rel=1e-2) and max(rates(run)) == 8  # half the cosine of eight
    used_up = cli(*RESUME, "--set", "iter_max=1000000", "time_limit=0.0001")
    assert used_up.code == 0 and "time limit of 0.0001 minutes is used up after 8 iterations" in used_up.out
    assert cli(*RESUME, "--set", "iter_max=9", "time_limit=5").code == 0 and max(rates(run)) == 9


@pytest.mark.parametrize(
    "options,named",
    [
        (["--set", "learning_rate=0.5", "log_every=3"], ["train.learning_rate (was 0.001, now 0.5)"]),
        (
            ["--set", "iter_max=3"],
            ["train.iter_max (was 4, now 3): ", "iter_max may only grow; leave out what"],
        ),
        (["--amp"], ["train.amp (was False, now True)"]),
        (["--set", "learning_rat=0.5"], ["learning_rat: unknown key"]),
        ([*CONFIG, "--set", *SMALL[:5]], ["model.width (was 8, now 48)", "train.pixels_per_patch (was 50, now None)"]),
        (
            ["--config", "configs/carn-pcsr-phase0.yaml", "--set", *SMALL],
            ["model.backbone (was fsrcnn, now carn)", ", 1 more: the run in save/run began otherwise; leave out"],
        ),
    ],
)
def test_another_training_is_refused(options: list[str], named: list[str], cli: Cli, run: Path) -> None:
    refused = cli(*RESUME, *options)
    assert refused.code == 2 and refused.err.count("\n") == 1
    assert all(difference in refused.err for difference in named), refused.err
    assert "log_every (was" not in refused.err and len(refused.err) < 300
    assert cli(*RESUME, *CONFIG, "--set", *SMALL).code == 0  # the same as the run's own


def test_a_file_does_not_change_the_length_unsaid(cli: Cli, run: Path) -> None:
    content = (run / "config.yaml").read_text()
    longer = content.replace("iter_max: 4", "iter_max: 9").replace("time_limit: null", "time_limit: 5.0")
    (run.parents[1] / "longer.yaml").write_text(longer.replace("val_every: 2", "val_every: 3"))
    refused = cli(*RESUME, "--config", "longer.yaml")
    assert refused.code == 2 and "iter_max (was 4, now 9), train.time_limit (was None, now 5.0): " in refused.err
    assert "its length may be changed by --set" in refused.err and "only grow" not in refused.err
    assert cli(*RESUME, "--config", "longer.yaml", "--set", "iter_max=9", "time_limit=5").code == 0


def test_the_run_that_was_named_goes_on(cli: Cli, run: Path) -> None:
    assert cli(*BEGIN, "--name", "run", "--set", *SMALL, "seed=1").code == 0
    assert (run.parent / "run-2/model.safetensors").exists()
    for name in ("run", "run-2"):
        assert f"save/{name}: all 4 iterations" in cli(*RESUME[:-1], name).out
    (run.parent / "run").rename(run.parent / "fsrcnn-pcsr-phase0")
    assert "--resume: " in (nothing := cli(*RESUME).err) and "name one of run-2, or begin a new run" in nothing
    by_config = ["train_pcsr.py", *CONFIG, "--resume", "--set", *SMALL]
    assert "save/fsrcnn-pcsr-phase0: all 4 iterations" in cli(*by_config).out
    (run.parent / "run-2").rename(run.parent / "fsrcnn-pcsr-phase0-2")
    several = cli(*by_config)
    assert several.code == 2 and "fsrcnn-pcsr-phase0, fsrcnn-pcsr-phase0-2; name one" in several.err


def test_a_restarted_job_passes_over_a_damaged_state(cli: Cli, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = [*BEGIN, "--name", "run"]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job-1")
    assert cli(*job).code == 0
    run = folders / "save/run"
    whole = (run / "model.safetensors").read_bytes()
    (run / "state/00000004.pth").write_bytes(b"cut")
    with monkeypatch.context() as patch:
        patch.setenv("TORCHELASTIC_RUN_ID", "job-2")
        named = cli(*RESUME)
        assert named.code == 2 and "00000004.pth: not a readable" in named.err and "use the one before" in named.err
    again = cli(*job)
    assert again.code == 0 and again.err.count("\n") == 1 and "00000004.pth: not a readable" in again.err
    assert "from iteration 3 of this run" in again.out and (run / "model.safetensors").read_bytes() == whole
    for path in (run / "state").iterdir():
        path.write_bytes(b"cut")
    assert "save/run/state: no training state in it is readable" in cli(*job).err
    (run / "state/00000003.pth").unlink()
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert "there is no other" in cli(*RESUME).err


def test_the_log_has_what_the_terminal_shows(cli: Cli, folders: Path) -> None:
    falling = ["warmup=5", "schedule=stable", "anneal=0.4", "ema_decay=0.9"]
    first = cli(*BEGIN, "--name", "run", "--set", "log_every=20", "val_every=60", "iter_max=60", *falling)
    resumed = cli(*RESUME, "--set", "iter_max=62")
    lines = (folders / "save/run/log.txt").read_text().splitlines()
    shown = [*first.out.splitlines(), *resumed.out.splitlines()]
    assert lines == [line for line in shown if not line.startswith("decoding")]
    begins = "training PCSR of fsrcnn, phase 0, from random weights into save/run, iterations 1 to 60"
    assert lines[0] == begins and "from iteration 60 of this run" in "".join(lines)
    assert lines[1].startswith("device: cpu; processes: 1")
    assert re.fullmatch(r"model: [\d,]+ parameters, all of them trained", lines[2])
    assert re.search(r"the heavy upsampler: [\d.]+ M \(paper account\), [\d.]+ M \(executed\)", lines[3])
    crops = "2 crops of 8x8 LR pixels, one of each, in 0.5 iterations of 4"
    assert lines[4] == f"data: 2 images in train; an epoch is {crops}"
    rate = "learning rate 0.001 after 5 iterations of warm-up, falling over the last 40 % to 1e-07"
    assert lines[5] == f"recipe: adam, l1 loss; {rate}; weights averaged, decay 0.9"
    (estimate,) = [number for number, line in enumerate(lines) if re.match(r"about \d+ s to go, at", line)]
    assert lines[estimate - 1].startswith("iteration 40/60: loss") and lines[estimate + 1].startswith("iteration 60/60")


def test_the_best_weights_are_kept(cli: Cli, folders: Path) -> None:
    """By validation PSNR: a learning rate far too high is the worse for every iteration."""
    settings = ["--set", *SMALL, "iter_max=8", "log_every=1", "val_every=1", "learning_rate=0.2"]
    assert cli(*BEGIN, "--name", "run", *settings).code == 0
    run = folders / "save/run"
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    values = {record["iteration"]: record["val/psnr"] for record in records if "val/psnr" in record}
    best = max(values, key=lambda iteration: values[iteration])
    assert best < 8
    (kept, spec), (last, _) = load_model(run / "best"), load_model(run)
    assert spec == load_config(run / "best/config.yaml").model
    assert any(not torch.equal(one, other) for one, other in zip(kept.parameters(), last.parameters(), strict=True))
    validate = open_validation(load_config(run / "config.yaml"), Ranks(0, 1, torch.device("cpu")))
    assert validate(kept).means["val/psnr"] == pytest.approx(values[best])


@pytest.mark.parametrize(("phase", "kept"), [(0, [1, 3]), (1, [1, 2, 3])])
def test_in_phase_1_the_newest_weights_are_kept(phase: int, kept: list[int], tmp_path: Path) -> None:
    """The highest PSNR would be that of the most heavy pixels."""
    config = config_for(TINY_PCSR, phase=phase)
    with Log(tmp_path / "run", 0, 0.0, config, Ranks(0, 1, torch.device("cpu"))) as log:
        best: list[int] = []
        for number, psnr in ((1, 30.0), (2, 29.0), (3, 31.0)):
            log.validation(number, {"val/psnr": psnr}, {}, partial(best.append, number))
    assert best == kept
    assert (tmp_path / "run/log.txt").read_text().count("best") == (0 if phase else 2)


def test_the_best_of_other_images_does_not_count(tmp_path: Path) -> None:
    """A resumed run may be validated on other images, whose PSNR says nothing about that of the earlier ones."""
    config = config_for(TINY_PCSR, phase=0)
    kept: list[int] = []
    ranks = Ranks(0, 1, torch.device("cpu"))
    for start, folder in ((0, "val"), (2, "other")):
        data = config.data.model_copy(update={"val": folder})
        with Log(tmp_path / "run", start, 0.0, config.model_copy(update={"data": data}), ranks) as log:
            for number in (start + 1, start + 2):
                log.validation(number, {"val/psnr": 30.0 - number}, {}, partial(kept.append, number))
    assert kept == [1, 3]
    assert (tmp_path / "run/metrics.csv").read_text().splitlines()[0] == "iteration,val/psnr"


def test_two_runs_that_begin_together(tmp_path: Path) -> None:
    run = tmp_path / "save/run"
    with claimed(run, begins=True):
        for begins in (True, False):
            with pytest.raises(InputError, match="run: another process trains there"), claimed(run, begins):
                pass
        (run / "metrics.jsonl").touch()
    with pytest.raises(InputError, match="run: another run has begun there meanwhile"), claimed(run, begins=True):
        pass
    with claimed(run, begins=False):
        assert run.exists()
    with claimed(tmp_path / "other/run", begins=True):
        assert (tmp_path / "other/run").is_dir()
    assert not (tmp_path / "other").exists()  # nothing was written


def test_a_state_that_cannot_be_read_is_not_called_damaged(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(InputError, match=r"00000004\.pth: Input/output error$"):
        read_state(run, restarted=True)


def test_a_state_that_was_passed_over_does_not_replace_a_newer_one(tmp_path: Path) -> None:
    for name in ("00000004.pth", "00000007.pth"):
        (tmp_path / "state").mkdir(exist_ok=True)
        (tmp_path / "state" / name).write_bytes(b"cut")
    write_state(tmp_path, 5, config_for(TINY_PCSR), {}, keep=1)
    assert [path.name for path in states(tmp_path)] == ["00000005.pth"]


def test_layers_in_another_order_are_refused(tmp_path: Path) -> None:
    """Because an optimizer knows the parameters by their place."""
    first, second = nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3)
    model, changed = nn.ModuleDict({"a": first, "b": second}), nn.ModuleDict({"b": second, "a": first})
    take_up(model, {"model": model.state_dict()}, tmp_path)
    with pytest.raises(InputError, match="do not fit this config's network, whose code may have changed"):
        take_up(changed, {"model": model.state_dict()}, tmp_path)


def test_the_time_to_go_does_not_shrink_while_a_validation_runs(tmp_path: Path) -> None:
    log = Log(tmp_path, 0, 100.0, config_for(TINY_PCSR, time_limit=2.0), Ranks(0, 1, torch.device("cpu")))
    log.leave_out(30.0)
    assert log.end == 250.0


def test_copies_beside_the_states_are_no_states(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    for name in ("00000003.pth", "00000010.pth", "keep.pth", "00000003-good.pth"):
        (tmp_path / "state" / name).touch()
    assert [path.name for path in states(tmp_path)] == ["00000003.pth", "00000010.pth"]


@pytest.mark.parametrize("name", ["carn-pcsr-phase1", "carn-x4"])
def test_a_config_is_described(name: str, cli: Cli, folders: Path) -> None:
    script = "train.py" if name == "carn-x4" else "train_pcsr.py"
    described = cli(script, "--config", f"configs/{name}.yaml", "--describe")
    assert described.code == 0 and not (folders / "save").exists()
    figures = {  # the table of published numbers
        "carn-x4": ["294,915 parameters", "1156.45 M"],
        "carn-pcsr-phase1": ["168,970 parameters, 2,745 of them", "477.63 M", "64.88 M", "681.38 M", "22.28 M"],
    }
    assert all(figure in described.out for figure in figures[name]), described.out


def test_the_accounts_of_a_model_add_up() -> None:
    about = config_for(TINY_PCSR), build(TINY_PCSR)
    encoder, light, heavy, classifier = (flops.paper for _, flops in part_rows(*about))
    all_light, all_heavy = (flops.paper for _, flops in whole_rows(*about))
    assert all_light == pytest.approx(encoder + light + classifier)
    assert all_heavy == pytest.approx(encoder + heavy + classifier)


def test_durations() -> None:
    shown = [duration(seconds) for seconds in (12.4, 150, 12_000, 200_000)]
    assert shown == ["12 s", "2 min", "3 h 20 min", "2 d 7 h"]


def test_off_means_the_same_steps(cli: Cli, folders: Path) -> None:
    config = "configs/fsrcnn-pcsr-phase0.yaml"
    assert load_config(ROOT / config).train.grad_clip is None
    train = ["train_pcsr.py", "--config", config, "--set", *SMALL, "val_every=4", "kernels=false"]
    weights = []
    for number, settings in enumerate(([], ["grad_clip=null", "weight_decay=0"], ["grad_clip=1e-3"])):
        assert cli(*train, *settings, "--name", f"run{number}").code == 0
        weights.append((folders / f"save/run{number}/model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]
