"""Stopping a long job on request: SIGTERM and SIGINT (Ctrl-C) let it finish what it is at and save."""

import signal
from types import FrameType

from utils.errors import StoppedError


class StopRequest:
    """While entered, the first signal only sets `signal`; the second acts as it does without us."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __enter__(self) -> "StopRequest":
        self.before = {number: signal.signal(number, self.note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self.restore()

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __exit__(self, *raised: object) -> None:
        self.restore()

    def stopped(self, remedy: str) -> StoppedError:
        """What to raise once everything is saved."""
        name = self.signal.name if self.signal else "another process"
        return StoppedError(f"stopped by {name}; {remedy}", self.signal or signal.SIGTERM)
