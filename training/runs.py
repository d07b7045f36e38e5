"""A training run's folder under save/: resumable states, logs, weights. Nothing in it is ever replaced by another run.

save/<name>/model.safetensors, config.yaml, metrics.csv   what is shipped
save/<name>/state/00012000.pth                            resumable training states, the last few
save/<name>/metrics.jsonl, tensorboard/                   logs
save/<name>/job                                           torchrun's name for the job that writes here
"""

import io
import json
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from models.checkpoint import SAVE
from utils.config import Config
from utils.dist import job_id
from utils.errors import InputError
from utils.files import write_atomic

STATE = "state"
JOB = "job"
# what a resumed run may change: it decides what is logged, kept and how fast, not what is learnt
CHANGEABLE = {
    *("data.val", "data.cache_dir"),
    *("train.time_limit", "train.log_every", "train.val_every", "train.save_every", "train.keep_checkpoints"),
}


def states(folder: Path) -> list[Path]:
    """Resumable states in a run's folder, oldest first."""
    return sorted((folder / STATE).glob("*.pth"))


def new_run(name: str) -> Path:
    """A folder for a fresh run: the first of save/name, save/name-2, save/name-3 ... that holds nothing yet."""
    folders = chain([SAVE / name], (SAVE / f"{name}-{number}" for number in count(2)))
    return next(folder for folder in folders if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())))


def runs(name: str) -> list[Path]:
    """All folders of a name: save/name and save/name-N."""
    numbered = re.compile(re.escape(name) + r"(-\d+)?")
    return [folder for folder in SAVE.glob("*") if numbered.fullmatch(folder.name)]


def mark(folder: Path) -> None:
    """Leave the job's name, by which a restart finds the folder."""
    if job := job_id():
        write_atomic(folder / JOB, job.encode())


def begun_run(name: str) -> Path | None:
    """The folder that this job wrote to before torchrun restarted it, if it came that far."""
    marks = (folder / JOB for folder in runs(name))
    return next((mark.parent for mark in marks if mark.is_file() and mark.read_text() == job_id()), None)


def resumed_run(name: str) -> Path:
    """The folder of a name, save/name or save/name-N, with the newest state. Raises InputError if there is none."""
    resumable = [folder for folder in runs(name) if states(folder)]
    if not resumable:
        raise InputError(f"--resume: no state under {SAVE / name}/{STATE}; start without --resume")
    return max(resumable, key=lambda folder: states(folder)[-1].stat().st_mtime)


@dataclass(frozen=True)
class State:
    """The parts of a run that a resumed one takes up again. Generators are none: see training.engine.train."""

    model: nn.Module
    average: nn.Module | None
    optimizers: Sequence[Optimizer]

    def dump(self, seconds: float) -> dict[str, Any]:
        average = self.average.state_dict() if self.average else None
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        model = self.model.state_dict()
        return {"seconds": seconds, "model": model, "average": average, "optimizers": optimizers}

    def load(self, state: dict[str, Any]) -> tuple[int, float]:
        """Take up what `read_state` returned; returns its iteration and the seconds of training until then."""
        self.model.load_state_dict(state["model"])
        if self.average:
            self.average.load_state_dict(state["average"])
        for optimizer, content in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(content)
        return int(state["iteration"]), float(state.get("seconds", 0.0))


def write_state(folder: Path, iteration: int, config: Config, state: dict[str, Any], keep: int) -> None:
    """Write a resumable state atomically and drop all but the last `keep`."""
    mark(folder)
    buffer = io.BytesIO()
    torch.save({"iteration": iteration, "config": config.model_dump_json(), **state}, buffer)
    write_atomic(folder / STATE / f"{iteration:08d}.pth", buffer.getvalue())
    for old in states(folder)[:-keep]:
        old.unlink()
    for cut_short in (*folder.glob(".*.*.*"), *(folder / STATE).glob(".*.pth.*")):  # by a process that was killed
        cut_short.unlink()


def read_state(folder: Path, config: Config) -> dict[str, Any]:
    """The newest state. Raises InputError if it is damaged or was made by another config, naming the keys."""
    path = states(folder)[-1]
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        before = flatten(json.loads(state["config"]))
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError, ValueError):
        raise InputError(f"{path}: not a readable training state; delete it to use the one before") from None
    now = flatten(config.model_dump(mode="json"))
    keys = (before.keys() | now.keys()) - CHANGEABLE
    changed = sorted(key for key in keys if before.get(key) != now.get(key))
    if changed:
        differences = ", ".join(f"{key} (was {before.get(key)}, now {now.get(key)})" for key in changed)
        raise InputError(
            f"--resume: {folder}, the newest run of its name, was trained with another config: {differences}; "
            "give the same, or move that folder away to go on with an older run"
        )
    return state


def flatten(content: dict[str, Any]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, keys in content.items() for key, value in keys.items()}


class Log:
    """Scalars to metrics.jsonl and TensorBoard; validation results also to metrics.csv. Silent off rank 0.

    Nothing is made on disk before the first scalar, so that a run that cannot start leaves no trace.
    """

    def __init__(self, folder: Path, active: bool, start: int) -> None:
        self.folder = folder
        self.active = active
        self.start = start
        self.board: SummaryWriter | None = None

    def forget_after(self, iteration: int) -> None:
        """A resumed run repeats what came after its state: drop those lines, and one that a crash cut short."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            *whole, _ = path.read_text().split("\n")
            lines = [line for line in whole if json.loads(line)["iteration"] <= iteration]
            write_atomic(path, "".join(line + "\n" for line in lines).encode())

    def write(self, iteration: int, scalars: dict[str, float]) -> None:
        """Append to the logs. Raises InputError if they cannot be written."""
        if not self.active:
            return
        try:
            if self.board is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                mark(self.folder)
                self.forget_after(self.start)
                self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.start + 1)
            with (self.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"iteration": iteration, **scalars}) + "\n")
            for name, value in scalars.items():
                self.board.add_scalar(name, value, iteration)
        except OSError as error:
            raise InputError(f"cannot write the logs in {self.folder}: {error.strerror}") from None

    def write_validation(self, iteration: int, means: dict[str, float]) -> None:
        """Append to the logs, and to metrics.csv, which has every validation so far."""
        self.write(iteration, means)
        if not self.active:
            return
        records = pd.read_json(self.folder / "metrics.jsonl", lines=True)
        columns = [name for name in records.columns if name == "iteration" or name.startswith("val/")]
        table = records[columns].dropna(thresh=2)
        write_atomic(self.folder / "metrics.csv", table.to_csv(index=False, float_format="%.4f").encode())

    def close(self) -> None:
        if self.board is not None:
            self.board.close()
