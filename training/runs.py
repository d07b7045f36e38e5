"""A training run's folder under save/ and the states in it. Nothing in it is ever replaced by another run.

save/<name>/model.safetensors, config.yaml, metrics.csv   the files that are shipped
save/<name>/best/                                         weights and config of the best validation so far, in phase 1
                                                          of the newest
save/<name>/val/                                          pictures of the newest validation, if they are asked for
save/<name>/state/00012000.pth                            resumable training states, the last few
save/<name>/log.txt, metrics.jsonl, tensorboard/          logs, see training/log.py
save/<name>/job                                           torchrun's name for the job that writes here
"""

import fcntl
import io
import json
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from models.checkpoint import SAVE
from utils.cli import tell
from utils.config import Config
from utils.dist import job_id
from utils.errors import InputError, refused_memory
from utils.files import unfinished, write_atomic
from utils.parse import checked

STATE = "state"
BEST = "best"
PICTURES = "val"
JOB = "job"
PARTS = {"iteration": int, "model": dict, "optimizers": list}  # a state has at least these


def numbered_runs(name: str) -> list[Path]:
    """The folders save/name, save/name-2 ... that exist, in any order."""
    numbered = re.compile(re.escape(name) + r"(-\d+)?")
    return [folder for folder in SAVE.glob("*") if numbered.fullmatch(folder.name)]


def job_folder(name: str) -> Path | None:
    """The folder to which this job wrote before torchrun started it again."""
    marks = [folder / JOB for folder in numbered_runs(name)]
    return next((mark.parent for mark in marks if is_ours(mark)), None)


def is_ours(mark: Path) -> bool:
    """Whether a file holds the name of this job."""
    return mark.is_file() and mark.read_text() == job_id()


def new_run(name: str) -> Path:
    """A folder for a fresh run: the first of save/name, save/name-2, save/name-3 ... that holds nothing yet."""
    folders = chain([SAVE / name], (SAVE / f"{name}-{number}" for number in count(2)))
    return next(folder for folder in folders if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())))


@contextmanager
def claimed(folder: Path, begins: bool) -> Iterator[None]:
    """Within, a run's folder exists and no other process trains there; afterwards it is gone if nothing is in it.

    Raises InputError if another process trains there; and for a run that `begins`, if another has left something there.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    held, taken = os.open(folder, os.O_RDONLY), False
    try:
        with suppress(OSError):  # a file system that knows no locks
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                about = "another process trains there; wait for it, or give another --name"
                raise InputError(f"{folder}: {about}") from None
        taken = True
        if begins and any(folder.iterdir()) and not is_ours(folder / JOB):
            raise InputError(f"{folder}: another run has begun there meanwhile; start this one again")
        for place in (folder, folder / BEST, folder / STATE, *(folder / PICTURES).glob("**/")):
            for path in unfinished(place):  # left by a process that was killed
                path.unlink(missing_ok=True)
        yield
    finally:
        for place in made if taken else ():
            with suppress(OSError):  # it is not empty
                place.rmdir()
        os.close(held)


def mark_job(folder: Path) -> None:
    """Leave the job's name, by which a restart finds the folder."""
    if job := job_id():
        write_atomic(folder / JOB, job.encode())


def states(folder: Path) -> list[Path]:
    """Resumable states in a run's folder, oldest first."""
    return sorted(path for path in (folder / STATE).glob("*.pth") if path.stem.isdecimal())


@dataclass(frozen=True)
class State:
    """The state from which a run is resumed. It holds no random generators: training.loop seeds each iteration."""

    model: nn.Module
    average: nn.Module | None
    optimizers: Sequence[Optimizer]

    def dump(self, seconds: float) -> dict[str, Any]:
        """The content of a state file; `seconds` is the training time until now."""
        average = self.average.state_dict() if self.average else None
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        return {"seconds": seconds, "model": self.model.state_dict(), "average": average, "optimizers": optimizers}

    def load(self, begun: dict[str, Any]) -> tuple[int, float]:
        """Take up what `read_state` returned, but for the model's weights; returns its iteration, and the seconds of
        training until then.

        Raises InputError if it does not fit the optimizers.
        """
        if self.average:
            self.average.load_state_dict(begun["average"])
        try:
            for optimizer, content in zip(self.optimizers, begun["optimizers"], strict=True):
                optimizer.load_state_dict(content)
        except ValueError:
            about = "the optimizers of the training state do not fit this network, or are those of an earlier version"
            raise InputError(f"{about}; begin a new run from its weights by train.init") from None
        return int(begun["iteration"]), float(begun.get("seconds", 0.0))


def write_state(folder: Path, iteration: int, config: Config, content: dict[str, Any], keep: int) -> None:
    """Write a resumable state atomically and delete all but the last `keep`. Raises InputError if the disk is full."""
    mark_job(folder)
    buffer = io.BytesIO()
    torch.save({"iteration": iteration, "config": config.model_dump_json(), **content}, buffer)
    write_atomic(folder / STATE / f"{iteration:08d}.pth", buffer.getvalue())
    for path in states(folder):  # those that a restarted job could not read, and passed over
        if int(path.stem) > iteration:
            path.unlink()
    for old in states(folder)[:-keep]:
        old.unlink()


def read_state(folder: Path, restarted: bool) -> tuple[Config, dict[str, Any]]:
    """The newest state and the config it was made with. Raises InputError if it is damaged or cannot be read.

    A job that was started again goes on from the newest that is whole, as nobody may be there to read the error; but it
    does not pass over one that the disk does not give, as that may be whole.
    """
    *before, newest = states(folder)
    for path in (newest, *reversed(before)):
        try:
            stored = io.BytesIO(path.read_bytes())
        except OSError as error:  # the file may be whole, and only the disk or its permissions fail
            raise InputError(f"{path}: {error.strerror}") from None
        try:
            with zipfile.ZipFile(stored) as archive:
                if archive.testzip() is not None:  # the checksums, which torch does not read
                    raise ValueError("damaged")
            stored.seek(0)
            state: dict[str, Any] = torch.load(stored, map_location="cpu", weights_only=True)
            content = json.loads(state["config"])
            if not all(isinstance(state[key], kind) for key, kind in PARTS.items()):
                raise ValueError("of another kind")
        except Exception as error:  # a damaged file trips torch anywhere
            if refused_memory(error):  # the file may be whole
                raise InputError(f"{path}: needs more memory than there is") from None
            if not restarted:
                remedy = "to use the one before" if before else "and begin a new run, as there is no other"
                raise InputError(f"{path}: not a readable training state; delete it {remedy}") from None
            tell(f"{path}: not a readable training state; the one before is used")
            continue
        return checked(Config, content, f"config {path}"), state
    raise InputError(f"{folder / STATE}: no training state in it is readable; delete it to begin again")
