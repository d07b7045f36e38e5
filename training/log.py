"""The logs of a run on disk: metrics.jsonl and TensorBoard, and metrics.csv with the validations."""

import json
from pathlib import Path

import pandas as pd
from torch.utils.tensorboard import SummaryWriter

from training.runs import mark_job
from utils.errors import InputError
from utils.files import write_atomic


class Log:
    """Writes scalars, on rank 0 (`active`) alone; `start` is the iteration of the state that a run goes on from.

    Nothing is made on disk before the first scalar, so that a run that cannot start leaves no trace.
    """

    def __init__(self, folder: Path, active: bool, start: int) -> None:
        self.folder = folder
        self.active = active
        self.start = start
        self.lines = folder / "metrics.jsonl"
        self.board: SummaryWriter | None = None

    def write(self, iteration: int, scalars: dict[str, float]) -> None:
        """Append to the logs. Raises InputError if they cannot be written."""
        if not self.active:
            return
        try:
            board = self.board or self.open()
            with self.lines.open("a") as file:
                file.write(json.dumps({"iteration": iteration, **scalars}) + "\n")
            for name, value in scalars.items():
                board.add_scalar(name, value, iteration)
        except OSError as error:
            raise InputError(f"cannot write the logs in {self.folder}: {error.strerror}") from None

    def open(self) -> SummaryWriter:
        """Make the folder, or drop from its logs what came after the state, which this run repeats."""
        self.folder.mkdir(parents=True, exist_ok=True)
        mark_job(self.folder)
        if self.lines.exists():
            *whole, _ = self.lines.read_text().split("\n")  # behind the last line end stands what a crash cut short
            kept = [line for line in whole if json.loads(line)["iteration"] <= self.start]
            write_atomic(self.lines, "".join(line + "\n" for line in kept).encode())
        self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.start + 1)
        return self.board

    def write_validation(self, iteration: int, means: dict[str, float]) -> None:
        """Append to the logs, and write metrics.csv anew with every validation so far."""
        self.write(iteration, means)
        if not self.active:
            return
        records = pd.read_json(self.lines, lines=True)
        columns = [name for name in records.columns if name == "iteration" or name.startswith("val/")]
        table = records[columns].dropna(thresh=2)
        write_atomic(self.folder / "metrics.csv", table.to_csv(index=False, float_format="%.4f").encode())

    def close(self) -> None:
        if self.board is not None:
            self.board.close()
