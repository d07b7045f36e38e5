"""A training run's folder under save/: resumable states, logs, weights. Nothing in it is ever replaced by another run.

save/<name>/model.safetensors, config.yaml, metrics.csv   what is shipped
save/<name>/state/00012000.pth                            resumable training states, the last few
save/<name>/metrics.jsonl, tensorboard/                   logs
"""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.utils.tensorboard import SummaryWriter

from utils.checkpoint import WEIGHTS
from utils.config import Config
from utils.errors import InputError
from utils.files import write_atomic

SAVE = Path("save")
STATE = "state"


def states(folder: Path) -> list[Path]:
    """Resumable states in a run's folder, oldest first."""
    return sorted((folder / STATE).glob("*.pth"))


def attempts(name: str) -> list[Path]:
    """The folders of a name that hold something: save/name, save/name-2, ..."""
    found = [SAVE / name]
    while (following := SAVE / f"{name}-{len(found) + 1}").exists():
        found.append(following)
    return [folder for folder in found if (folder / WEIGHTS).exists() or states(folder)]


def new_run(name: str) -> Path:
    """A folder for a fresh run: save/name, or the next free save/name-N if that holds weights or states."""
    taken = attempts(name)
    return SAVE / (f"{name}-{len(taken) + 1}" if taken else name)


def resumed_run(name: str) -> Path:
    """The newest folder of a name with a state to resume from. Raises InputError if there is none."""
    resumable = [folder for folder in attempts(name) if states(folder)]
    if not resumable:
        raise InputError(f"--resume: no state under {SAVE / name}/{STATE}; start without --resume")
    return resumable[-1]


def write_state(folder: Path, iteration: int, state: dict[str, Any], keep: int) -> None:
    """Write a resumable state atomically and drop all but the last `keep`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(folder / STATE / f"{iteration:08d}.pth", buffer.getvalue())
    for old in states(folder)[:-keep]:
        old.unlink()


def read_state(folder: Path, config: Config) -> dict[str, Any]:
    """The newest state. Raises InputError if it is damaged or was made by another config, naming the keys."""
    path = states(folder)[-1]
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: not a readable training state ({error}); delete it to use the one before") from None
    before, now = flatten(json.loads(state["config"])), flatten(config.model_dump(mode="json"))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        raise InputError(f"--resume: {folder} was trained with other values of {', '.join(changed)}")
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
        """A resumed run repeats what came after its state: drop those lines."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if json.loads(line)["iteration"] <= iteration]
            write_atomic(path, "".join(line + "\n" for line in lines).encode())

    def write(self, iteration: int, scalars: dict[str, float]) -> None:
        if not self.active:
            return
        if self.board is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.forget_after(self.start)
            self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.start)
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"iteration": iteration, **scalars}) + "\n")
        for name, value in scalars.items():
            self.board.add_scalar(name, value, iteration)

    def write_table(self) -> None:
        """metrics.csv: every validation so far."""
        if not self.active:
            return
        records = pd.read_json(self.folder / "metrics.jsonl", lines=True)
        columns = [name for name in records.columns if name == "iteration" or name.startswith("val/")]
        table = records[columns].dropna(thresh=2)
        write_atomic(self.folder / "metrics.csv", table.to_csv(index=False, float_format="%.4f").encode())

    def close(self) -> None:
        if self.board is not None:
            self.board.close()
