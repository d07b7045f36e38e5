"""What a run reports: metrics.jsonl, metrics.csv and TensorBoard on disk, a bar in a terminal, lines elsewhere."""

import json
import sys
import time
from pathlib import Path

import pandas as pd
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from training.runs import mark_job
from utils.errors import InputError
from utils.files import write_atomic


class Log:
    """The reports on the iterations after `start` up to `total`; silent unless `active`, as rank 0 is.

    Nothing is made on disk before the first scalar, so that a run that cannot start leaves no trace.
    """

    def __init__(self, folder: Path, start: int, total: int, active: bool) -> None:
        self.folder, self.start, self.total, self.active = folder, start, total, active
        self.lines = folder / "metrics.jsonl"
        self.board: SummaryWriter | None = None
        self.terminal = active and sys.stderr.isatty()
        self.bar = tqdm(initial=start, total=total, desc=folder.name, unit="it", disable=not self.terminal)
        self.last = (start, time.perf_counter())  # what the speed is counted from

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *raised: object) -> None:
        self.bar.close()
        if self.board is not None:
            self.board.close()

    def advance(self) -> None:
        """To be called after each iteration."""
        self.bar.update()

    def losses(self, iteration: int, losses: dict[str, float], rate: float) -> None:
        """Losses, of which `loss` is shown, and the learning rate."""
        scalars = {f"train/{name}": value for name, value in losses.items()}
        self.write(iteration, {**scalars, "train/learning_rate": rate})
        self.bar.set_postfix(loss=f"{losses['loss']:.4f}")
        if self.active and not self.terminal:
            (before, then), now = self.last, time.perf_counter()
            speed = (iteration - before) / (now - then)
            print(f"iteration {iteration}/{self.total}: loss {losses['loss']:.4f}, {speed:.2f} it/s", flush=True)
            self.last = (iteration, now)

    def validation(self, iteration: int, means: dict[str, float]) -> None:
        """The means of a validation; metrics.csv has those of all validations so far."""
        self.write(iteration, means)
        if self.active:
            records = pd.read_json(self.lines, lines=True)
            columns = [name for name in records.columns if name == "iteration" or name.startswith("val/")]
            table = records[columns].dropna(thresh=2)
            write_atomic(self.folder / "metrics.csv", table.to_csv(index=False, float_format="%.4f").encode())
            self.bar.write(f"iteration {iteration}: " + ", ".join(f"{name} {means[name]:.4f}" for name in means))
            sys.stdout.flush()
        self.last = (iteration, time.perf_counter())  # the time of a validation is no training

    def write(self, iteration: int, scalars: dict[str, float]) -> None:
        """Append to the logs on disk. Raises InputError if they cannot be written."""
        if not self.active:
            return
        try:
            board = self.board or self.open_board()
            with self.lines.open("a") as file:
                file.write(json.dumps({"iteration": iteration, **scalars}) + "\n")
            for name, value in scalars.items():
                board.add_scalar(name, value, iteration)
        except OSError as error:
            raise InputError(f"cannot write the logs in {self.folder}: {error.strerror}") from None

    def open_board(self) -> SummaryWriter:
        """Make the folder; drop from its logs what came after iteration `start`, because this run repeats it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        mark_job(self.folder)
        if self.lines.exists():
            *whole, _ = self.lines.read_text().split("\n")  # behind the last line end stands what a crash cut short
            kept = [line for line in whole if json.loads(line)["iteration"] <= self.start]
            write_atomic(self.lines, "".join(line + "\n" for line in kept).encode())
        self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.start + 1)
        return self.board
