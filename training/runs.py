"""A training run's folder under save/ and the states in it. Nothing in it is ever replaced by another run.

save/<name>/model.safetensors, config.yaml, metrics.csv   what is shipped
save/<name>/state/00012000.pth                            resumable training states, the last few
save/<name>/metrics.jsonl, tensorboard/                   logs, see training/log.py
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

import torch
from torch import nn
from torch.optim import Optimizer

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


def choose_run(name: str, resume: bool) -> tuple[Path, bool]:
    """A training command's run folder, and whether to go on from the newest state in it.

    A job that torchrun restarts keeps the folder it began with, whether or not it came as far as writing a state.
    Raises InputError if there is nothing to resume.
    """
    numbered = re.compile(re.escape(name) + r"(-\d+)?")
    runs = [folder for folder in SAVE.glob("*") if numbered.fullmatch(folder.name)]
    for folder in runs:
        if (folder / JOB).is_file() and (folder / JOB).read_text() == job_id():
            return folder, bool(states(folder))
    if not resume:
        return new_run(name), False
    resumable = [folder for folder in runs if states(folder)]
    if not resumable:
        raise InputError(f"--resume: no state under {SAVE / name}/{STATE}; start without --resume")
    return max(resumable, key=lambda folder: states(folder)[-1].stat().st_mtime), True


def new_run(name: str) -> Path:
    """A folder for a fresh run: the first of save/name, save/name-2, save/name-3 ... that holds nothing yet."""
    folders = chain([SAVE / name], (SAVE / f"{name}-{number}" for number in count(2)))
    return next(folder for folder in folders if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())))


def mark_job(folder: Path) -> None:
    """Leave the job's name, by which a restart finds the folder."""
    if job := job_id():
        write_atomic(folder / JOB, job.encode())


def states(folder: Path) -> list[Path]:
    """Resumable states in a run's folder, oldest first."""
    return sorted((folder / STATE).glob("*.pth"))


@dataclass(frozen=True)
class State:
    """What a resumed run takes up again. Random generators are not in it: training.engine seeds each iteration."""

    model: nn.Module
    average: nn.Module | None
    optimizers: Sequence[Optimizer]

    def dump(self, seconds: float) -> dict[str, Any]:
        """Everything, and the seconds of training until now."""
        average = self.average.state_dict() if self.average else None
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        return {"seconds": seconds, "model": self.model.state_dict(), "average": average, "optimizers": optimizers}

    def load(self, begun: dict[str, Any]) -> tuple[int, float]:
        """Take up what `read_state` returned; returns its iteration and the seconds of training until then."""
        self.model.load_state_dict(begun["model"])
        if self.average:
            self.average.load_state_dict(begun["average"])
        for optimizer, content in zip(self.optimizers, begun["optimizers"], strict=True):
            optimizer.load_state_dict(content)
        return int(begun["iteration"]), float(begun.get("seconds", 0.0))


def write_state(folder: Path, iteration: int, config: Config, content: dict[str, Any], keep: int) -> None:
    """Write a resumable state atomically and delete all but the last `keep`. Raises InputError if the disk is full."""
    mark_job(folder)
    buffer = io.BytesIO()
    torch.save({"iteration": iteration, "config": config.model_dump_json(), **content}, buffer)
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
    """Keys of the sections as `section.key`."""
    return {f"{section}.{key}": value for section, keys in content.items() for key, value in keys.items()}
