"""The reports of a run: lines for people and log.txt; numbers in metrics.jsonl, metrics.csv and TensorBoard; pictures.

A terminal shows a bar instead of the lines about losses.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from evaluation.tables import write_csv
from training.describe import duration
from training.runs import PICTURES, mark_job
from training.validation import is_best
from utils.config import Config
from utils.device import synchronize
from utils.dist import Ranks
from utils.encode import write_image
from utils.errors import InputError, StoppedError
from utils.files import write_atomic
from utils.image import Array

# The remaining time is estimated from the speed between these iterations; the first ones are slow (memory, kernels).
WARM, ESTIMATED = 10, 50


class Log:
    """The reports on the iterations after `start`; only rank 0 makes any.

    `began` is the time of the start on the clock time.monotonic, less the seconds that the run had taken before.
    Nothing is written to the disk before the first number, so that a run that cannot start leaves no trace.
    """

    def __init__(self, folder: Path, start: int, began: float, config: Config, ranks: Ranks) -> None:
        spec = config.train
        self.folder, self.start, self.total, self.active = folder, start, spec.iter_max, ranks.main
        self.device, self.iteration = ranks.device, start
        self.spec = spec
        self.images = json.dumps([config.data.val, config.data.val_lr])  # a resumed run may have others
        self.end = began + 60 * spec.time_limit if spec.time_limit else math.inf
        self.lines = folder / "metrics.jsonl"
        self.unwritten: list[str] = []  # lines for log.txt
        self.board: SummaryWriter | None = None
        self.terminal = self.active and sys.stderr.isatty()
        self.bar = tqdm(initial=start, total=self.total, desc=folder.name, unit="it", disable=not self.terminal)
        self.last = (start, time.perf_counter())  # iteration and time from which the speed is counted
        self.warm = 0.0  # when the slow first iterations were over

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.bar.close()
        if self.board is not None:
            self.board.close()
        if self.active and (self.folder / "config.yaml").exists():  # something is saved
            if isinstance(error, InputError | StoppedError):
                self.unwritten.append(str(error))
            with suppress(InputError):
                self.write_lines()

    def advance(self) -> None:
        """To be called after each iteration; an early one estimates how long the rest will take."""
        self.bar.update()
        self.iteration += 1
        done = self.iteration - self.start
        if self.active and done in (WARM, ESTIMATED):
            synchronize(self.device)
            now = time.monotonic()
            if done == WARM:
                self.warm = now
            elif self.iteration < self.total:
                speed = (ESTIMATED - WARM) / (now - self.warm)
                left = max(0.0, min((self.total - self.iteration) / speed, self.end - now))
                self.say(f"about {duration(left)} to go, at {speed:.2f} it/s and without validations")

    def losses(self, iteration: int, losses: dict[str, float], rate: float) -> None:
        """Log the losses, of which `loss` is shown too, and the learning rate."""
        scalars = {f"train/{name}": value for name, value in losses.items()}
        self.write(iteration, {**scalars, "train/learning_rate": rate})
        self.bar.set_postfix(loss=f"{losses['loss']:.4f}")
        (before, then), now = self.last, time.perf_counter()
        speed = (iteration - before) / (now - then)
        shown = not self.terminal  # where the bar shows it
        self.say(f"iteration {iteration}/{self.total}: loss {losses['loss']:.4f}, {speed:.2f} it/s", shown)
        self.last = (iteration, now)

    def validation(
        self, iteration: int, means: dict[str, float], pictures: dict[str, Array], save_best: Callable[[], None]
    ) -> None:
        """Log the means of a validation; metrics.csv has those of all so far.

        `save_best` is called if it is the best so far (is_best) on its images. The pictures, (H,W,3) uint8 by name,
        replace earlier ones of the same names. The line in metrics.jsonl comes last, as it tells that all is written.
        """
        if self.active:
            with self.errors_named():
                board = self.board or self.begin_files()
            for name, pixels in pictures.items():
                write_image(self.folder / PICTURES / f"{name}.png", pixels)
                tag = f"{PICTURES}/{name}".encode(errors="backslashreplace").decode()  # of bytes that no UTF-8 has
                board.add_image(tag, pixels, iteration, dataformats="HWC")
            before = [record for record in self.records() if "val/psnr" in record]
            # older runs did not say on which images
            comparable = [each["val/psnr"] for each in before if each.get("images", self.images) == self.images]
            best = is_best(self.spec, means["val/psnr"], comparable)
            if best:
                save_best()
            table = pd.DataFrame([*before, {"iteration": iteration, **means}])
            columns = [name for name in table.columns if name == "iteration" or name.startswith("val/")]
            write_csv(self.folder / "metrics.csv", table[columns], "%.4f")
            values = ", ".join(f"{name} {means[name]:.4f}" for name in means)
            self.say(f"iteration {iteration}: {values}" + ", the best so far" * (best and self.spec.phase != 1))
        self.write(iteration, means, images=self.images)

    def leave_out(self, seconds: float) -> None:
        """Do not count the seconds of a validation as training."""
        iteration, then = self.last
        self.last = (iteration, then + seconds)
        self.warm += seconds
        self.end += seconds

    def records(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl on the disk; the last one may have been cut short by a crash, and is left out."""
        *whole, _ = self.lines.read_text().split("\n") if self.lines.exists() else [""]
        return [json.loads(line) for line in whole]

    def lacks_validation(self, iteration: int) -> bool:
        """Whether the logs on the disk have no validation of an iteration."""
        return not any(record["iteration"] == iteration and "val/psnr" in record for record in self.records())

    def say(self, line: str, shown: bool = True) -> None:
        """A line for the terminal, if `shown`, and for log.txt."""
        if not self.active:
            return
        if shown:
            self.bar.write(line)
            sys.stdout.flush()
        self.unwritten.append(line)
        if self.board is not None:
            self.write_lines()

    def write_lines(self) -> None:
        """Append new lines to log.txt. Raises InputError if it cannot be written."""
        with self.errors_named(), (self.folder / "log.txt").open("a", errors="backslashreplace") as file:
            file.writelines(f"{line}\n" for line in self.unwritten)
        self.unwritten.clear()

    @contextmanager
    def errors_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"cannot write the logs in {self.folder}: {error.strerror}") from None

    def write(self, iteration: int, scalars: dict[str, float], **texts: str) -> None:
        """Append to the logs on disk; TensorBoard gets no texts. Raises InputError if they cannot be written."""
        if not self.active:
            return
        with self.errors_named():
            board = self.board or self.begin_files()
            with self.lines.open("a") as file:
                file.write(json.dumps({"iteration": iteration, **scalars, **texts}) + "\n")
            for name, value in scalars.items():
                board.add_scalar(name, value, iteration)

    def begin_files(self) -> SummaryWriter:
        """Drop the iterations after `start` from the logs, because this run repeats them, and open TensorBoard."""
        mark_job(self.folder)
        if self.lines.exists():
            kept = [json.dumps(record) for record in self.records() if record["iteration"] <= self.start]
            write_atomic(self.lines, "".join(line + "\n" for line in kept).encode())
        self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.start + 1)
        return self.board
