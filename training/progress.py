"""What a training run shows while it runs: a bar in a terminal, lines elsewhere."""

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm


class Progress:
    """Counts iterations from `start` to `total`; silent unless `active`, which rank 0 is."""

    def __init__(self, name: str, start: int, total: int, active: bool) -> None:
        terminal = active and sys.stderr.isatty()
        self.bar = tqdm(initial=start, total=total, desc=name, unit="it", disable=not terminal)
        self.lines = active and not terminal
        self.active = active
        self.total = total
        self.last = (start, time.perf_counter())

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *raised: object) -> None:
        self.bar.close()

    def advance(self) -> None:
        """After each iteration."""
        self.bar.update()

    def losses(self, iteration: int, losses: Mapping[str, float]) -> None:
        """Show the loss, and in lines the iterations per second since the last line."""
        self.bar.set_postfix(loss=f"{losses['train/loss']:.4f}")
        if self.lines:
            (before, then), now = self.last, time.perf_counter()
            speed = (iteration - before) / (now - then)
            print(f"iteration {iteration}/{self.total}: loss {losses['train/loss']:.4f}, {speed:.2f} it/s", flush=True)
            self.last = (iteration, now)

    def validation(self, iteration: int, means: Mapping[str, float]) -> None:
        """Show a validation, whose time does not count as training."""
        if self.active:
            shown = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
            self.bar.write(f"iteration {iteration}: {shown}")
            sys.stdout.flush()
        self.last = (iteration, time.perf_counter())
